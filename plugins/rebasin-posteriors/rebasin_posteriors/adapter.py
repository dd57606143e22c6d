"""Conversion of states of the library posteriors to posteriors of rebasin_core, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, final

import torch
from typing_extensions import override

from rebasin_core import Posterior, PosteriorAdapter
from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors import AbstractWriteBack, DiagonalGaussianPosterior, PointPosterior, SamplesPosterior
from rebasin_core.tensors.checks import require_same_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from rebasin_core import Permutation

# A state of the library, which is not imported.
State: TypeAlias = Any
_GAUSSIAN = {
    "posteriors.vi.diag.VIDiagState": ("log_sd_diag", torch.exp),
    "posteriors.laplace.diag_fisher.DiagLaplaceState": ("prec_diag", torch.rsqrt),
    "posteriors.laplace.diag_ggn.DiagLaplaceState": ("prec_diag", torch.rsqrt),
    "posteriors.ekf.diag_fisher.EKFDiagState": ("sd_diag", torch.abs),
}
_POINT = (
    "posteriors.sgmcmc.sgld.SGLDState",
    "posteriors.sgmcmc.sghmc.SGHMCState",
    "posteriors.sgmcmc.sgnht.SGNHTState",
    "posteriors.sgmcmc.baoa.BAOAState",
)


@final
class StateAdapter(PosteriorAdapter, AbstractWriteBack):
    """Adapter for states: diagonal Gaussians for diagonal methods, point masses for the current sample of a chain."""

    handles: ClassVar[tuple[str, ...]] = (*_GAUSSIAN, *_POINT)

    @override
    def to_posterior(self, source: object, *, model: nn.Module | None = None) -> Posterior:
        state: Any = source
        mean = _tensors(state.params)
        buffers = {} if model is None else {n: t.detach().clone() for n, t in model.named_buffers()}
        fixed = {} if model is None else {n: t.detach().clone() for n, t in model.named_parameters() if n not in mean}
        if _name(source) in _POINT:
            return PointPosterior({**mean, **fixed}, buffers=buffers)
        field, function = _GAUSSIAN[_name(source)]
        stddev = {name: function(tensor) for name, tensor in _tensors(getattr(state, field)).items()}
        return DiagonalGaussianPosterior(mean, stddev, buffers=buffers, fixed=fixed)

    @override
    def write_back(self, source: object, posterior: Posterior, *, model: nn.Module | None = None) -> None:
        state: Any = source
        gaussian = _name(source) == "posteriors.vi.diag.VIDiagState"
        kind = DiagonalGaussianPosterior if gaussian else PointPosterior
        if not (gaussian or _name(source) == "posteriors.sgmcmc.sgld.SGLDState") or not isinstance(posterior, kind):
            message = (
                "expected a state of diagonal variational inference and a 'diagonal_gaussian' posterior, or a state of "
                f"SGLD and a 'point' posterior, got {_name(source)} and {posterior.kind!r}; permute the state of "
                "another sampler with `permute_state`"
            )
            raise InvalidInputError(message)
        mean, stddev = posterior.mean, posterior.stddev
        require_same_names(state.params, mean, "the posterior, compared with the state,")
        with torch.no_grad():
            for name, tensor in mean.items():
                state.params[name].copy_(tensor)
                if gaussian:
                    state.log_sd_diag[name].copy_(stddev[name].log())


def samples_of(states: Sequence[object], *, model: nn.Module | None = None, chain: int = 0) -> SamplesPosterior:
    """Return the empirical distribution of the states of a chain.

    Args:
        states: States of a sampler, sorted by time, at least one.
        model: Network whose buffers the posterior gets; no buffers if None.
        chain: Index of the chain, default 0.

    Returns:
        The posterior samples.

    Raises:
        InvalidInputError: If there are no states, or the names of their parameters differ.
    """
    points = [_tensors(getattr(state, "params", {})) for state in states]
    if not points or any(point.keys() != points[0].keys() for point in points):
        message = f"expected states over the same parameters, got {len(points)}"
        raise InvalidInputError(message)
    buffers = {} if model is None else {n: t.detach().clone() for n, t in model.named_buffers()}
    return SamplesPosterior(
        {name: torch.stack([point[name] for point in points]) for name in points[0]},
        chains=torch.full((len(points),), chain),
        buffers=buffers,
    )


def permute_state(state: State, permutation: Permutation) -> State:
    """Permute parameters, standard deviations, momenta and all other tensors of a state that belong to parameters.

    Args:
        state: A state of the library; not changed.
        permutation: Permutation whose layout contains the parameters.

    Returns:
        The permuted state. The state of an optimizer (in variational inference) is not permuted; reinitialize it.
    """
    permuted = state.clone()
    names = set(_tensors(state.params))
    for field in state.__dataclass_fields__ if hasattr(state, "__dataclass_fields__") else vars(state):
        value = getattr(state, field, None)
        if isinstance(value, dict) and set(value) == names:
            for name, tensor in permutation.apply(_tensors(value)).items():
                getattr(permuted, field)[name] = tensor
    return permuted


def _name(source: object) -> str:
    return f"{type(source).__module__}.{type(source).__qualname__}"


def _tensors(tree: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tree.items()}
