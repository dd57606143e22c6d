"""Types of options that several methods share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, TypeAlias

from annotated_types import MinLen
from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, PositiveFloat, Tag, WithJsonSchema


def _pairs(patterns: object) -> object:
    """Return a mapping as the pairs by which it is kept: hashable, and in order, since the first match counts."""
    return tuple(patterns.items()) if isinstance(patterns, Mapping) else patterns


def _form(scale: object) -> str:
    return "patterns" if isinstance(scale, Mapping | tuple | list) else "number"


PositiveFinite: TypeAlias = Annotated[PositiveFloat, Field(allow_inf_nan=False)]
"""A positive number, not infinite."""

PriorScale: TypeAlias = Annotated[
    Annotated[PositiveFloat, Tag("number")]
    | Annotated[
        tuple[tuple[str, PositiveFloat], ...],
        MinLen(1),
        BeforeValidator(_pairs),
        WithJsonSchema({
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {"type": "number", "exclusiveMinimum": 0},
        }),
        Tag("patterns"),
    ],
    Discriminator(_form),
]
"""Standard deviations of a Gaussian prior: one for all parameters, or by pattern of parameter names.

Patterns are given as a mapping (``{"layers.0.*": 0.5, "*": 1.0}``, the first match counts) and kept as pairs. Infinity
is a flat prior.
"""


def _proper(scale: PriorScale) -> PriorScale:
    """Return a scale, after checking that the prior is not flat."""
    values = [value for _, value in scale] if isinstance(scale, tuple) else [scale]
    if any(math.isinf(value) for value in values):
        message = f"expected a finite scale, since the divergence from a flat prior is infinite, got {scale!r}"
        raise ValueError(message)
    return scale


ProperPriorScale: TypeAlias = Annotated[PriorScale, AfterValidator(_proper)]
"""As `PriorScale`, for methods that need a proper prior: not infinite."""
