"""Small fitted Laplace objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from laplace import Laplace
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

if TYPE_CHECKING:
    from laplace.baselaplace import BaseLaplace

STRUCTURES = ("diag", "kron", "full")
SUBSETS = ("all", "last_layer")


def network(seed: int = 0) -> nn.Module:
    """Return a small convolutional network in float64.

    Args:
        seed: Seed of the initialization.

    Returns:
        The network, for inputs ``[N, 1, 5, 5]`` and 3 classes.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        convolution = nn.Conv2d(1, 4, 3)
        layers = [convolution, nn.Tanh(), nn.MaxPool2d(3), nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)]
        return nn.Sequential(*layers).double()


def data() -> DataLoader[Any]:
    """Return 24 examples in batches of 8."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(24, 1, 5, 5, generator=generator, dtype=torch.float64)
    return DataLoader(TensorDataset(inputs, torch.arange(24) % 3), batch_size=8)


def fit(model: nn.Module, subset: str, structure: str, *, prior_precision: float | torch.Tensor = 1.0) -> BaseLaplace:
    """Return a fitted Laplace object.

    Args:
        model: The network.
        subset: ``all`` or ``last_layer``.
        structure: ``diag``, ``kron`` or ``full``.
        prior_precision: A number, or a tensor with one entry per layer or parameter.

    Returns:
        The fitted object.
    """
    laplace: BaseLaplace = Laplace(
        model,
        "classification",
        subset_of_weights=subset,
        hessian_structure=structure,
        prior_precision=prior_precision,
    )
    laplace.fit(data())
    return laplace


def fitted() -> list[BaseLaplace]:
    """Return fitted objects for each structure and subset of weights."""
    return [fit(network(), subset, structure) for subset in SUBSETS for structure in STRUCTURES]
