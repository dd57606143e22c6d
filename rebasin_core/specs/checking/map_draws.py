"""Random linear maps for the check of a symmetry."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from rebasin_core.symmetry.unit_map import random_map

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.symmetry.linear import Symmetry

# Standard deviation of the logarithms of factors and singular values, small for a good condition.
_LOG_STDDEV = 0.3


def unconditional(symmetry: Symmetry) -> Symmetry:
    """Return the families of linear maps that preserve the function at all parameters.

    Args:
        symmetry: Families of linear maps.

    Returns:
        The symmetry without families that need tensors of ones or zeros.
    """
    return replace(symmetry, linear=tuple(linear for linear in symmetry.linear if not linear.required))


def drawn_maps(symmetry: Symmetry, generator: torch.Generator) -> list[Tensor]:
    """Return random maps, at least one of whose factors is negative if they may be.

    Args:
        symmetry: Families of linear maps.
        generator: Source of randomness.

    Returns:
        One map for each family.
    """
    found: list[Tensor] = []
    for linear in symmetry.linear:
        shape = symmetry.map_shape(linear)
        value = random_map(linear.kind, shape, log_stddev=_LOG_STDDEV, generator=generator)
        if linear.kind.has_signs and not bool((value < 0).any()):
            value.flatten()[int(torch.randint(value.numel(), (), generator=generator))] *= -1
        found.append(value)
    return found
