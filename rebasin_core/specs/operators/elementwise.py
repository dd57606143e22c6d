"""Elementwise operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from rebasin_core.specs.operators.base import OperatorRules

if TYPE_CHECKING:
    from rebasin_core.specs.operators.base import Result, Rule
    from rebasin_core.specs.operators.call import Call


def elementwise(call: Call) -> Result:
    """Tie the axes of all tensors, aligned from the last dimension.

    Args:
        call: The operator.

    Returns:
        The axes of the result.
    """
    return call.broadcast(*call.tensors)


def unchanged(call: Call) -> Result:
    """Return the axes of the first tensor: copies, casts and operators without effect in evaluation mode.

    Args:
        call: The operator.

    Returns:
        The same axes.
    """
    return call.tensors[0]


def prelu(call: Call) -> Result:
    """Tie the slopes to the channels, dimension 1.

    Args:
        call: ``prelu(self, weight)``.

    Returns:
        The axes of the input.
    """
    inputs = call.tensor("self")
    (slopes,) = call.tensor("weight")
    if len(inputs) > 1 and slopes:
        call.unify(inputs[1], slopes)
    return inputs


def glu(call: Call) -> Result:
    """Tie the two halves of an axis, of which one gates the other.

    Args:
        call: ``glu(self, dim)``.

    Returns:
        The axes of a half.
    """
    dim = call.arguments["dim"]
    half = call.shapes[0][dim]
    return call.broadcast(*call.split(call.tensor("self"), dim, [half, half]))


_UNCHANGED = (
    "alias", "alias_copy", "clone", "contiguous", "detach", "detach_", "dropout", "dropout_", "alpha_dropout",
    "feature_dropout", "lift", "lift_fresh", "lift_fresh_copy", "to", "_to_copy", "type_as",
    "requires_grad_", "resolve_conj", "resolve_neg", "_conj", "conj",
    "feature_alpha_dropout", "real", "imag",
)  # fmt: skip
# Elementwise operators that PyTorch does not tag as such.
_ELEMENTWISE = (
    "hardswish", "special_ndtr", "isclose", "fill", "log_sigmoid", "copy", "masked_fill_", "zero_",
    "threshold_", "isnan", "isinf", "isfinite", "true_divide", "floor_divide", "subtract", "multiply", "divide",
    "not_equal", "greater", "less", "greater_equal", "less_equal", "arccos", "arcsin", "arctan", "arctan2",
    "special_expit", "special_logit", "special_erf", "rsub", "__and__", "__or__", "__xor__", "__lshift__",
    "__rshift__", "absolute", "negative", "fix", "polar", "complex", "mish_", "gelu_", "isreal",
    "special_log1p", "special_expm1",
)  # fmt: skip

RULES: dict[str, Rule] = {
    **{f"aten.{name}": elementwise for name in _ELEMENTWISE},
    **{f"aten.{name}": unchanged for name in _UNCHANGED},
    "aten._prelu_kernel": prelu,
    "aten.glu": glu,
    "aten.prelu": prelu,
}


@final
class ElementwiseRules(OperatorRules):
    """Rules of elementwise operators that PyTorch does not tag as such."""

    name = "elementwise"
    rules = RULES
