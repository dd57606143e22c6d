"""Options that several kinds of stages share: the network, and batches of examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import PositiveInt

from rebasin_core.architectures.base import Architecture
from rebasin_core.data.base import DataSource
from rebasin_core.strategy import Options

if TYPE_CHECKING:
    from torch import nn

ANY_DEVICE = "any"
"""Kind of device of stages whose results are accepted from any device."""


class DataOptions(Options):
    """Where the examples of one split are."""

    source: DataSource
    """The dataset."""

    split: Literal["train", "test"]
    """Split of the dataset."""

    count: PositiveInt | None = None
    """Number of examples, from the first; all if None."""


class NetworkOptions(Options):
    """A network, and the numerical settings of computations with it."""

    architecture: Architecture
    """The network architecture."""

    input_shape: tuple[int, ...]
    """Shape of one input, without the batch dimension."""

    num_outputs: PositiveInt
    """Number of outputs."""

    dtype: Literal["float32", "float64"] = "float32"
    """Floating-point type of parameters and inputs."""

    device: str = ANY_DEVICE
    """Required kind of device, such as ``cuda``; ``any`` accepts results of every kind."""

    precision: str = "highest"
    """Precision of float32 matrix products, as for ``torch.set_float32_matmul_precision``."""

    @property
    def torch_dtype(self) -> torch.dtype:
        """The floating-point type."""
        return torch.float64 if self.dtype == "float64" else torch.float32

    def build(self, device: torch.device, *, seed: int) -> nn.Module:
        """Return an initialized network.

        Args:
            device: Device of the network.
            seed: Seed of the initialization.

        Returns:
            The network.
        """
        generator = torch.Generator().manual_seed(seed)
        model = self.architecture.build(self.input_shape, self.num_outputs, generator=generator)
        return model.to(device, self.torch_dtype)
