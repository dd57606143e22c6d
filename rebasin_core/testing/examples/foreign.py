"""Stand-ins for objects of other libraries, with the same type names and attributes, for the conformance kit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rebasin_core.posteriors import AveragedModelAdapter, IVONAdapter, ModuleAdapter, PyroGuideAdapter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def stand_in(module: str, name: str, base: type[Any] = SimpleNamespace) -> type[Any]:
    """Create a class with the module and name of a class of another library.

    Args:
        module: Module of that class.
        name: Name of that class.
        base: Base class.

    Returns:
        The class.
    """
    return type(name, (base,), {"__module__": module, "__qualname__": name})


def _modules() -> Sequence[object]:
    layer = stand_in("bayesian_torch.layers.linear", "LinearReparameterization", nn.Module)()
    for name, value in (("mu_weight", 0.5), ("rho_weight", -3.0)):
        layer.register_parameter(name, nn.Parameter(torch.full((3, 2), value)))
    return [nn.BatchNorm1d(3), nn.Sequential(layer, nn.Linear(3, 3))]


def _averages() -> Sequence[object]:
    return [torch.optim.swa_utils.AveragedModel(nn.BatchNorm1d(3))]


def _ivon() -> Sequence[object]:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    parameters = list(model.parameters())
    hess = torch.linspace(0.5, 2.0, sum(p.numel() for p in parameters))
    group = {"params": parameters, "hess": hess, "ess": 100.0, "weight_decay": 1e-3}
    return [(stand_in("ivon._ivon", "IVON")(param_groups=[group]), model)]


def _guides() -> Sequence[object]:
    guide = stand_in("pyro.infer.autoguide.guides", "AutoLowRankMultivariateNormal")
    shapes = {"net.weight": torch.Size([3, 2]), "net.bias": torch.Size([3])}
    generator = torch.Generator().manual_seed(0)
    loc = torch.randn(9, generator=generator)
    scale = torch.rand(9, generator=generator)
    factor = torch.randn(9, 2, generator=generator)
    return [guide(_unconstrained_shapes=shapes, loc=loc, scale=scale, cov_factor=factor)]


FOREIGN: dict[type[object], Callable[[], Sequence[object]]] = {
    ModuleAdapter: _modules,
    AveragedModelAdapter: _averages,
    IVONAdapter: _ivon,
    PyroGuideAdapter: _guides,
}
"""The function that creates the examples of each adapter."""
