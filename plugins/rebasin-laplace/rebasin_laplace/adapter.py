"""From fitted Laplace objects to posteriors, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, final

import torch
from typing_extensions import override

from rebasin_core import Posterior, PosteriorAdapter
from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors import (
    AbstractGaussianPosterior,
    AbstractWriteBack,
    DiagonalGaussianPosterior,
    FullGaussianPosterior,
    GaussianPrior,
    KroneckerGaussianPosterior,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

# Objects of laplace-torch, which is not imported for them.
Laplace: TypeAlias = Any
_MODULE = "laplace.baselaplace"
_LAST = "laplace.lllaplace"
# How far eigenvalues may be from the object's own, relative to the largest, for the object to hold them.
_SAME = 1e-4


@final
class LaplaceAdapter(PosteriorAdapter, AbstractWriteBack):
    """Diagonal, Kronecker-factored and full Laplace posteriors of laplace-torch, over all weights or the last layer.

    Parameters without Laplace (below a last layer, or without gradients) are fixed; they and the buffers move with the
    others, and are written back with them. Temperature, noise scale and prior precision are part of what is read.
    """

    handles: ClassVar[tuple[str, ...]] = (
        f"{_MODULE}.DiagLaplace",
        f"{_MODULE}.KronLaplace",
        f"{_MODULE}.FullLaplace",
        f"{_LAST}.DiagLLLaplace",
        f"{_LAST}.KronLLLaplace",
        f"{_LAST}.FullLLLaplace",
    )

    @override
    def to_posterior(self, source: object, *, model: nn.Module | None = None) -> Posterior:
        laplace: Laplace = source
        structure = _structure(laplace)
        network = _network(laplace)
        shapes = _random_shapes(laplace)
        mean = _named(laplace.mean, shapes)
        rest: dict[str, Any] = {
            "fixed": {n: t.detach().clone() for n, t in network.named_parameters() if n not in mean},
            "buffers": {n: t.detach().clone() for n, t in network.named_buffers()},
        }
        if structure == "Kron":
            return _kronecker(laplace, mean, rest)
        rest["prior"] = _prior(laplace, shapes)
        if structure == "Diag":
            return DiagonalGaussianPosterior(mean, _named(laplace.posterior_variance.sqrt(), shapes), **rest)
        return FullGaussianPosterior.from_covariance(mean, laplace.posterior_covariance.detach(), **rest)

    @override
    def write_back(self, source: object, posterior: Posterior, *, model: nn.Module | None = None) -> None:
        laplace: Laplace = source
        before = self.to_posterior(source)
        if type(posterior) is not type(before) or not _same_parameters(before, posterior):
            message = (
                f"{type(source).__name__} holds a {before.kind!r} posterior over {list(_random_shapes(laplace))}, got a"
                f"  {posterior.kind!r} one; give what `as_posterior` gave for it, moved"
            )
            raise InvalidInputError(message)
        state = dict(laplace.state_dict())
        names = list(_random_shapes(laplace))
        state["prior_precision"] = _moved_precision(laplace, posterior, names)
        state["H"] = _curvature(laplace, posterior, names, state["prior_precision"])
        mean = posterior.mean
        state["mean"] = torch.cat([mean[name].flatten() for name in names]).to(laplace.mean)
        own = torch.is_tensor(laplace.prior_mean) and laplace.prior_mean.numel() > 1
        if own and posterior.prior is not None:
            state["prior_mean"] = _flat_prior(posterior.prior.mean, posterior.mean, names)
        held = state.pop("data", None)
        if "_last_layer_name" in state:
            # With data, loading looks for the last layer, and fails since it is known already.
            laplace.load_state_dict({**state, "data": None})
            laplace.data = held
        else:
            laplace.load_state_dict(state)
        # Without this the GLM predictive, which linearises around the network, is silently another one.
        _set_network(_network(laplace), {**posterior.mean, **posterior.buffers})


def _same_parameters(first: Posterior, second: Posterior) -> bool:
    names = [set(q.random_names) for q in (first, second) if isinstance(q, AbstractGaussianPosterior)]
    return len(names) == 2 and names[0] == names[1]


def _structure(laplace: Laplace) -> str:
    name = type(laplace).__name__.replace("LLLaplace", "").replace("Laplace", "")
    if name not in {"Diag", "Kron", "Full"}:
        message = f"expected a diagonal, Kronecker-factored or full Laplace object, got {type(laplace).__name__}"
        raise InvalidInputError(message)
    if getattr(laplace, "H", None) is None or not getattr(laplace, "n_data", 0):
        message = f"this {type(laplace).__name__} has not been fitted; call its `fit` first"
        raise InvalidInputError(message)
    if not hasattr(laplace, "_H_factor") or (name == "Kron" and not hasattr(laplace, "H_facs")):
        message = "this Laplace object lacks attributes of laplace-torch 0.3; install laplace-torch>=0.3"
        raise InvalidInputError(message)
    return name


def _network(laplace: Laplace) -> nn.Module:
    """Return the deterministic network, without the wrapper that last-layer Laplace puts around it."""
    network: nn.Module = laplace.model.model if hasattr(laplace.model, "_last_layer_name") else laplace.model
    return network


def _random_shapes(laplace: Laplace) -> dict[str, torch.Size]:
    """Return the shapes of the parameters that Laplace is over, in its flat order."""
    network = _network(laplace)
    prefix = getattr(laplace.model, "_last_layer_name", None)
    return {
        name: parameter.shape
        for name, parameter in network.named_parameters()
        if (parameter.requires_grad if prefix is None else name.rpartition(".")[0] == prefix)
    }


def _named(flat: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    sizes = [shape.numel() for shape in shapes.values()]
    if flat.numel() != sum(sizes):
        message = f"the Laplace object is over {flat.numel()} numbers, the network's parameters are {sum(sizes)}"
        raise InvalidInputError(message)
    pieces = flat.detach().split(sizes)
    return {name: piece.reshape(shape).clone() for piece, (name, shape) in zip(pieces, shapes.items(), strict=True)}


def _prior(laplace: Laplace, shapes: Mapping[str, torch.Size]) -> GaussianPrior:
    stddev = _named(laplace.prior_precision_diag.rsqrt(), shapes)
    centre = laplace.prior_mean
    flat = centre if torch.is_tensor(centre) else torch.as_tensor(float(centre or 0.0)).to(laplace.mean)
    mean = _named(flat.expand_as(laplace.mean), shapes)
    # What is one number for a whole tensor is kept as one: it does not move.
    one = {n: t.flatten()[0].clone() if bool((t == t.flatten()[0]).all()) else t for n, t in stddev.items()}
    centres = {n: t.flatten()[0].clone() if bool((t == t.flatten()[0]).all()) else t for n, t in mean.items()}
    return GaussianPrior(centres, one)


def _kronecker(laplace: Laplace, mean: dict[str, Tensor], rest: dict[str, Any]) -> KroneckerGaussianPosterior:
    precision = laplace.posterior_precision
    if precision.damping:
        message = "damped Kronecker factors are not known here; fit with damping=False"
        raise InvalidInputError(message)
    left = {}
    right = {}
    scale = {}
    blocks = zip(mean, precision.eigenvalues, precision.eigenvectors, precision.deltas, strict=True)
    for name, values, vectors, delta in blocks:
        shape = mean[name].shape
        outer = values[0] if len(values) == 1 else values[0][:, None] * values[1]
        scale[name] = (outer + delta).rsqrt().detach()
        left[name] = vectors[0].T.detach().clone()
        if len(values) > 1:
            right[name] = vectors[1].T.detach().reshape(-1, *shape[1:]).clone()
        elif len(shape) > 1:
            message = f"`{name}` of shape {tuple(shape)} has a single Kronecker factor; expected two"
            raise InvalidInputError(message)
    return KroneckerGaussianPosterior(mean, left, right, scale, **rest)


def _curvature(laplace: Laplace, posterior: Posterior, names: list[str], prior_precision: Tensor) -> object:
    """Return the likelihood's curvature, as the object keeps it, that gives a posterior."""
    factor = laplace._H_factor  # ruff: ignore[private-member-access] - nothing public holds it
    if isinstance(posterior, KroneckerGaussianPosterior):
        return _factors(laplace, posterior, names)
    count = laplace.mean.numel()
    added = prior_precision.expand(count) if prior_precision.numel() in {1, count} else laplace.prior_precision_diag
    if isinstance(posterior, DiagonalGaussianPosterior):
        spread = posterior.stddev
        stddev = torch.cat([spread[name].flatten() for name in names])
        if not bool((stddev > 0).all()):
            message = "a Laplace object cannot hold a standard deviation of zero; expected positive ones"
            raise InvalidInputError(message)
        return (stddev.square().reciprocal() - added) / factor
    if not isinstance(posterior, FullGaussianPosterior):
        message = f"a full Laplace object cannot hold a {posterior.kind!r} posterior"
        raise InvalidInputError(message)
    rows = posterior.flat_root(names)
    return (torch.linalg.inv(rows.T @ rows) - torch.diag(added)) / factor


