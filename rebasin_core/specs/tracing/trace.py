"""Deriving a specification from the graph of a model."""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast, final

import torch
from torch import Tensor
from typing_extensions import override

from rebasin_core.errors import SpecError, nearest
from rebasin_core.specs.base import PermutationSpec
from rebasin_core.specs.operators.base import is_tensor
from rebasin_core.specs.operators.catalogue import BUILT_IN_RULES
from rebasin_core.specs.tracing.coverage import Coverage, coverage_of
from rebasin_core.specs.tracing.graph import capture, capture_training
from rebasin_core.specs.tracing.interpret import Interpreter, constant_terms
from rebasin_core.specs.unknowns.equations import Equations
from rebasin_core.specs.unknowns.solution import solve
from rebasin_core.specs.unknowns.terms import Reason, fresh
from rebasin_core.tensors.modules import named_tensors, unsaved_buffers
from rebasin_core.tensors.trees import tree_map

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn
    from torch.fx import Node

    from rebasin_core.specs.operators.base import Rules, Terms
    from rebasin_core.specs.tracing.graph import Method, ModelGraph
    from rebasin_core.specs.unknowns.solution import Solution
    from rebasin_core.symmetry.layout import Layout


@final
class TracedSpec(PermutationSpec):
    """A specification derived by tracing, with the reason for everything that cannot move; `trace_spec` makes it.

    Args:
        solution: The solved equations.
        without_rule: Operators that had no rule, with how often they were met.
    """

    def __init__(self, solution: Solution, without_rule: Mapping[str, int]) -> None:
        self._solution, self._without_rule = solution, dict(without_rule)

    @override
    def _layout(self) -> Layout:
        return self._solution.layout

    @cached_property
    def coverage(self) -> Coverage:
        """What moves, what does not, and why."""
        return coverage_of(self.layout, self._solution.reasons, self._without_rule)


def trace_spec(
    model: nn.Module,
    example_inputs: object,
    *,
    kwargs: Mapping[str, Any] | None = None,
    freeze: Sequence[str] = (),
    method: Method = "export",
    rules: Rules = BUILT_IN_RULES,
) -> TracedSpec:
    """Return the permutation symmetries of a model, derived from its graph.

    Every dimension of every parameter and buffer starts as an unknown axis. The graph is walked once; the rule of each
    operator says which axes it ties, splits, merges, lays end to end, or needs in order. What is left free is a group;
    a group may permute on its own inside every unit of another if nothing ever sees it without that other.

    The result is sound: whatever meets the inputs or outputs of the model, an operator without a rule, or a structure
    that does not fit the algebra of axes stays in order, and `TracedSpec.coverage` says so. Buffers move if
    normalisations use them as running statistics or if training writes to them; all others are constants.

    Args:
        model: Any module; it is traced in evaluation mode and is not changed. On the meta device nothing is allocated.
        example_inputs: A small batch, or a tuple of positional inputs; moved to the model's device.
        kwargs: Named inputs.
        freeze: Patterns (as in `fnmatch`) of parameters and buffers that must not move.
        method: ``export`` traces with `torch.export`. ``execution`` records the operators of one real execution: for
            models whose control flow depends on data, such as detectors; the specification then holds for that path,
            and what the path does not reach is frozen.
        rules: A rule for every operator that has one.

    Returns:
        The specification.

    Raises:
        SpecError: If the model cannot be traced, or a pattern in ``freeze`` matches nothing.

    Example:
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
    args, named = _on_device(model, example_inputs, kwargs or {})
    graph = capture(model, args, named, method)
    equations = Equations()
    tensors = _tensors_of(model, graph, freeze, lambda: capture_training(model, args, named, method))
    interpreter = Interpreter(equations, rules)
    constants = {name: named_tensors(model)[name] for name in unsaved_buffers(model)}
    values = {name: _placeholder(node, graph, tensors, constants) for name, node in graph.placeholders.items()}
    for terms in tensors.values():
        equations.sight(terms)
    for name, value in values.items():
        if graph.origins.get(name) is None and is_tensor(value):
            equations.sight(cast("Terms", value))
    outputs = interpreter.run(graph.module, values)
    for place, terms in enumerate(_leaves(outputs)):
        for term in terms:
            equations.freeze(term, Reason("output", str(place), "it leaves the model"))
    parameters = dict(model.named_parameters())
    return TracedSpec(solve(equations, tensors, movable=set(parameters)), interpreter.without_rule)


def _placeholder(
    node: Node, graph: ModelGraph, tensors: Mapping[str, Terms], constants: Mapping[str, Tensor]
) -> object:
    """Return what a placeholder stands for: a parameter or buffer, a constant, or an input, which stays in order."""
    origin = graph.origins.get(node.name)
    if origin is not None and origin in constants:
        return constant_terms(constants[origin], origin)
    if origin is not None:
        return tensors[origin]
    if node.name in graph.constants:
        return constant_terms(graph.constants[node.name], node.name)
    value = node.meta.get("val", node.meta.get("tensor_meta"))
    if value is None or not hasattr(value, "shape"):
        return value
    reason = Reason("input", node.name, "it enters the model")
    return tuple(fresh(int(size), reason) for size in value.shape)


def _tensors_of(
    model: nn.Module, graph: ModelGraph, freeze: Sequence[str], training: Callable[[], ModelGraph | None]
) -> dict[str, Terms]:
    """Return new axes for every parameter and buffer; those that cannot move say why."""
    named, unsaved = named_tensors(model), unsaved_buffers(model)
    for pattern in freeze:
        if not any(fnmatchcase(name, pattern) for name in named):
            message = f"`freeze` names {pattern!r}, which no parameter or buffer matches; {nearest(pattern, named)}"
            raise SpecError(message)
    why = dict.fromkeys(set(named) - graph.used_tensors, "never used")
    why |= dict.fromkeys(_constant_buffers(model, graph, training), "a buffer that training does not change")
    why |= dict.fromkeys(unsaved, "a buffer that is not saved")
    why |= {name: "asked for" for name in named if any(fnmatchcase(name, pattern) for pattern in freeze)}
    reasons = {name: Reason("buffer" if "buffer" in text else "none", name, text) for name, text in why.items()}
    return {name: tuple(fresh(size, reasons.get(name)) for size in tensor.shape) for name, tensor in named.items()}


def _constant_buffers(model: nn.Module, graph: ModelGraph, training: Callable[[], ModelGraph | None]) -> set[str]:
    """Return the buffers that training does not change; permuting them would make two models incomparable."""
    buffers = dict(model.named_buffers())
    open_ones = {name for name, buffer in buffers.items() if buffer.is_floating_point()} - graph.statistics
    open_ones &= graph.used_tensors
    found = {name for name, buffer in buffers.items() if not buffer.is_floating_point()}
    if open_ones:
        trained = training()
        found |= open_ones - (trained.written_tensors if trained is not None else set())
    return found


def _on_device(
    model: nn.Module, example_inputs: object, kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    device = next((tensor.device for tensor in named_tensors(model).values()), torch.device("cpu"))
    args = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)

    def moved(leaf: object) -> object:
        if not isinstance(leaf, Tensor):
            return leaf
        return torch.empty_like(leaf, device=device) if device.type == "meta" else leaf.to(device)

    return tree_map(moved, args), tree_map(moved, dict(kwargs))


def _leaves(value: object) -> list[Terms]:
    if isinstance(value, tuple):
        return [value]
    if isinstance(value, list):
        return [found for item in value for found in _leaves(item)]
    return [found for item in value.values() for found in _leaves(item)] if isinstance(value, dict) else []
