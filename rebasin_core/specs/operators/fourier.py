"""Complex numbers and Fourier transforms."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.specs.operators.reduction import dims_of

if TYPE_CHECKING:
    from rebasin_core.specs.operators.base import Result, Rule
    from rebasin_core.specs.operators.call import Call

_PARTS = "real and imaginary parts"
_FREQUENCIES = "positions become frequencies"


def view_as_complex(call: Call) -> Result:
    """Drop the last dimension, which holds real and imaginary parts.

    Args:
        call: ``view_as_complex(self)``.

    Returns:
        The other axes.
    """
    *rest, pair = call.tensor("self")
    call.freeze(pair, _PARTS)
    return tuple(rest)


def view_as_real(call: Call) -> Result:
    """Add a dimension for real and imaginary parts.

    Args:
        call: ``view_as_real(self)``.

    Returns:
        The axes, followed by a fixed one.
    """
    return (*call.tensor("self"), call.fixed(2, _PARTS))


def fourier(call: Call) -> Result:
    """Fix the transformed dimensions.

    Args:
        call: ``fft_fft`` or a similar transform.

    Returns:
        The axes of the result.
    """
    terms = call.tensor("self")
    return call.mix(terms, {dim: call.shapes[0][dim] for dim in dims_of(call)}, _FREQUENCIES)


_TRANSFORMS = ("fft", "ifft", "rfft", "irfft", "fft2", "ifft2", "rfft2", "irfft2", "fftn", "ifftn", "rfftn", "irfftn")

RULES: dict[str, Rule] = {
    **{f"aten.fft_{name}": fourier for name in _TRANSFORMS},
    "aten.view_as_complex": view_as_complex,
    "aten.view_as_real": view_as_real,
}


@final
class FourierRules(OperatorRules):
    """Rules for complex numbers and Fourier transforms."""

    name = "fourier"
    rules = RULES
