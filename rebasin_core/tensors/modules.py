"""The tensors of a module, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers of a model by name.

    Args:
        model: Any module.

    Returns:
        Parameters first, then buffers, in the model's order.
    """
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
