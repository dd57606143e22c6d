"""The device on which checkpoints are compared: networks are copied to it whole if they fit, otherwise in slices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from rebasin_core.api.checkpoints.memory import fits_on, within_memory
from rebasin_core.api.checkpoints.network import as_point
from rebasin_core.bilinear.stacked_cell import is_sliced
from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.device import CPU

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import torch
    from torch import Tensor

    from rebasin_core.api.checkpoints.network import CheckpointNetwork
    from rebasin_core.matchers.base import Matcher
    from rebasin_core.posteriors.point import PointPosterior
    from rebasin_core.symmetry.layout import Layout


@final
@dataclass(frozen=True, slots=True)
class Placement:
    """Where networks in mapped files are compared and evaluated.

    Attributes:
        device: Device of the computations.
        is_whole: Whether whole networks are copied to the device. If not, matchers copy slices of their tensors, and
            losses are evaluated on the CPU.
    """

    device: torch.device = CPU
    is_whole: bool = False

    @property
    def of_networks(self) -> torch.device:
        """The device of the networks that `network` returns."""
        return self.device if self.is_whole else CPU

    @property
    def of_slices(self) -> torch.device | None:
        """The device to which slices of these networks are copied; None if they are on it already."""
        return None if self.of_networks == self.device else self.device

    def network(self, tensors: Mapping[str, Tensor], buffers: Collection[str]) -> PointPosterior:
        """Return a network as a point posterior.

        Args:
            tensors: Parameters and buffers by name, mapped to memory.
            buffers: Names of buffers.

        Returns:
            The posterior, on the device if whole networks are; otherwise it shares the memory of the tensors.
        """
        return as_point({name: tensor.to(self.of_networks) for name, tensor in tensors.items()}, buffers)


def placed(
    matcher: Matcher, memory: int | None, device: torch.device, layout: Layout, networks: Sequence[CheckpointNetwork]
) -> tuple[Matcher, Placement]:
    """Return a matcher with a limit of its memory, and the placement of the networks that it aligns.

    Args:
        matcher: The matcher.
        memory: Maximum number of bytes in addition to mapped files, and on the device; see `within_memory`.
        device: Device of the computations.
        layout: The groups.
        networks: The networks, of which each is aligned with the first.

    Returns:
        The matcher, and the placement.

    Raises:
        InvalidInputError: If the memory is not sufficient.
    """
    tensors = networks[0].tensors
    assembled = [network.assembled_bytes for network in networks]
    copied = (
        assembled[0] + max(assembled[1:], default=0) + 2 * _stacked_bytes(layout, tensors, sliced=matcher.uses_slices)
    )
    limited = within_memory(matcher, memory, layout, tensors, device, copied=copied)
    is_whole = fits_on(device, memory, layout, tensors)
    if device != CPU and not is_whole and not matcher.uses_slices:
        message = (
            f"the matcher {matcher.name!r} needs whole networks on {device}, which do not fit into its memory; use "
            "`weight`, allow more memory, or compute on the CPU"
        )
        raise InvalidInputError(message)
    return limited, Placement(device, is_whole)


def _stacked_bytes(layout: Layout, tensors: Mapping[str, Tensor], *, sliced: bool) -> int:
    """Return the size of the stacks of one network that are copied to memory; large ones are compared in slices."""
    found = 0
    for name, stack in layout.stacks.items():
        own = [tensors[member] for member in stack.members if member in tensors]
        if not sliced or not is_sliced(layout, name, own):
            found += sum(tensor.nbytes for tensor in own)
    return found
