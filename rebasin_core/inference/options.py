"""Types of options shared by several methods."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, TypeAlias

from annotated_types import MinLen
from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, PositiveFloat, Tag, WithJsonSchema


def _pairs(patterns: object) -> object:
    """Return a mapping as a tuple of pairs, which is hashable and keeps the order: the first match applies."""
    return tuple(patterns.items()) if isinstance(patterns, Mapping) else patterns


def _form(scale: object) -> str:
    return "patterns" if isinstance(scale, Mapping | tuple | list) else "number"


PositiveFinite: TypeAlias = Annotated[PositiveFloat, Field(allow_inf_nan=False)]
"""A positive, finite number."""

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
"""Standard deviation of a Gaussian prior: a number, or a mapping from patterns of parameter names.

A mapping such as ``{"layers.0.*": 0.5, "*": 1.0}`` is stored as pairs; the first match applies. Infinity is a flat
prior.
"""


def has_infinite(scale: PriorScale) -> bool:
    """Return whether a prior is flat in some parameters.

    Args:
        scale: A prior scale.

    Returns:
        Whether any of its values is infinite.
    """
    values = [value for _, value in scale] if isinstance(scale, tuple) else [scale]
    return any(math.isinf(value) for value in values)


def _proper(scale: PriorScale) -> PriorScale:
    """Return a prior scale; raise if it is infinite."""
    if has_infinite(scale):
        message = f"expected a finite prior scale, got {scale!r}; the KL divergence from a flat prior is infinite"
        raise ValueError(message)
    return scale


ProperPriorScale: TypeAlias = Annotated[PriorScale, AfterValidator(_proper)]
"""`PriorScale` of a proper prior: finite."""
