"""Shapes of outputs with one number for each entry of the targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.errors import InvalidInputError

if TYPE_CHECKING:
    from torch import Tensor


def aligned_outputs(outputs: Tensor, targets: Tensor, kind: str) -> Tensor:
    """Return outputs in the shape of the targets, for example those of ``[N, 1]`` for dense targets ``[N]``.

    Args:
        outputs: Outputs of the network.
        targets: Targets of the same batch.
        kind: Meaning of the outputs, for messages.

    Returns:
        Outputs in the shape of the targets.

    Raises:
        InvalidInputError: If the shapes do not match.
    """
    if outputs.shape == targets.shape:
        return outputs
    if targets.dim() != 2 and outputs.dim() == targets.dim() + 1:
        for axis in (1, -1):
            if outputs.shape[axis] == 1 and outputs.squeeze(axis).shape == targets.shape:
                return outputs.squeeze(axis)
    message = (
        f"expected {kind} [N, K] and targets of the same shape, got shapes {tuple(outputs.shape)} and "
        f"{tuple(targets.shape)} of {targets.dtype}"
    )
    raise InvalidInputError(message)
