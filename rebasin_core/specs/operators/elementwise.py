"""Elementwise operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.specs.unification.terms import length

if TYPE_CHECKING:
    from rebasin_core.specs.operators.base import Result, Rule
    from rebasin_core.specs.operators.call import Call


def elementwise(call: Call) -> Result:
    """Tie the axes of all tensors, with broadcasting.

    Args:
        call: The operator.

    Returns:
        The axes of the result.
    """
    return call.broadcast(*call.tensors)


def unchanged(call: Call) -> Result:
    """Return the axes of the first tensor.

    Args:
        call: A copy, a cast, or an operator without effect in evaluation mode.

    Returns:
        The same axes.
    """
    return call.tensors[0]


def prelu(call: Call) -> Result:
    """Tie the slopes to the channels (dimension 1).

    Args:
        call: ``prelu(self, weight)``.

    Returns:
        The axes of the input.
    """
    inputs = call.tensor("self")
    slopes = call.tensor("weight")
    if len(inputs) > 1 and slopes and length(slopes[0]) > 1:
        return (inputs[0], call.unify(inputs[1], slopes[0]), *inputs[2:])
    return inputs


def fake_quantized(call: Call) -> Result:
    """Tie per-channel scales and zero points to the quantized axis.

    Args:
        call: ``fake_quantize_per_tensor_affine``, ``fake_quantize_per_channel_affine`` or one of their implementations.

    Returns:
        The axes of the values, and of the mask of values in range.
    """
    terms = list(call.tensor("self"))
    axis = call.arguments.get("axis")
    if axis is not None:
        scale = call.tensor("scale")[0]
        terms[axis] = call.unify(terms[axis], scale, call.tensor("zero_point")[0])
    return [tuple(terms)] * len(call.shapes)


def glu(call: Call) -> Result:
    """Tie the two halves of an axis; one gates the other.

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
# Elementwise operators without the tag `torch.Tag.pointwise`.
_ELEMENTWISE = (
    "hardswish", "special_ndtr", "isclose", "fill", "log_sigmoid", "copy", "masked_fill_", "zero_",
    "threshold_", "isnan", "isinf", "isfinite", "true_divide", "floor_divide", "subtract", "multiply", "divide",
    "not_equal", "greater", "less", "greater_equal", "less_equal", "arccos", "arcsin", "arctan", "arctan2",
    "special_expit", "special_logit", "special_erf", "rsub", "__and__", "__or__", "__xor__", "__lshift__",
    "__rshift__", "absolute", "negative", "fix", "polar", "complex", "mish_", "gelu_", "isreal",
    "special_log1p", "special_expm1",
)  # fmt: skip

_QUANTIZED = (
    *(f"fake_quantize_per_{kind}_affine{suffix}" for kind in ("tensor", "channel") for suffix in ("", "_cachemask")),
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
)

RULES: dict[str, Rule] = {
    **{f"aten.{name}": fake_quantized for name in _QUANTIZED},
    **{f"aten.{name}": elementwise for name in _ELEMENTWISE},
    **{f"aten.{name}": unchanged for name in _UNCHANGED},
    "aten._prelu_kernel": elementwise,
    "aten.glu": glu,
    "aten.prelu": prelu,
}


@final
class ElementwiseRules(OperatorRules):
    """Rules for elementwise operators that PyTorch does not tag as pointwise, and for copies and casts."""

    name = "elementwise"
    rules = RULES
