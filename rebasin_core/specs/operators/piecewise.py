"""Elementwise operators that are piecewise linear, or odd, for some of their arguments: clamps, maxima, masks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from rebasin_core.specs.operators.call import is_tensor
from rebasin_core.specs.unification.relation import Relation, Sight
from rebasin_core.specs.unification.terms import length

if TYPE_CHECKING:
    from rebasin_core.specs.operators.base import Result, Rule, Sights
    from rebasin_core.specs.operators.call import Call
    from rebasin_core.specs.unification.terms import AxisTerms


def clamped(call: Call) -> Result:
    """Tie the axes of a tensor and its bounds. A bound of 0 admits scales, opposite bounds admit signs.

    Args:
        call: ``clamp(self, min, max)``, ``clamp_min``, ``clamp_max`` or ``hardtanh(self, min_val, max_val)``.

    Returns:
        The axes of the result.
    """
    found = call.broadcast(*call.tensors)
    bounds = [call.arguments.get(name) for name in ("min", "min_val", "max", "max_val")]
    given = [bound for bound in bounds if bound is not None]
    if not all(isinstance(bound, int | float) for bound in given):
        return _seen(call, found, Sight.ANY)
    if all(bound == 0 for bound in given):
        return _seen(call, found, Sight.HOMOGENEOUS)
    return _seen(call, found, Sight.ODD if len(given) == 2 and sum(given) == 0 else Sight.ANY)


def threshold(call: Call) -> Result:
    """Return the axes of a tensor. A threshold and value of 0 are those of a ReLU.

    Args:
        call: ``threshold(self, threshold, value)``.

    Returns:
        The axes of the result.
    """
    is_relu = call.arguments["threshold"] == 0 and call.arguments["value"] == 0
    return _seen(call, call.first, Sight.HOMOGENEOUS if is_relu else Sight.ANY)


def extreme(call: Call) -> Result:
    """Tie the axes of two tensors that are compared unit by unit, and must be scaled equally.

    Args:
        call: ``maximum``, ``minimum``, ``fmax`` or ``fmin``.

    Returns:
        The axes of the result.
    """
    return _seen(call, call.broadcast(*call.tensors, relation=Relation.EQUAL), Sight.HOMOGENEOUS)


def compared(call: Call) -> Result:
    """Tie the axes of tensors that are compared; whether a number is positive does not depend on its scale.

    Args:
        call: ``gt``, ``ge``, ``lt`` or ``le``.

    Returns:
        The axes of the result.
    """
    found = call.broadcast(*call.tensors)
    return found if call.arguments.get("other") == 0 else _seen(call, found, Sight.ANY)


def prelu(call: Call) -> Result:
    """Tie the slopes to the channels (dimension 1). They must not be scaled.

    Args:
        call: ``prelu(self, weight)``.

    Returns:
        The axes of the input.
    """
    inputs = call.tensor("self")
    slopes = call.tensor("weight")
    if len(inputs) > 1 and slopes and length(slopes[0]) > 1:
        call.see(slopes[0], Sight.ANY, "slopes are not scaled")
        return (inputs[0], call.relate(Relation.PRODUCT, inputs[1], slopes[0]), *inputs[2:])
    return inputs


def prelu_kernel(call: Call) -> Result:
    """Tie the slopes to the input, with broadcasting. They must not be scaled.

    Args:
        call: ``_prelu_kernel(self, weight)``.

    Returns:
        The axes of the input.
    """
    slopes = _seen(call, call.tensor("weight"), Sight.ANY)
    return call.broadcast(call.tensor("self"), slopes, relation=Relation.PRODUCT)


def masked_fill(call: Call) -> Result:
    """Tie the axes of a tensor and a mask. The mask must not be scaled; zeros admit all maps along its other axes.

    Args:
        call: ``masked_fill(self, mask, value)``.

    Returns:
        The axes of the result.
    """
    mask = _seen(call, call.tensor("mask"), Sight.ANY)
    found = call.broadcast(call.tensor("self"), mask, relation=Relation.PRODUCT)
    return _seen(call, found, _filled(call, "value"))


def where(call: Call) -> Result:
    """Tie the axes of a condition and two tensors. The condition must not be scaled, the tensors must be equally.

    Args:
        call: ``where(condition, self, other)``.

    Returns:
        The axes of the result.
    """
    given = {name: call.arguments[name] for name in ("self", "other")}
    numbers = [name for name, value in given.items() if not (is_tensor(value) and value)]
    values = call.broadcast(*(call.tensor(name) for name in given if name not in numbers), relation=Relation.EQUAL)
    condition = _seen(call, call.tensor("condition"), Sight.ANY)
    found = call.broadcast(values, condition, relation=Relation.PRODUCT)
    for name in numbers:
        _seen(call, found, _filled(call, name))
    return found


def interpolated(call: Call) -> Result:
    """Tie the axes of two tensors that are added with weights.

    Args:
        call: ``lerp`` of two tensors and a weight.

    Returns:
        The axes of the result.
    """
    first, second, weight = call.arguments.values()
    found = call.broadcast(first, second, relation=Relation.EQUAL)
    if not is_tensor(weight):
        return found
    return call.broadcast(found, _seen(call, weight, Sight.ANY), relation=Relation.PRODUCT)


def product_added(call: Call) -> Result:
    """Tie the axes of a tensor and those of a product or quotient that is added to it.

    Args:
        call: ``addcmul(self, tensor1, tensor2)`` or ``addcdiv``.

    Returns:
        The axes of the result.
    """
    relation = Relation.PRODUCT if "mul" in call.operator else Relation.QUOTIENT
    product = call.broadcast(call.tensor("tensor1"), call.tensor("tensor2"), relation=relation)
    return call.broadcast(call.tensor("self"), product, relation=Relation.EQUAL)


def even(call: Call) -> Result:
    """Return the axes of an even function that admits signs, but no scales.

    Args:
        call: ``cos`` or ``cosh``.

    Returns:
        The same axes.
    """
    return _seen(call, call.first, Sight.ODD)


def _seen(call: Call, terms: AxisTerms, sight: Sight | None) -> AxisTerms:
    """Record how the units of all axes are seen, and return the axes."""
    if sight is not None:
        for term in terms:
            call.see(term, sight)
    return terms


def _filled(call: Call, name: str) -> Sight | None:
    """Return how units are seen that are replaced by a number: a zero is not changed by any map."""
    value = call.arguments[name]
    if not isinstance(value, int | float):
        known = call.example(name)
        is_number = isinstance(known, torch.Tensor) and not known.is_meta and known.numel() == 1
        value = known.item() if is_number else math.nan
    if value == 0:
        return None
    return Sight.SUM if math.isfinite(value) else Sight.ANY


_COMPARISONS = ("gt", "ge", "lt", "le", "greater", "greater_equal", "less", "less_equal")
_EXTREMES = ("maximum", "minimum", "fmax", "fmin")
_CLAMPS = ("clamp", "clamp_min", "clamp_max", "clip", "hardtanh")

RULES: dict[str, Rule] = {
    **{f"aten.{name}": clamped for name in _CLAMPS},
    **{f"aten.{name}": extreme for name in _EXTREMES},
    **{f"aten.{name}": compared for name in _COMPARISONS},
    **{f"aten.{name}": product_added for name in ("addcmul", "addcdiv")},
    **{f"aten.{name}": even for name in ("cos", "cosh")},
    "aten._prelu_kernel": prelu_kernel,
    "aten.lerp": interpolated,
    "aten.masked_fill": masked_fill,
    "aten.prelu": prelu,
    "aten.threshold": threshold,
}
"""Rules by operator name."""

SIGHTS: Sights = {
    **{f"aten.{name}": Sight.LINEAR for name in (*_CLAMPS, *_EXTREMES, "addcmul", "addcdiv", "lerp", "threshold")},
    "aten.masked_fill": Sight.LINEAR,
    **{f"aten.{name}": Sight.POSITIVITY for name in _COMPARISONS},
    **{f"aten.{name}": Sight.EVEN for name in ("cos", "cosh")},
    **{f"aten.{name}": Sight.HOMOGENEOUS for name in ("prelu", "_prelu_kernel")},
}
"""How these operators see units."""
