"""Tracing with the rules of all plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rebasin_core.errors import PluginError
from rebasin_core.plugin.registry import Registry, default_registry
from rebasin_core.specs.operators.default import find_rules_by
from rebasin_core.specs.tracing.trace import derive

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from rebasin_core.specs.operators.base import Rule, Rules
    from rebasin_core.specs.tracing.graph import Method
    from rebasin_core.specs.tracing.trace import TracedSpec


def trace_spec(
    model: nn.Module,
    example_inputs: object,
    *,
    kwargs: Mapping[str, Any] | None = None,
    freeze: Sequence[str] = (),
    method: Method = "export",
    rules: Rules | None = None,
) -> TracedSpec:
    """Return the permutation symmetries of a model, derived from its graph.

    Every dimension of every parameter and buffer starts as an unknown axis. The graph is walked once; the rule of each
    operator says which axes it ties, splits, merges, lays end to end, or needs in order. What is left free is a group;
    a group may permute on its own inside every unit of another if nothing ever sees it without that other.

    The result is sound: whatever meets the inputs or outputs of the model, an operator without a rule, or a structure
    that does not fit the algebra of axes stays in order, and ``spec.coverage`` says so. Buffers move if normalisations
    use them as running statistics or if training writes to them; all others are constants.

    Args:
        model: Any module; it is traced in evaluation mode and is not changed. On the meta device nothing is allocated.
        example_inputs: A small batch, or a tuple of positional inputs; moved to the model's device.
        kwargs: Named inputs.
        freeze: Patterns (as in `fnmatch`) of parameters and buffers that must not move.
        method: ``export`` traces with `torch.export`. ``execution`` records the operators of one real execution: for
            models whose control flow depends on data, such as detectors; the specification then holds for that path,
            and what the path does not reach is frozen.
        rules: Rules by operator name; those of all installed plugins if None.

    Returns:
        The specification.

    Raises:
        SpecError: If the model cannot be traced, or a pattern in ``freeze`` matches nothing.
        PluginError: If two plugins have a rule for the same operator.

    Example:
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
    return derive(model, example_inputs, kwargs=kwargs, freeze=freeze, method=method, rules=rules)


def installed_rules(registry: Registry | None = None) -> Rules:
    """Return the rules of all plugins.

    Args:
        registry: Where to look; everything installed if not given.

    Returns:
        Rules by the names of their operators.

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
