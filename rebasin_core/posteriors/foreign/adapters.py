"""Adapters for modules, averaged models, IVON and Pyro guides, which read attributes only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.adapter import AbstractWriteBack, PosteriorAdapter
from rebasin_core.posteriors.checks import require_same_tensors
from rebasin_core.posteriors.diagonal_gaussian import DiagonalGaussianPosterior
from rebasin_core.posteriors.foreign.layout import LAYOUTS, from_bayesian_layers
from rebasin_core.posteriors.foreign.state_dict import from_state_dict
from rebasin_core.posteriors.low_rank_gaussian import LowRankGaussianPosterior
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.tensors.modules import copied

if TYPE_CHECKING:
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.posteriors.foreign.layout import BayesianLayout

# Packages of Bayesian layers, and the names of their layouts.
_PACKAGES = {
    "bayesian_torch": "bayesian-torch",
    "torch_uncertainty.layers.bayesian": "torch-uncertainty",
    "blitz": "blitz",
    "torchbnn": "torchbnn",
}


@final
class ModuleAdapter(PosteriorAdapter):
    """Adapter for modules: a point mass, or a diagonal Gaussian for a module with Bayesian layers.

    Layers of bayesian-torch, torch-uncertainty, blitz and torchbnn are recognized by the packages of their types.

    Examples:
        >>> from torch import nn
        >>> ModuleAdapter().to_posterior(nn.Linear(2, 3)).kind
        'point'
    """

    handles: ClassVar[tuple[str, ...]] = ("torch.nn.modules.module.Module",)

    @override
    def to_posterior(self, source: object, *, model: nn.Module | None = None) -> Posterior:
        if not isinstance(source, nn.Module):
            message = f"expected a torch module, got {type(source).__name__}"
            raise InvalidInputError(message)
        layout = bayesian_layout(source)
        if layout is None:
            return PointPosterior.from_module(source)
        return from_bayesian_layers(source.state_dict(), layout, dict(source.named_buffers()))


def bayesian_layout(module: nn.Module) -> BayesianLayout | None:
    """Return the tensor names of the Bayesian layers of a module.

    Args:
        module: Any module.

    Returns:
        The layout; None for a module without Bayesian layers.

    Raises:
        InvalidInputError: If there are layers of several libraries, or of an unknown version of a library.
    """
    libraries = {
        library
        for layer in module.modules()
        for package, library in _PACKAGES.items()
        if f"{type(layer).__module__}.".startswith(f"{package}.")
    }
    if not libraries:
        return None
    if len(libraries) > 1:
        message = f"expected Bayesian layers of one library, got layers of {sorted(libraries)}"
        raise InvalidInputError(message)
    layout = next(layout for layout in LAYOUTS if layout.library in libraries)
    if not layout.fits(module.state_dict()):
        message = (
            f"expected tensors with names like {layout.mean.pattern!r} in a module with layers of {layout.library}, "
            "got none; the version of the library may not be supported"
        )
        raise InvalidInputError(message)
    return layout


@final
class AveragedModelAdapter(PosteriorAdapter):
    """Adapter for ``torch.optim.swa_utils.AveragedModel`` and the SWAG of swa_gaussian and torch-uncertainty."""

    handles: ClassVar[tuple[str, ...]] = (
        "torch.optim.swa_utils.AveragedModel",
        "swag.posteriors.swag.SWAG",
        "torch_uncertainty.methods.swag.SWAG",
    )

    @override
    def to_posterior(self, source: object, *, model: nn.Module | None = None) -> Posterior:
        if not isinstance(source, nn.Module):
            message = f"expected a torch module, got {type(source).__name__}"
            raise InvalidInputError(message)
        # torch-uncertainty keeps the statistics in a dictionary that is not part of the state dict.
        statistics = dict(getattr(source, "swag_stats", {}))
        return from_state_dict({**source.state_dict(), **statistics})


@final
class IVONAdapter(PosteriorAdapter, AbstractWriteBack):
    r"""Adapter for the optimizer IVON, whose state is a diagonal Gaussian with $s = 1 / \sqrt{\lambda (h + \delta)}$.

    $\lambda$ is the option ``ess``, $h$ the state ``hess``, and $\delta$ the option ``weight_decay``. The optimizer
    does not store the names of its parameters; pass the model. The posterior must not be read inside
    ``sampled_params``.

    References:
        Y. Shen et al. (2024), "Variational learning is effective for large deep networks", ICML, arXiv 2402.17641.
    """

    handles: ClassVar[tuple[str, ...]] = ("ivon._ivon.IVON", "ivon.IVON")

    @override
    def to_posterior(self, source: object, *, model: nn.Module | None = None) -> Posterior:
        mean, stddev = {}, {}
        for names, group in self._groups(source, model):
            flat = (group["ess"] * (group["hess"] + group["weight_decay"])).rsqrt()
            sizes = [parameter.numel() for parameter in group["params"]]
            for name, parameter, part in zip(names, group["params"], flat.split(sizes), strict=True):
                mean[name] = parameter.detach().clone()
                stddev[name] = part.detach().reshape(parameter.shape).to(parameter.dtype)
        own = {} if model is None else {n: t.detach().clone() for n, t in model.named_parameters() if n not in mean}
        buffers = {} if model is None else copied(dict(model.named_buffers()))
        return DiagonalGaussianPosterior(mean, stddev, fixed=own, buffers=buffers)

    @override
    def write_back(self, source: object, posterior: Posterior, *, model: nn.Module | None = None) -> None:
        before = self.to_posterior(source, model=model)
        require_same_tensors(before.mean, posterior.mean, "the posterior to write into IVON")
        mean, stddev = posterior.mean, posterior.stddev
        groups = self._groups(source, model)
        # All groups are validated before anything is written.
        hessians: list[Tensor] = []
        for names, group in groups:
            flat = torch.cat([stddev[name].flatten() for name in names]).to(group["hess"])
            hessians.append(1 / (group["ess"] * flat.square()) - group["weight_decay"])
            if not bool(torch.isfinite(hessians[-1]).all()):
                message = "expected positive standard deviations to write into IVON, got a zero one"
                raise InvalidInputError(message)
        with torch.no_grad():
            for (names, group), hessian in zip(groups, hessians, strict=True):
                group["hess"].copy_(hessian)
                for name, parameter in zip(names, group["params"], strict=True):
                    parameter.copy_(mean[name])
            rest = {} if model is None else {**dict(model.named_parameters()), **dict(model.named_buffers())}
            written = {name for names, _ in groups for name in names}
            for name, tensor in rest.items():
                if name not in written:
                    tensor.copy_({**mean, **posterior.buffers}[name])

    @staticmethod
    def _groups(source: object, model: nn.Module | None) -> list[tuple[list[str], dict[str, Any]]]:
        if model is None:
            message = "expected `model` for IVON, which does not store the names of its parameters, got None"
            raise InvalidInputError(message)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups: list[dict[str, Any]] = getattr(source, "param_groups", [])
        named: list[tuple[list[str], dict[str, Any]]] = []
        for group in groups:
            missing = [key for key in ("hess", "ess", "weight_decay", "params") if key not in group]
            unknown = sum(id(parameter) not in names for parameter in group.get("params", ()))
            if missing or unknown:
                message = (
                    f"expected {missing} in the parameter groups of IVON, got none; its version may not be supported"
                    if missing
                    else f"expected the model that IVON optimizes, got one without {unknown} of its parameters"
                )
                raise InvalidInputError(message)
            named.append(([names[id(parameter)] for parameter in group["params"]], group))
        return named


@final
class PyroGuideAdapter(PosteriorAdapter):
    """Adapter for Pyro's guides ``AutoNormal``, ``AutoDiagonalNormal`` and ``AutoLowRankMultivariateNormal``.

    Sample sites are parameters. A prefix that all sites share and that is not in the model is removed: the site
    ``net.0.weight`` is the parameter ``0.weight``. The guide must have been called once, because Pyro creates its
    parameters at the first call.
    """

    handles: ClassVar[tuple[str, ...]] = (
        "pyro.infer.autoguide.guides.AutoNormal",
        "pyro.infer.autoguide.guides.AutoDiagonalNormal",
        "pyro.infer.autoguide.guides.AutoLowRankMultivariateNormal",
    )

    @override
    def to_posterior(self, source: object, *, model: nn.Module | None = None) -> Posterior:
        guide: Any = source
        shapes: dict[str, torch.Size] | None = getattr(guide, "_unconstrained_shapes", None)
        if not shapes and not hasattr(guide, "locs"):
            message = "expected a guide that is set up, got one that was never called; run it once"
            raise InvalidInputError(message)
        buffers = {} if model is None else copied(dict(model.named_buffers()))
        if hasattr(guide, "locs"):
            sites = [name.removesuffix("_unconstrained") for name, _ in guide.locs.named_parameters()]
            mean = {_renamed(n, sites, model): _site(guide.locs, n) for n in sites}
            stddev = {_renamed(n, sites, model): _site(guide.scales, n) for n in sites}
            return DiagonalGaussianPosterior(mean, stddev, buffers=buffers)
        names = list(shapes or {})
        sizes = [shape.numel() for shape in (shapes or {}).values()]

        def named(flat: Tensor) -> dict[str, Tensor]:
            pieces = flat.detach().split(sizes, dim=-1)
            return {
                _renamed(n, names, model): piece.reshape(*piece.shape[:-1], *(shapes or {})[n]).clone()
                for n, piece in zip(names, pieces, strict=True)
            }

        factor = getattr(guide, "cov_factor", None)
        if factor is None:
            return DiagonalGaussianPosterior(named(guide.loc), named(guide.scale), buffers=buffers)
        rows = (factor * guide.scale[:, None]).T
        return LowRankGaussianPosterior(named(guide.loc), named(guide.scale), named(rows), buffers=buffers)


def _site(part: object, name: str) -> Tensor:
    value: Any = part
    for piece in name.split("."):
        value = getattr(value, piece)
    tensor: Tensor = value.detach().clone()
    return tensor


def _renamed(site: str, sites: list[str], model: nn.Module | None) -> str:
    """Return a site's name without the prefix that all sites share and that is not in the names of the model."""
    known = set() if model is None else {name for name, _ in model.named_parameters()}
    first, dot, rest = site.partition(".")
    shared = bool(dot) and all(other.startswith(f"{first}.") for other in sites)
    return rest if shared and site not in known and (rest in known or model is None) else site
