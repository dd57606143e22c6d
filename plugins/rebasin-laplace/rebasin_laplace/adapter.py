"""Conversion of fitted Laplace objects to posteriors, and back."""

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

# Objects of laplace-torch, which is not imported.
Laplace: TypeAlias = Any
_MODULE = "laplace.baselaplace"
_LAST = "laplace.lllaplace"
# Relative tolerance for the standard deviations in the eigenbasis, which writing back must not change.
_TOLERANCE = 1e-4


@final
class LaplaceAdapter(PosteriorAdapter, AbstractWriteBack):
    """Adapter for diagonal, Kronecker-factored and full Laplace approximations, over all weights or the last layer.

    Parameters that are not part of the approximation (below a last layer, or without gradients) are fixed. They and the
    buffers are permuted with the other parameters, and written back. The posterior includes the temperature, the noise
    scale and the prior precision of the object.

    References:
        E. Daxberger et al. (2021), "Laplace redux: effortless Bayesian deep learning", NeurIPS, arXiv 2106.14806.
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
                f"expected a {before.kind!r} posterior over {list(_random_shapes(laplace))} for "
                f"{type(source).__name__}, got a {posterior.kind!r} posterior; pass the result of `as_posterior`, "
                "permuted"
            )
            raise InvalidInputError(message)
        state = dict(laplace.state_dict())
        names = list(_random_shapes(laplace))
        state["prior_precision"] = _permuted_precision(laplace, posterior, names)
        state["H"] = _curvature(laplace, posterior, names, state["prior_precision"])
        mean = posterior.mean
        state["mean"] = torch.cat([mean[name].flatten() for name in names]).to(laplace.mean)
        has_mean_tensor = torch.is_tensor(laplace.prior_mean) and laplace.prior_mean.numel() > 1
        if has_mean_tensor and posterior.prior is not None:
            state["prior_mean"] = _flat_prior(posterior.prior.mean, posterior.mean, names)
        data = state.pop("data", None)
        if "_last_layer_name" in state:
            # With data, `load_state_dict` searches for the last layer, and fails because it is already set.
            laplace.load_state_dict({**state, "data": None})
            laplace.data = data
        else:
            laplace.load_state_dict(state)
        # The GLM predictive linearizes the network at its weights: without this line it would change silently.
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
        message = f"expected a fitted {type(laplace).__name__}, got one that is not fitted; call its `fit`"
        raise InvalidInputError(message)
    if not hasattr(laplace, "_H_factor") or (name == "Kron" and not hasattr(laplace, "H_facs")):
        message = "expected an object of laplace-torch 0.3 or newer, got one without its attributes"
        raise InvalidInputError(message)
    return name


def _network(laplace: Laplace) -> nn.Module:
    """Return the deterministic network, without the wrapper of last-layer Laplace."""
    network: nn.Module = laplace.model.model if hasattr(laplace.model, "_last_layer_name") else laplace.model
    return network


def _random_shapes(laplace: Laplace) -> dict[str, torch.Size]:
    """Return the shapes of the parameters in the approximation, in the order of its flat vectors."""
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
        message = f"expected {sum(sizes)} parameters as in the network, got {flat.numel()} in the Laplace object"
        raise InvalidInputError(message)
    pieces = flat.detach().split(sizes)
    return {name: piece.reshape(shape).clone() for piece, (name, shape) in zip(pieces, shapes.items(), strict=True)}


def _prior(laplace: Laplace, shapes: Mapping[str, torch.Size]) -> GaussianPrior:
    stddev = _named(laplace.prior_precision_diag.rsqrt(), shapes)
    prior_mean = laplace.prior_mean
    flat = prior_mean if torch.is_tensor(prior_mean) else torch.as_tensor(float(prior_mean or 0.0)).to(laplace.mean)
    mean = _named(flat.expand_as(laplace.mean), shapes)
    return GaussianPrior(_as_scalars(mean), _as_scalars(stddev))


def _as_scalars(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with constant ones replaced by scalars, which permutations leave unchanged."""
    return {n: t.flatten()[0].clone() if bool((t == t.flatten()[0]).all()) else t for n, t in tensors.items()}


def _kronecker(laplace: Laplace, mean: dict[str, Tensor], rest: dict[str, Any]) -> KroneckerGaussianPosterior:
    precision = laplace.posterior_precision
    if precision.damping:
        message = "expected Kronecker factors without damping, got damped ones; fit with damping=False"
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
            message = f"expected two Kronecker factors for `{name}` of shape {tuple(shape)}, got one"
            raise InvalidInputError(message)
    return KroneckerGaussianPosterior(mean, left, right, scale, **rest)


def _curvature(laplace: Laplace, posterior: Posterior, names: list[str], prior_precision: Tensor) -> object:
    """Return the Hessian of the likelihood for which the object has the given posterior."""
    factor = laplace._H_factor  # ruff: ignore[private-member-access] - not public elsewhere
    if isinstance(posterior, KroneckerGaussianPosterior):
        return _factors(laplace, posterior, names)
    count = laplace.mean.numel()
    added = prior_precision.expand(count) if prior_precision.numel() in {1, count} else laplace.prior_precision_diag
    if isinstance(posterior, DiagonalGaussianPosterior):
        by_name = posterior.stddev
        stddev = torch.cat([by_name[name].flatten() for name in names])
        if not bool((stddev > 0).all()):
            message = "expected positive standard deviations for a Laplace object, got a zero one"
            raise InvalidInputError(message)
        return (stddev.square().reciprocal() - added) / factor
    if not isinstance(posterior, FullGaussianPosterior):
        message = f"expected a 'full_gaussian' posterior for a full Laplace object, got {posterior.kind!r}"
        raise InvalidInputError(message)
    rows = posterior.flat_root(names)
    return (torch.linalg.inv(rows.T @ rows) - torch.diag(added)) / factor


def _factors(laplace: Laplace, posterior: KroneckerGaussianPosterior, names: list[str]) -> list[list[Tensor]]:
    """Return the Kronecker factors with the eigenvalues of the object and the bases of the posterior."""
    current = LaplaceAdapter().to_posterior(laplace)
    expected = current.scale if isinstance(current, KroneckerGaussianPosterior) else {}
    scale = posterior.scale
    left = posterior.left
    right = posterior.right
    factors: list[list[Tensor]] = []
    for index, name in enumerate(names):
        tolerance = _TOLERANCE * expected[name].max().item()
        if scale[name].shape != expected[name].shape or not torch.allclose(
            scale[name], expected[name], rtol=_TOLERANCE, atol=tolerance
        ):
            message = (
                f"expected the standard deviations of `{name}` in its eigenbasis to be those of the Laplace object, "
                "got others; pass the result of `as_posterior`, permuted"
            )
            raise InvalidInputError(message)
        values = laplace.H.eigenvalues[index]
        bases = [left[name], *([right[name].flatten(1)] if len(values) > 1 else [])]
        factors.append([basis.T @ (value[:, None] * basis) for value, basis in zip(values, bases, strict=True)])
    return factors


def _permuted_precision(laplace: Laplace, posterior: Posterior, names: list[str]) -> Tensor:
    """Return the prior precision, permuted if it has one entry per parameter."""
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
