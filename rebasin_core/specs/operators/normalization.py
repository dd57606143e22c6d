"""Normalizations: parameters and statistics are tied to the normalized axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.specs.unification.relation import Relation, Sight
from rebasin_core.specs.unification.terms import length, uniform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.specs.operators.base import Result, Rule, Sights
    from rebasin_core.specs.operators.call import Call
    from rebasin_core.specs.unification.terms import AxisTerm

_MEANS = ("running_mean", "mean")
_VARIANCES = ("running_var", "var")
_SCALES = ("weight", "bn_weight")
_SHIFTS = ("bias", "bn_bias")
BATCH_NORMALIZATIONS: Final = (
    "batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "native_batch_norm",
    "_native_batch_norm_legit_functional", "cudnn_batch_norm", "miopen_batch_norm", "instance_norm",
    "_batch_norm_impl_index", "_batch_norm_no_update", "_batch_norm_with_update",
    "_batch_norm_with_update_functional",
)  # fmt: skip
"""All variants of batch and instance normalization."""

_GROUPS = "the channels do not split into the groups of the normalization"


def batch_norm(call: Call) -> Result:
    """Tie scale, shift and running statistics to the channels (dimension 1).

    Args:
        call: ``batch_norm``, ``instance_norm`` or one of their implementations.

    Returns:
        The axes of the input, and of the statistics if they are returned.
    """
    inputs = list(call.first)
    for term in (inputs[0], *inputs[2:]):
        call.see(term, Sight.ANY, "the same shift is added at all positions")
    # A scale changes the variance, but not the number that is added to it before the root.
    call.see(inputs[1], Sight.ODD, "units are divided by a root of their variance and a number")
    for names, relation in ((_MEANS, Relation.EQUAL), (_VARIANCES, None), (_SCALES, Relation.PRODUCT)):
        inputs[1] = _with_own(call, inputs[1], names, relation)
    inputs[1] = _with_own(call, inputs[1], _SHIFTS, Relation.EQUAL)
    if "instance" in call.operator:
        call.reduce(tuple(inputs), range(2, len(inputs)))
    elif all(call.optional(name) is None for name in (*_MEANS, *_VARIANCES, *_SCALES, *_SHIFTS)):
        call.observe((inputs[1],))
    statistics = [(inputs[1],) if any(shape) else tuple(map(uniform, shape)) for shape in call.shapes[1:]]
    return [tuple(inputs), *statistics]  # statistics of the batch are empty in evaluation mode


def _with_own(call: Call, channels: AxisTerm, names: Sequence[str], relation: Relation | None) -> AxisTerm:
    """Return the channels after a statistic, scale or shift is applied; without a relation, it must not change."""
    for name in names:
        own = call.optional(name)
        if own is None or length(own[0]) != length(channels):
            continue
        if relation is None:
            call.see(own[0], Sight.ANY, "variances are not scaled")
        channels = call.relate(relation or Relation.PRODUCT, channels, own[0])
    return channels


def layer_norm(call: Call) -> Result:
    """Tie scale and shift to the last dimensions, which are normalized.

    Args:
        call: ``layer_norm`` or ``rms_norm``.

    Returns:
        The axes of the input, and of the statistics if they are returned.
    """
    inputs = call.first
    count = len(call.arguments["normalized_shape"])
    lead = inputs[: len(inputs) - count]
    normalized = inputs[len(inputs) - count :]
    for term in lead:
        call.see(term, Sight.ANY, "units are divided by the norm along another axis")
    for term in normalized:
        call.see(term, Sight.NORM, "units are divided by their norm")
        if "layer" in call.operator:
            call.see(term, Sight.SUM, "their mean is subtracted")
    for name, relation in (("weight", Relation.PRODUCT), ("bias", Relation.EQUAL)):
        own = call.optional(name)
        if own is not None:
            normalized = tuple(call.relate(relation, *pair) for pair in zip(normalized, own, strict=True))
    joined = (*lead, *normalized)
    call.reduce(joined, range(len(lead), len(joined)))
    statistics = (*lead, *((),) * count)
    return [joined, *(statistics for _ in call.shapes[1:])]


def group_norm(call: Call) -> Result:
    """Split the channels into groups, and tie scale and shift to both factors.

    Args:
        call: ``group_norm`` or ``native_group_norm``.

    Returns:
        The axes of the input, and of the statistics if they are returned.
    """
    inputs = call.tensor("input")
    groups = call.arguments["num_groups"] if "num_groups" in call.arguments else call.arguments["group"]
    outer, inner = call.reshape([inputs[1]], [groups, length(inputs[1]) // groups], _GROUPS)
    for term in (inputs[0], *inputs[2:]):
        call.see(term, Sight.ANY, "the same shift is added at all positions")
    call.see(outer, Sight.ODD, "units are divided by a root of their variance and a number")
    for sight in (Sight.NORM, Sight.SUM):
        call.see(inner, sight, "units are divided by the norm of their group, after their mean is subtracted")
    for name, relation in (("weight", Relation.PRODUCT), ("bias", Relation.EQUAL)):
        own = call.optional(name)
        if own is not None:
            first, second = call.reshape([own[0]], [groups, length(own[0]) // groups], _GROUPS)
            outer = call.relate(relation, outer, first, why=_GROUPS)
            inner = call.relate(relation, inner, second, why=_GROUPS)
    call.observe((inputs[0], outer))
    return [(inputs[0], (*outer, *inner), *inputs[2:]), *((inputs[0], outer) for _ in call.shapes[1:])]


def weight_norm(call: Call) -> Result:
    """Tie the norms to the dimension of the directions.

    Args:
        call: ``_weight_norm(v, g, dim)``.

    Returns:
        The axes of the weight, and of the norms if they are returned.
    """
    direction = call.tensor("v")
    scale = call.tensor("g")
    dim = call.arguments["dim"]
    for other, term in enumerate(direction):
        is_kept = other == dim % len(direction)
        why = "directions are divided by their norm"
        call.see(term, Sight.ODD if is_kept else Sight.NORM, why)
    found = call.broadcast(direction, scale, relation=Relation.PRODUCT)
    call.reduce(found, [other for other in range(len(found)) if other != dim % len(found)])
    return [found, scale][: len(call.shapes)]


RULES: dict[str, Rule] = {
    **{f"aten.{name}": batch_norm for name in BATCH_NORMALIZATIONS},
    **{f"aten.{name}": layer_norm for name in ("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm")},
    **{f"aten.{name}": weight_norm for name in ("_weight_norm", "_weight_norm_interface")},
    **{f"aten.{name}": group_norm for name in ("group_norm", "native_group_norm")},
}

_LINEAR = (
    *BATCH_NORMALIZATIONS, "layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm", "group_norm",
    "native_group_norm", "_weight_norm", "_weight_norm_interface",
)  # fmt: skip
SIGHTS: Sights = {f"aten.{name}": Sight.LINEAR for name in _LINEAR}


@final
class NormalizationRules(OperatorRules):
    """Rules for normalizations."""

    name = "normalization"
    rules = RULES
    sights = SIGHTS