def _factors(laplace: Laplace, posterior: KroneckerGaussianPosterior, names: list[str]) -> list[list[Tensor]]:
    """Return the Kronecker factors with the object's eigenvalues in the posterior's bases."""
    own = LaplaceAdapter().to_posterior(laplace)
    kept = own.scale if isinstance(own, KroneckerGaussianPosterior) else {}
    scale = posterior.scale
    left = posterior.left
    right = posterior.right
    found: list[list[Tensor]] = []
    for place, name in enumerate(names):
        mine = scale[name]
        theirs = kept[name]
        if mine.shape != theirs.shape or not torch.allclose(mine, theirs, rtol=_SAME, atol=_SAME * theirs.max().item()):
            message = (
                f"the standard deviations of `{name}` in its eigenbasis are not those of the Laplace object, which can "
                "hold factors only; write back what was read from it and moved"
            )
            raise InvalidInputError(message)
        values = laplace.H.eigenvalues[place]
        bases = [left[name], *([right[name].flatten(1)] if len(values) > 1 else [])]
        found.append([basis.T @ (value[:, None] * basis) for value, basis in zip(values, bases, strict=True)])
    return found


def _moved_precision(laplace: Laplace, posterior: Posterior, names: list[str]) -> Tensor:
    """Return the prior precision: moved if every parameter has its own."""
    precision: Tensor = laplace.prior_precision
    if precision.numel() == laplace.mean.numel() > 1 and posterior.prior is not None:
        return _flat_prior(posterior.prior.stddev, posterior.mean, names).square().reciprocal()
    return precision


def _flat_prior(part: Mapping[str, Tensor], mean: Mapping[str, Tensor], names: list[str]) -> Tensor:
    return torch.cat([part[name].expand_as(mean[name]).flatten() for name in names])


def _set_network(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in {**dict(network.named_parameters()), **dict(network.named_buffers())}.items():
            tensor.copy_(tensors[name])
