"""Deriving a specification from the graph of a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor
from typing_extensions import override

from rebasin_core.errors import SpecError, nearest
from rebasin_core.specs.base import PermutationSpec
from rebasin_core.specs.operators.call import is_tensor, tensors_in
from rebasin_core.specs.operators.default import default_rules
from rebasin_core.specs.tracing.coverage import Coverage, coverage_of
from rebasin_core.specs.tracing.graph import capture, capture_training, value_of
from rebasin_core.specs.tracing.interpret import Interpreter, constant_terms
from rebasin_core.specs.unification.constraints import Constraints
from rebasin_core.specs.unification.solution import solve_constraints
from rebasin_core.specs.unification.terms import Reason, fresh
from rebasin_core.tensors.modules import unsaved_buffers, unwrapped
from rebasin_core.tensors.names import TensorNames
from rebasin_core.tensors.trees import tree_map

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from torch import nn
    from torch.fx import Node

    from rebasin_core.specs.base import ExampleInputs
    from rebasin_core.specs.operators.base import Rules
    from rebasin_core.specs.tracing.graph import Method, ModelGraph
    from rebasin_core.specs.unification.solution import Solution
    from rebasin_core.specs.unification.terms import AxisTerms
    from rebasin_core.symmetry.layout import Layout


@final
class TracedSpec(PermutationSpec):
    """A specification derived by tracing, with the reason for every fixed axis.

    `rebasin_core.trace_spec` returns it.

    Args:
        solution: The solution of all constraints.
        without_rule: Operators that have no rule, with the number of their calls.
        example_inputs: The inputs that the model was traced with, without values.
        names: Which of the model's tensors are buffers, and further names of them.
    """

    def __init__(
        self,
        solution: Solution,
        without_rule: Mapping[str, int],
        example_inputs: ExampleInputs | None = None,
        *,
        names: TensorNames | None = None,
    ) -> None:
        self._solution = solution
        self._names = names
        self._without_rule = dict(without_rule)
        self._example_inputs = example_inputs

    @property
    @override
    def example_inputs(self) -> ExampleInputs | None:
        return self._example_inputs

    @override
    def _layout(self) -> Layout:
        layout = self._solution.layout
        return (
            layout if self._names is None else replace(layout, buffers=self._names.buffers, aliases=self._names.aliases)
        )

    @cached_property
    def coverage(self) -> Coverage:
        """The permuted axes and the fixed ones, with reasons."""
        return coverage_of(self.layout, self._solution.reasons, self._without_rule)


def derive(
    model: nn.Module,
    example_inputs: object,
    *,
    kwargs: Mapping[str, Any] | None = None,
    freeze: Sequence[str] = (),
    method: Method = "export",
    rules: Rules | None = None,
) -> TracedSpec:
    """Derive the permutation symmetries of a model; see `rebasin_core.trace_spec`.

    Args:
        model: Any module.
        example_inputs: A small batch, or a tuple of positional inputs.
        kwargs: Named inputs.
        freeze: Patterns of parameters and buffers that are fixed.
        method: How the graph is captured.
        rules: Rules by operator name; those of all installed plugins if None.

    Returns:
        The specification.

    Raises:
        SpecError: If the model cannot be traced, or a pattern in ``freeze`` matches nothing.
        PluginError: If two plugins have a rule for the same operator.
    """
    model = unwrapped(model)
    tensors = _ModelTensors.of(model)
    _require_matches(freeze, tensors.named)
    args, named_args = tensors.on_device(example_inputs, kwargs or {})
    graph = capture(model, args, named_args, method)
    reasons = _reasons(tensors, graph, freeze, lambda: capture_training(model, args, named_args, method))
    terms_of = {
        name: tuple(fresh(size, reasons.get(name)) for size in tensor.shape) for name, tensor in tensors.named.items()
    }
    constraints = Constraints()
    for terms in terms_of.values():
        constraints.observe(terms)
    constants = {name: tensors.buffers[name] for name in tensors.unsaved}
    inputs = [_placeholder(node, graph, terms_of, constants) for node in graph.placeholders.values()]
    for name, value in zip(graph.placeholders, inputs, strict=True):
        if graph.origins.get(name) is None and is_tensor(value):
            constraints.observe(value)
    interpreter = Interpreter(constraints, default_rules() if rules is None else rules)
    for index, terms in enumerate(tensors_in(interpreter.run(graph.module, inputs))):
        for term in terms:
            constraints.freeze(term, Reason("output", str(index), "it leaves the model"))
    solution = solve_constraints(constraints, terms_of, parameters=tensors.parameters)
    example = tree_map(_without_values, args), tree_map(_without_values, named_args)
    return TracedSpec(solution, interpreter.without_rule, example, names=TensorNames.of_module(model))


@final
@dataclass(frozen=True, slots=True)
class _ModelTensors:
    """The tensors of a model by name, parameters first; a tensor that several modules share has one name."""

    named: Mapping[str, Tensor]
    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    unsaved: frozenset[str]

    @classmethod
    def of(cls, model: nn.Module) -> _ModelTensors:
        parameters = dict(model.named_parameters())
        buffers = dict(model.named_buffers())
        return cls({**parameters, **buffers}, parameters, buffers, unsaved_buffers(model) & buffers.keys())

    def on_device(self, example_inputs: object, kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the inputs on the device of the model."""
        device = next((tensor.device for tensor in self.named.values()), torch.device("cpu"))
        args = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)

        def moved(leaf: object) -> object:
            if not isinstance(leaf, Tensor):
                return leaf
            return torch.empty_like(leaf, device=device) if device.type == "meta" else leaf.to(device)

        return tree_map(moved, args), tree_map(moved, dict(kwargs))


