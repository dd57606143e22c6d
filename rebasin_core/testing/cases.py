"""Small problems for the laws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.architectures.mlp import MLPArchitecture
from rebasin_core.posteriors.diagonal_gaussian import DiagonalGaussianPosterior
from rebasin_core.tensors.modules import named_tensors
from rebasin_core.testing.law import device_under_test, seeded

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rebasin_core.specs.base import PermutationSpec

INPUTS, OUTPUTS = 6, 3


@final
@dataclass(frozen=True, slots=True)
class Network:
    """A small network with its specification and data.

    Attributes:
        model: An MLP 6-5-4-3 in float64, on the device under test.
        spec: Its permutation specification.
        data: Batches with 40 examples in total, of three well separated classes.
    """

    model: nn.Module
    spec: PermutationSpec
    data: list[tuple[Tensor, Tensor]]


def network(seed: int = 0) -> Network:
    """Create the small network.

    Args:
        seed: Seed of the weights; the data do not depend on it.

    Returns:
        The network, with its specification and data.
    """
    architecture = MLPArchitecture(hidden=[5, 4], activation="tanh")
    model = architecture.build((INPUTS,), OUTPUTS, generator=seeded(seed)).double()
    generator = seeded(99)
    targets = torch.arange(40) % OUTPUTS
    centers = 2 * torch.randn(OUTPUTS, INPUTS, generator=generator, dtype=torch.float64)
    inputs = centers[targets] + 0.3 * torch.randn(40, INPUTS, generator=generator, dtype=torch.float64)
    data = list(zip(inputs.split(16), targets.split(16), strict=True))
    return Network(model.to(device_under_test()), architecture.spec(model), data)


def gaussian(seed: int, *, dtype: torch.dtype = torch.float64) -> DiagonalGaussianPosterior:
    """Create a diagonal Gaussian with random moments over the parameters of the small network.

    Args:
        seed: Seed of the means and standard deviations.
        dtype: Dtype of the moments.

    Returns:
        The posterior.
    """
    generator = seeded(seed)
    shapes = {name: tensor.shape for name, tensor in named_tensors(network().model).items()}
    mean = {n: torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for n, s in shapes.items()}
    stddev = {
        n: (0.05 + 0.1 * torch.rand(s, generator=generator, dtype=torch.float64)).to(dtype) for n, s in shapes.items()
    }
    return DiagonalGaussianPosterior(mean, stddev).to(device=device_under_test())
