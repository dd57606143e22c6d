"""Deriving a specification from the graph of a model."""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor
from typing_extensions import override

from rebasin_core.errors import SpecError, nearest
from rebasin_core.specs.base import PermutationSpec
from rebasin_core.specs.operators.call import is_tensor, tensors_in
from rebasin_core.specs.operators.catalogue import BUILT_IN_RULES
from rebasin_core.specs.tracing.coverage import Coverage, coverage_of
from rebasin_core.specs.tracing.graph import capture, capture_training, value_of
from rebasin_core.specs.tracing.interpret import Interpreter, constant_terms
from rebasin_core.specs.unification.equations import Equations
from rebasin_core.specs.unification.solution import solve
from rebasin_core.specs.unification.terms import Reason, fresh
from rebasin_core.tensors.modules import named_tensors, unsaved_buffers
from rebasin_core.tensors.trees import tree_map

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn
    from torch.fx import Node

    from rebasin_core.specs.base import ExampleInputs
    from rebasin_core.specs.operators.base import Rules
    from rebasin_core.specs.operators.call import Terms
    from rebasin_core.specs.tracing.graph import Method, ModelGraph
    from rebasin_core.specs.unification.solution import Solution
    from rebasin_core.symmetry.layout import Layout


@final
class TracedSpec(PermutationSpec):
    """A specification derived by tracing, with the reason for everything that cannot move.

    `rebasin_core.trace_spec` makes it.

    Args:
        solution: The solved equations.
        without_rule: Operators that had no rule, with how often they were met.
        example_inputs: The inputs that the model was traced with, without values.
    """

    def __init__(
        self, solution: Solution, without_rule: Mapping[str, int], example_inputs: ExampleInputs | None = None
    ) -> None:
        self._solution, self._without_rule = solution, dict(without_rule)
        self._example_inputs = example_inputs

    @property
    @override
    def example_inputs(self) -> ExampleInputs | None:
        return self._example_inputs

    @override
    def _layout(self) -> Layout:
        return self._solution.layout

    @cached_property
    def coverage(self) -> Coverage:
        """What moves, what does not, and why."""
        return coverage_of(self.layout, self._solution.reasons, self._without_rule)


def derive(
    model: nn.Module,
    example_inputs: object,
    *,
    kwargs: Mapping[str, Any] | None = None,
    freeze: Sequence[str] = (),
    method: Method = "export",
    rules: Rules = BUILT_IN_RULES,
) -> TracedSpec:
    """Return the symmetries of a model: `rebasin_core.trace_spec`, with given rules.

    Args:
        model: Any module.
        example_inputs: A small batch, or a tuple of positional inputs.
        kwargs: Named inputs.
        freeze: Patterns of parameters and buffers that must not move.
        method: How the graph is captured.
        rules: A rule for every operator that has one.

    Returns:
        The specification.

    Raises:
        SpecError: If the model cannot be traced, or a pattern in ``freeze`` matches nothing.
    """
    args, named_args = _on_device(model, example_inputs, kwargs or {})
    graph = capture(model, args, named_args, method)
    equations = Equations()
    tensors = _tensors_of(model, graph, freeze, lambda: capture_training(model, args, named_args, method))
    for terms in tensors.values():
        equations.sight(terms)
    buffers = dict(model.named_buffers())
    constants = {name: buffers[name] for name in unsaved_buffers(model)}
    inputs = [_placeholder(node, graph, tensors, constants) for node in graph.placeholders.values()]
    for name, value in zip(graph.placeholders, inputs, strict=True):
        if graph.origins.get(name) is None and is_tensor(value):
            equations.sight(value)
    interpreter = Interpreter(equations, rules)
    for place, terms in enumerate(tensors_in(interpreter.run(graph.module, inputs))):
        for term in terms:
            equations.freeze(term, Reason("output", str(place), "it leaves the model"))
    parameters = dict(model.named_parameters())
    example = tree_map(_without_values, args), tree_map(_without_values, named_args)
    return TracedSpec(solve(equations, tensors, movable=parameters), interpreter.without_rule, example)


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
    value = value_of(node)
    if not hasattr(value, "shape"):
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
    found = {name for name, buffer in buffers.items() if not buffer.is_floating_point()}
    open_ones = (set(buffers) & graph.used_tensors) - found - graph.statistics - unsaved_buffers(model)
    if open_ones:
        trained = training()
        found |= open_ones - (trained.written_tensors if trained is not None else set())
    return found


def _without_values(leaf: object) -> object:
    """Return a tensor of the same shape and dtype on the meta device, and anything else as it is."""
    return torch.empty_like(leaf, device="meta") if isinstance(leaf, Tensor) else leaf


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