def _require_matches(freeze: Sequence[str], names: Collection[str]) -> None:
    for pattern in freeze:
        if not any(fnmatchcase(name, pattern) for name in names):
            message = f"`freeze` names {pattern!r}, which no parameter or buffer matches; {nearest(pattern, names)}"
            raise SpecError(message)


def _placeholder(
    node: Node, graph: ModelGraph, terms_of: Mapping[str, AxisTerms], constants: Mapping[str, Tensor]
) -> object:
    """Return the value of a placeholder: the axes of a parameter, buffer, constant or input; inputs are fixed."""
    origin = graph.origins.get(node.name)
    if origin is not None and origin in constants:
        return constant_terms(constants[origin], origin)
    if origin is not None:
        return terms_of[origin]
    if node.name in graph.constants:
        return constant_terms(graph.constants[node.name], node.name)
    value = value_of(node)
    if not hasattr(value, "shape"):
        return value
    reason = Reason("input", node.name, "it enters the model")
    return tuple(fresh(int(size), reason) for size in value.shape)


def _reasons(
    tensors: _ModelTensors, graph: ModelGraph, freeze: Sequence[str], training: Callable[[], ModelGraph | None]
) -> dict[str, Reason]:
    """Return why parameters and buffers are fixed in all dimensions, before any operator constrains them."""
    why = dict.fromkeys(set(tensors.named) - graph.used_tensors, "never used")
    why |= dict.fromkeys(_constant_buffers(tensors, graph, training), "a buffer that training does not change")
    why |= dict.fromkeys(tensors.unsaved, "a buffer that is not saved")
    why |= {name: "asked for" for name in tensors.named if any(fnmatchcase(name, pattern) for pattern in freeze)}
    return {name: Reason("buffer" if "buffer" in text else "none", name, text) for name, text in why.items()}


def _constant_buffers(tensors: _ModelTensors, graph: ModelGraph, training: Callable[[], ModelGraph | None]) -> set[str]:
    """Return the buffers that training does not change; permuting them would make two models incomparable."""
    found = {name for name, buffer in tensors.buffers.items() if not buffer.is_floating_point()}
    undecided = (set(tensors.buffers) & graph.used_tensors) - found - graph.statistics - tensors.unsaved
    if undecided:
        trained = training()
        found |= undecided - (trained.written_tensors if trained is not None else frozenset())
    return found


def _without_values(leaf: object) -> object:
    """Return a tensor of the same shape and dtype on the meta device, and anything else as it is."""
    return torch.empty_like(leaf, device="meta") if isinstance(leaf, Tensor) else leaf
