"""Tracing of specifications with the operator rules of all installed plugins."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from rebasin_core.errors import NothingMovesWarning, PluginError
from rebasin_core.plugin.registry import Registry, default_registry
from rebasin_core.specs.operators.default import find_rules_by
from rebasin_core.specs.tracing.trace import derive

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from rebasin_core.specs.operators.base import Rule, Rules
    from rebasin_core.specs.tracing.capture import Method
    from rebasin_core.specs.tracing.trace import TracedSpec
    from rebasin_core.specs.unification.terms import Reason


def trace_spec(  # ruff: ignore[too-many-arguments] - all but two have defaults
    model: nn.Module,
    example_inputs: object,
    *,
    kwargs: Mapping[str, Any] | None = None,
    freeze: Sequence[str] = (),
    free: Sequence[str] = (),
    method: Method = "auto",
    rules: Rules | None = None,
) -> TracedSpec:
    """Derive the permutation symmetries of a model from its computation graph.

    Each axis of each parameter and buffer starts as a variable. One pass over the graph applies a rule for each
    operator: the rule unifies, splits, reshapes or concatenates axes, or fixes an axis whose order matters. Each
    variable that remains free defines a group. A group is nested in another one if every tensor that has its axis also
    has the other's, once; it is then permuted separately within each outer unit. The documentation page "How a
    specification is derived" works through two examples by hand.

    The result is conservative: axes that reach a model input or output, an operator without a rule, or a structure
    that products and concatenations cannot express are fixed, and ``spec.coverage`` lists them with reasons. Buffers
    are permuted if a normalization uses them as running statistics, if training writes to them, if they are masks of
    `torch.nn.utils.prune`, frozen batch normalizations or load-balancing biases of experts, or if ``free`` names them;
    other buffers are constants.

    Args:
        model: Module to trace, in evaluation mode; it is not changed. On the meta device nothing is allocated.
        example_inputs: Small batch, or tuple of positional inputs; moved to the model's device.
        kwargs: Keyword inputs.
        freeze: Glob patterns (`fnmatch`) of parameters and buffers to keep fixed.
        free: Glob patterns of buffers to permute with the parameters: buffers that differ between trained models, such
            as masks. ``freeze`` takes precedence.
        method: ``export`` uses `torch.export`. ``execution`` records one forward pass, for data-dependent control flow
            such as in detectors; the result holds for that execution path, and tensors it does not use are fixed.
            ``auto`` uses ``export``. It uses ``execution`` instead if the export fails, or if the exported graph has
            operators without a rule and the execution permutes more. ``spec.coverage.captured`` states the method that
            was used and the reason.
        rules: Rules by operator name; those of all installed plugins if None.

    Returns:
        The specification. If it permutes nothing, a `NothingMovesWarning` is issued, unless all axes belong to inputs
        or outputs or are frozen on request (for example in a model without hidden units).

    Raises:
        SpecError: If the model cannot be traced, or a pattern in ``freeze`` or ``free`` matches nothing.
        PluginError: If two plugins have a rule for the same operator.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
        >>> spec = trace_spec(model, torch.zeros(1, 3, 8, 8))
        >>> for name, axes in spec.layout.as_json()["axes"].items():
        ...     print(f"{name}: {axes}")
        0.weight: units.0, 3, 3, 3
        0.bias: units.0
        3.weight: 10, units.0*36
        3.bias: 10
    """
    spec = derive(model, example_inputs, kwargs=kwargs, freeze=freeze, free=free, method=method, rules=rules)
    between = [axis for axis in spec.coverage.frozen if not any(_is_expected(reason) for reason in axis.reasons)]
    if between and not spec.coverage.groups:
        message = (
            "the traced specification permutes no axis, so alignment has no effect. "
            f"{len(between)} fixed axes are neither inputs nor outputs, the first: {between[0]}. "
            "`print(spec.coverage)` lists the reason for each"
        )
        warnings.warn(message, NothingMovesWarning, stacklevel=2)
    return spec


def _is_expected(reason: Reason) -> bool:
    """Return whether a reason for fixing axes also occurs in models without hidden units, or is a request to freeze."""
    return reason.operator in {"input", "output", "none"} or "kernel" in reason.why


def installed_rules(registry: Registry | None = None) -> Rules:
    """Return the operator rules of all plugins.

    Args:
        registry: Registry of plugins; all installed plugins if None.

    Returns:
        Rules by operator name.

    Raises:
        PluginError: If two plugins have a rule for the same operator.
    """
    found: dict[str, Rule] = {}
    owners: dict[str, str] = {}
    for entry in (registry or default_registry()).all():
        if entry.family != "operator_rules":
            continue
        for name, rule in entry.kind.rules.items():
            if name in found:
                message = f"the operator {name!r} has rules from {owners[name]} and {entry.status.label}; uninstall one"
                raise PluginError(message)
            found[name], owners[name] = rule, entry.status.label
    return found


find_rules_by(installed_rules)
