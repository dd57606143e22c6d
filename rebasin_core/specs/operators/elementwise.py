"""Elementwise operators."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, final

from rebasin_core.specs.operators import piecewise
from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.specs.unification.relation import Relation, Sight
from rebasin_core.specs.unification.terms import length, uniform

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rebasin_core.specs.operators.base import Result, Rule, Sights
    from rebasin_core.specs.operators.call import Call


def elementwise(call: Call) -> Result:
    """Tie the axes of all tensors, with broadcasting.

    Args:
        call: The operator.

    Returns:
        The axes of the result.
    """
    return call.broadcast(*call.tensors)


def added(call: Call) -> Result:
    """Tie the axes of tensors that are added or subtracted.

    Args:
        call: ``add``, ``sub``, ``rsub``.

    Returns:
        The axes of the result.
    """
    found = call.broadcast(*call.tensors, relation=Relation.EQUAL)
    if any(isinstance(call.arguments.get(name), int | float) and call.arguments[name] for name in ("self", "other")):
        return tuple(call.relate(Relation.EQUAL, term, uniform(length(term))) for term in found)
    return found


def multiplied(call: Call) -> Result:
    """Tie the axes of tensors that are multiplied.

    Args:
        call: ``mul``.

    Returns:
        The axes of the result.
    """
    return call.broadcast(*call.tensors, relation=Relation.PRODUCT)


def divided(call: Call) -> Result:
    """Tie the axes of a tensor and its divisor.

    Args:
        call: ``div``.

    Returns:
        The axes of the result.
    """
    found = call.broadcast(*call.tensors, relation=Relation.QUOTIENT)
    if call.arguments.get("rounding_mode"):
        for term in found:
            call.see(term, Sight.ANY)
    return found


def power(call: Call) -> Result:
    """Tie the axes of base and exponent. A square is the product of a tensor with itself.

    Args:
        call: ``pow(self, exponent)`` or ``square(self)``.

    Returns:
        The axes of the result.
    """
    if call.operator.removesuffix("_") == "aten.square" or call.arguments.get("exponent") == 2:
        return call.broadcast(call.first, call.first, relation=Relation.PRODUCT)
    found = call.broadcast(*call.tensors)
    for term in found:
        call.see(term, Sight.ANY)
    return found


def unchanged(call: Call) -> Result:
    """Return the axes of the first tensor.

    Args:
        call: A copy, a cast, or an operator without effect in evaluation mode.

    Returns:
        The same axes.
    """
    return call.tensors[0]


def dropped(call: Call) -> Result:
    """Return the axes of a tensor whose entries are dropped at random in training mode.

    Args:
        call: ``dropout(input, p, train)``, ``feature_dropout``, ``alpha_dropout`` or ``feature_alpha_dropout``.

    Returns:
        The same axes.
    """
    terms = call.first
    if call.arguments.get("train"):
        sight = Sight.ANY if "alpha" in call.operator else Sight.DIAGONAL  # entries are replaced by a number
        for term in terms:
            call.see(term, sight, "units are dropped at random")
    return terms


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
    value, gate = call.split(call.tensor("self"), dim, [half, half])
    for term in gate:
        call.see(term, Sight.ANY, "units are seen by a gate")
    return call.broadcast(value, gate, relation=Relation.PRODUCT)


_UNCHANGED = (
    "alias", "alias_copy", "clone", "contiguous", "detach", "detach_", "lift", "lift_fresh", "lift_fresh_copy", "to",
    "_to_copy", "type_as", "requires_grad_", "resolve_conj", "resolve_neg", "_conj", "conj", "real", "imag",
)  # fmt: skip
_DROPOUTS = ("dropout", "dropout_", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")
# Elementwise operators without the tag `torch.Tag.pointwise`.
_ELEMENTWISE = (
    "hardswish", "special_ndtr", "isclose", "fill", "log_sigmoid", "copy", "masked_fill_", "zero_",
    "threshold_", "isnan", "isinf", "isfinite", "floor_divide",
    "not_equal", "greater", "less", "greater_equal", "less_equal", "arccos", "arcsin", "arctan", "arctan2",
    "special_expit", "special_logit", "special_erf", "special_erfc", "__and__", "__or__", "__xor__", "__lshift__",
    "__rshift__", "absolute", "negative", "fix", "polar", "complex", "mish_", "gelu_", "isreal",
    "special_log1p", "special_expm1",
)  # fmt: skip

_QUANTIZED = (
    *(f"fake_quantize_per_{kind}_affine{suffix}" for kind in ("tensor", "channel") for suffix in ("", "_cachemask")),
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
)

_LINEAR = (
    "add", "sub", "rsub", "mul", "div", "pow", "square", "neg", "negative", "subtract", "multiply", "divide",
    "true_divide", "glu",
)  # fmt: skip
_COPY = (
    "alias", "alias_copy", "clone", "contiguous", "detach", "dropout", "feature_dropout", "lift", "lift_fresh",
    "lift_fresh_copy", "to", "_to_copy", "type_as", "requires_grad", "resolve_conj", "resolve_neg", "conj", "_conj",
    "real", "imag", "alpha_dropout", "feature_alpha_dropout",
)  # fmt: skip
_HOMOGENEOUS = ("relu", "leaky_relu")
_ODD = (
    "tanh", "erf", "special_erf", "sin", "sinh", "asinh", "atan", "arctan", "arcsinh", "tan", "asin", "arcsin", "sign",
    "sgn", "tanhshrink", "softshrink", "hardshrink", "erfinv", "atanh", "arctanh", "trunc", "fix", "round",
)  # fmt: skip
_EVEN = ("abs", "absolute")
# The constants c of functions with f(-u) = c - f(u), and their slopes at 0.
_CONSTANTS = {
    **dict.fromkeys(("sigmoid", "special_expit"), (1.0, 1 / 4)),
    "hardsigmoid": (1.0, 1 / 6),
    "special_ndtr": (1.0, 1 / math.sqrt(2 * math.pi)),
    **dict.fromkeys(("erfc", "special_erfc"), (2.0, -2 / math.sqrt(math.pi))),
    **dict.fromkeys(("acos", "arccos"), (math.pi, -1.0)),
}

SIGHTS: Sights = {
    **{f"aten.{name}": Sight.LINEAR for name in _LINEAR},
    **{f"aten.{name}": Sight.COPY for name in _COPY},
    **{f"aten.{name}": Sight.HOMOGENEOUS for name in _HOMOGENEOUS},
    **{f"aten.{name}": Sight.ODD for name in _ODD},
    **{f"aten.{name}": Sight.EVEN for name in _EVEN},
    **{f"aten.{name}": Sight.CENTERED for name in _CONSTANTS},
    **piecewise.SIGHTS,
}

RULES: dict[str, Rule] = {
    **{f"aten.{name}": added for name in ("add", "sub", "rsub", "subtract")},
    **{f"aten.{name}": multiplied for name in ("mul", "multiply")},
    **{f"aten.{name}": divided for name in ("div", "divide", "true_divide")},
    **{f"aten.{name}": power for name in ("pow", "square")},
    **{f"aten.{name}": fake_quantized for name in _QUANTIZED},
    **{f"aten.{name}": elementwise for name in _ELEMENTWISE},
    **{f"aten.{name}": unchanged for name in _UNCHANGED},
    **{f"aten.{name}": dropped for name in _DROPOUTS},
    "aten.glu": glu,
    **piecewise.RULES,
}


@final
class ElementwiseRules(OperatorRules):
    """Rules for elementwise operators that PyTorch does not tag as pointwise, and for copies and casts."""

    name = "elementwise"
    rules = RULES
    sights = SIGHTS
    constants: ClassVar[Mapping[str, tuple[float, float]]] = {
        f"aten.{name}": value for name, value in _CONSTANTS.items()
    }
