"""Normalizations: parameters and statistics are tied to the normalized axes."""

from __future__ import annotations

from itertools import starmap
from typing import TYPE_CHECKING, Final, final

from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.specs.unification.terms import length, uniform

if TYPE_CHECKING:
    from rebasin_core.specs.operators.base import Result, Rule
    from rebasin_core.specs.operators.call import Call

_OWN = ("weight", "bias", "running_mean", "running_var", "mean", "var", "bn_weight", "bn_bias")
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
    for name in _OWN:
        own = call.optional(name)
        if own is not None and length(own[0]) == length(inputs[1]):
            inputs[1] = call.unify(inputs[1], own[0])
    if "instance" in call.operator:
        call.reduce(tuple(inputs), range(2, len(inputs)))
    elif all(call.optional(name) is None for name in _OWN):
        call.observe((inputs[1],))
    statistics = [(inputs[1],) if any(shape) else tuple(map(uniform, shape)) for shape in call.shapes[1:]]
    return [tuple(inputs), *statistics]  # statistics of the batch are empty in evaluation mode


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
    own = [found for name in ("weight", "bias") if (found := call.optional(name)) is not None]
    joined = (*lead, *starmap(call.unify, zip(normalized, *own, strict=True)))
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
    for name in ("weight", "bias"):
        own = call.optional(name)
        if own is not None:
            first, second = call.reshape([own[0]], [groups, length(own[0]) // groups], _GROUPS)
            outer = call.unify(outer, first, why=_GROUPS)
            inner = call.unify(inner, second, why=_GROUPS)
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
    found = call.broadcast(direction, scale)
    call.reduce(found, [other for other in range(len(found)) if other != dim % len(found)])
    return [found, scale][: len(call.shapes)]


RULES: dict[str, Rule] = {
    **{f"aten.{name}": batch_norm for name in BATCH_NORMALIZATIONS},
    **{f"aten.{name}": layer_norm for name in ("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm")},
    **{f"aten.{name}": weight_norm for name in ("_weight_norm", "_weight_norm_interface")},
    **{f"aten.{name}": group_norm for name in ("group_norm", "native_group_norm")},
}


@final
class NormalizationRules(OperatorRules):
    """Rules for normalizations."""

    name = "normalization"
    rules = RULES
