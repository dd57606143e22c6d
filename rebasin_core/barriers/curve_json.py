"""Validation of loss curves read from JSON."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from rebasin_core.errors import InvalidInputError
from rebasin_core.problems import messages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KIND, VERSION = "curve", 1
"""Type and version in the JSON files of curves."""


def checked_attributes(curve: type[Any], values: Mapping[str, object]) -> dict[str, Any]:
    """Validate the attributes of a loss curve.

    Args:
        curve: The dataclass of curves.
        values: The attributes as read from a file, with tuples for lists and NaN for null.

    Returns:
        The same values.

    Raises:
        InvalidInputError: If attributes are missing, unknown or of a wrong type, have different lengths, or the
            interpolation coefficients do not increase from 0 to 1. The message names up to five of them.
    """
    try:
        validated = _model_of(curve).model_validate(dict(values))
    except ValidationError as error:
        message = f"expected the attributes of a loss curve; {'; '.join(messages(error.errors())[:5])}"
        raise InvalidInputError(message) from error
    t: Sequence[float] = getattr(validated, "t", ())
    if len(t) < 2 or t[0] != 0 or t[-1] != 1 or any(not a < b for a, b in pairwise(t)):
        message = f"expected interpolation coefficients that increase from 0 to 1, got {len(t)} that do not"
        raise InvalidInputError(message)
    hints = get_type_hints(curve)
    for name, value in values.items():
        if hints[name] == tuple[float, ...] and isinstance(value, tuple) and value and len(value) != len(t):
            message = f"`{name}` has {len(value)} values, expected one for each of the {len(t)} coefficients"
            raise InvalidInputError(message)
    return dict(values)


def _model_of(curve: type[Any]) -> type[BaseModel]:
    hints = get_type_hints(curve)
    fields: dict[str, Any] = {
        field.name: (hints[field.name], ... if field.default is dataclasses.MISSING else field.default)
        for field in dataclasses.fields(curve)
    }
    return create_model(curve.__name__, __config__=ConfigDict(strict=True, extra="forbid"), **fields)
