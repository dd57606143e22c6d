"""The Gaussian prior, and parameters chosen by patterns of their names."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.prior import GaussianPrior

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.inference.options import PriorScale


def scales_of(names: Iterable[str], scale: PriorScale) -> dict[str, float]:
    """Return the prior scale of every parameter.

    Args:
        names: Names of the parameters.
        scale: One for all, or pairs of a pattern (``layers.0.*``) and a scale; the first match counts.

    Returns:
        Scales by name.

    Raises:
        InvalidInputError: If a parameter matches no pattern.
    """
    if not isinstance(scale, tuple):
        return dict.fromkeys(names, float(scale))
    found: dict[str, float] = {}
    for name in names:
        matching = [value for pattern, value in scale if fnmatchcase(name, pattern)]
        if not matching:
            message = f"no pattern of `prior_scale` matches `{name}`; add one, or `*` for all others"
            raise InvalidInputError(message)
        found[name] = matching[0]
    return found


def prior_of(parameters: Mapping[str, Tensor], scale: PriorScale) -> GaussianPrior | None:
    """Return the centered Gaussian prior with given scales.

    Args:
        parameters: Parameters by name; they set device and dtype.
        scale: One scale for all, or pairs of a pattern and a scale.

    Returns:
        The prior; None if a scale is infinite (a flat prior).
    """
    scales = scales_of(parameters, scale)
    if any(math.isinf(value) for value in scales.values()):
        return None
    stddev = {n: torch.tensor(scales[n], dtype=t.dtype, device=t.device) for n, t in parameters.items()}
    return GaussianPrior({name: torch.zeros_like(tensor) for name, tensor in stddev.items()}, stddev)


def chosen_names(names: Sequence[str], patterns: Sequence[str] | None, what: str) -> list[str]:
    """Return the names that match patterns.

    Args:
        names: All names.
        patterns: Shell patterns; None chooses all names.
        what: The option that holds the patterns, for messages.

    Returns:
        The names, in their order.

    Raises:
        InvalidInputError: If a pattern matches nothing.
    """
    if patterns is None:
        return list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            message = f"the pattern {pattern!r} of `{what}` matches none of {list(names)[:8]}"
            raise InvalidInputError(message)
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
