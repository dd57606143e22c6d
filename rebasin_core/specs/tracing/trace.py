"""Derive a specification from the graph of a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, final

import torch
from torch import Tensor
from typing_extensions import override

from rebasin_core.errors import SpecError
from rebasin_core.specs.base import PermutationSpec
from rebasin_core.specs.folding import Foldable
from rebasin_core.specs.kinds.report import group_kinds
from rebasin_core.specs.operators.call import is_tensor, tensors_in
from rebasin_core.specs.operators.default import default_rules
from rebasin_core.specs.operators.positions import labels_in
from rebasin_core.specs.tracing.branches.stacking import Stacking
from rebasin_core.specs.tracing.capture import capture, capture_training
from rebasin_core.specs.tracing.coverage import Captured, Coverage, coverage_of
from rebasin_core.specs.tracing.failure import failure, require_inputs, require_module, require_outputs, summary
from rebasin_core.specs.tracing.graph import value_of
from rebasin_core.specs.tracing.interpret import Interpreter, UnknownLengthError, constant_terms
from rebasin_core.specs.tracing.model_tensors import ModelTensors, fixed_reasons
from rebasin_core.specs.tracing.second import SecondInterpretation
from rebasin_core.specs.tracing.translations import foldable_in
from rebasin_core.specs.tracing.unread import fix_unread_entries
from rebasin_core.specs.unification.constraints import Constraints
from rebasin_core.specs.unification.solution import solve_constraints
from rebasin_core.specs.unification.terms import Reason, fresh
from rebasin_core.symmetry.linear import Symmetry
from rebasin_core.tensors.arguments import require_mapping
from rebasin_core.tensors.inputs import call_arguments
from rebasin_core.tensors.modules import unwrapped
from rebasin_core.tensors.names import TensorNames
from rebasin_core.tensors.trees import tree_map

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn
    from torch.fx import Node

    from rebasin_core.specs.base import ExampleInputs
    from rebasin_core.specs.kinds.derive import Symmetries
    from rebasin_core.specs.operators.base import Rules
    from rebasin_core.specs.tracing.capture import CaptureMethod, Method
    from rebasin_core.specs.tracing.graph import ModelGraph
    from rebasin_core.specs.unification.interface import AxisConstraints
    from rebasin_core.specs.unification.solution import Solution
    from rebasin_core.specs.unification.terms import AxisTerms
    from rebasin_core.symmetry.layout import Layout

_EXPORTED: Final = Captured("export")


@final
class TracedSpec(PermutationSpec):
    """A specification derived by tracing, with reasons for all fixed axes; `rebasin_core.trace_spec` returns it.

    Args:
        solution: The solution of all constraints.
        without_rule: Number of calls of each operator without a rule.
        example_inputs: The inputs used for tracing, as tensors on the meta device.
        captured: The method by which the graph was captured.
        decomposed: Number of calls of each decomposed operator.
        names: Names of the buffers, and aliases of shared tensors.
        symmetries: The linear symmetries; none if None.
        foldable: Shifts and means that can be folded; none if None.
    """

    def __init__(  # ruff: ignore[too-many-arguments] - all that one derivation yields
        self,
        solution: Solution,
        without_rule: Mapping[str, int],
        example_inputs: ExampleInputs | None = None,
        captured: Captured = _EXPORTED,
        decomposed: Mapping[str, int] | None = None,
        *,
        names: TensorNames | None = None,
        symmetries: Symmetries | None = None,
        foldable: Foldable | None = None,
    ) -> None:
        self._solution = solution
        self._symmetries = symmetries
        self._foldable = foldable or Foldable()
        self._names = names
        self._without_rule = dict(without_rule)
        self._example_inputs = example_inputs
        self._captured = captured
        self._decomposed = dict(decomposed or {})

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

    @override
    def _symmetry(self) -> Symmetry:
        return self._named(None if self._symmetries is None else self._symmetries.plain)

    @cached_property
    @override
    def folded_symmetry(self) -> Symmetry:
        return self._named(None if self._symmetries is None else self._symmetries.folded)

    def _named(self, symmetry: Symmetry | None) -> Symmetry:
        """Return a symmetry with the names of buffers and aliases in its layout."""
        if symmetry is None or not symmetry.unpermuted:
            return Symmetry(self.layout, () if symmetry is None else symmetry.linear)
        layout = replace(symmetry.layout, buffers=self.layout.buffers, aliases=self.layout.aliases)
        return Symmetry(layout, symmetry.linear, symmetry.unpermuted)

    @property
    @override
    def foldable(self) -> Foldable:
        return self._foldable

    @cached_property
    def coverage(self) -> Coverage:
        """Counts of permuted axes, and the fixed axes with reasons."""
        reasons = self._solution.reasons
        limits = self._symmetries.limits if self._symmetries else {}
        kinds = group_kinds(self.symmetry, self.folded_symmetry, limits)
        return coverage_of(self.layout, reasons, self._without_rule, self._captured, self._decomposed, kinds)


def derive(  # ruff: ignore[too-many-arguments] - those of `trace_spec`
    model: nn.Module,
    example_inputs: object,
    *,
    kwargs: Mapping[str, Any] | None = None,
    freeze: Sequence[str] = (),
    free: Sequence[str] = (),
    method: Method = "auto",
    rules: Rules | None = None,
) -> TracedSpec:
    """Derive the permutation symmetries of a model; see `rebasin_core.trace_spec`.

    Args:
        model: Module to trace.
        example_inputs: Small batch, or tuple of positional inputs.
        kwargs: Keyword inputs.
        freeze: Glob patterns of parameters and buffers to keep fixed.
        free: Glob patterns of buffers to permute with the parameters.
        method: Method by which to capture the graph.
        rules: Rules by operator name; those of all installed plugins if None.

    Returns:
        The specification.

    Raises:
        SpecError: If the model cannot be traced, if a pattern in ``freeze`` matches nothing, or if a pattern in
            ``free`` matches no buffer of the state dict.
        PluginError: If two plugins have a rule for the same operator.
    """
    require_module(model)
    model = unwrapped(model)
    if kwargs is not None:
        require_mapping(kwargs, "a mapping of keyword inputs")
    tensors = ModelTensors.of(model)
    frozen = frozenset(tensors.frozen(freeze))
    freed = frozenset(tensors.freed(free)) - frozen
    args, named_args = tensors.on_device(*call_arguments(model, example_inputs, kwargs))
    require_inputs(model, args, named_args)
    own_rules = default_rules() if rules is None else rules
    problem = _Problem(model, tensors, args, named_args, frozen, freed, own_rules)
    if method == "auto":
        return _solve_automatically(problem)
    return _solve_by(problem, method)


def _solve_by(problem: _Problem, method: CaptureMethod) -> TracedSpec:
    """Return the specification derived by the requested method."""
    try:
        return problem.solve(method)
    except _Uncaptured as error:
        raise failure(problem.model, problem.args, problem.kwargs, {method: error.cause}) from error.cause


def _solve_automatically(problem: _Problem) -> TracedSpec:
    """Return the specification from export, or from an execution if export fails or has a smaller group."""
    try:
        exported = problem.solve("export")
    except _Uncaptured as error:
        first = error.cause
    else:
        return exported if not exported.coverage.without_rule else _with_larger_group(problem, exported)
    try:
        return problem.solve("execution", f"`torch.export` failed ({summary(first)})")
    except _Uncaptured as error:
        causes = {"export": first, "execution": error.cause}
        raise failure(problem.model, problem.args, problem.kwargs, causes) from error.cause


def _with_larger_group(problem: _Problem, exported: TracedSpec) -> TracedSpec:
    """Return the specification from an execution if its group is larger: its operators may have rules."""
    missing = ", ".join(exported.coverage.without_rule)
    try:
        executed = problem.solve("execution", f"the exported graph has operators without a rule ({missing})")
    except (_Uncaptured, SpecError):
        return exported
    return executed if executed.layout.log10_order > exported.layout.log10_order else exported


@final
class _Uncaptured(Exception):  # ruff: ignore[error-suffix-on-exception-name] - never leaves this file
    """A method failed to capture the graph."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


@final
@dataclass(frozen=True, slots=True)
class _Problem:
    """A model, its inputs, and the options for tracing."""

    model: nn.Module
    tensors: ModelTensors
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    frozen: frozenset[str]
    freed: frozenset[str]
    rules: Rules
    stacking: Stacking | None = None

    def solve(self, method: CaptureMethod, why: str = "") -> TracedSpec:
        """Return the specification from a graph captured by a method."""
        try:
            graph = capture(self.model, self.args, self.kwargs, method)
        except Exception as error:  # the model's code may raise anything
            raise _Uncaptured(error) from error
        try:
            return self._with_exchanges(graph, self._solved(graph, method, why), method, why)
        except UnknownLengthError as error:
            raise _Uncaptured(error) from error

    def _with_exchanges(self, graph: ModelGraph, found: TracedSpec, method: CaptureMethod, why: str) -> TracedSpec:
        """Return a specification that also exchanges like branches of a graph, if its group is larger."""
        stacking = Stacking.of(graph, self.tensors, self.frozen)
        running = graph.running_statistics
        while stacking.labels:
            freed = stacking.renamed(self.freed | running)
            problem = replace(self, tensors=stacking.tensors(self.tensors), freed=freed, stacking=stacking)
            other = problem._solved(stacking.graph, method, why)  # ruff: ignore[private-member-access] - of this class
            permuted = stacking.permuted_in(other.layout)
            if permuted is stacking:
                return other if _is_larger(other, found) else found
            stacking = permuted
        return found

    def _solved(self, graph: ModelGraph, method: CaptureMethod, why: str) -> TracedSpec:
        """Return the specification from a graph."""
        solution, symmetries, interpreter = self._interpret(graph, method)
        example = tree_map(_without_values, self.args), tree_map(_without_values, dict(self.kwargs))
        names = TensorNames.of_module(self.model)
        captured = Captured(method, why)
        return TracedSpec(
            solution,
            interpreter.without_rule,
            example,
            captured=captured,
            decomposed=interpreter.decomposed,
            names=names,
            symmetries=symmetries,
            foldable=self._foldable(graph, symmetries),
        )

    def _foldable(self, graph: ModelGraph, symmetries: Symmetries) -> Foldable:
        """Return the parts that can be folded, without tensors that are frozen."""
        stacked = set() if self.stacking is None else set(self.stacking.stacks.values())
        found = foldable_in(graph, self.tensors.parameters.keys() - self.frozen - stacked)
        obstacles = {**found.obstacles, **symmetries.obstacles}
        return replace(found, offset_scales=symmetries.offset_scales, obstacles=obstacles)

    def _interpret(self, graph: ModelGraph, method: CaptureMethod) -> tuple[Solution, Symmetries, Interpreter]:
        tensors = self.tensors
        reasons = fixed_reasons(
            tensors,
            graph,
            self.frozen,
            self.freed,
            lambda: self._training(method),
        )
        terms_of = {
            name: tuple(fresh(size, reasons.get(name)) for size in tensor.shape)
            for name, tensor in tensors.named.items()
        }
        constraints = Constraints()
        for terms in terms_of.values():
            constraints.observe(terms)
        interpreter = Interpreter(constraints, self.rules)
        self._run(graph, terms_of, constraints, interpreter)
        fix_unread_entries(graph, terms_of, constraints)
        solution = solve_constraints(constraints, terms_of, parameters=tensors.parameters)
        constant = reasons.keys() | tensors.constant_entries
        second = SecondInterpretation(graph, constraints, solution, terms_of, constant, self.rules, self._run)
        unsaved = {name: own for name, origin in graph.origins.items() if (own := self._unsaved(origin)) is not None}
        return solution, second.symmetries(unsaved), interpreter

    def _training(self, method: CaptureMethod) -> ModelGraph | None:
        """Return the graph in training mode, if it can be captured, with the names of stacks."""
        graph = capture_training(self.model, self.args, self.kwargs, method)
        stacks = {} if self.stacking is None else self.stacking.stacks
        if graph is None or not stacks:
            return graph
        return replace(graph, origins={key: stacks.get(name or "", name) for key, name in graph.origins.items()})

    def _unsaved(self, origin: str | None) -> Tensor | None:
        """Return the value of a buffer that is not saved; None for other tensors."""
        return self.tensors.buffers[origin] if origin in self.tensors.unsaved else None

    def _run(
        self,
        graph: ModelGraph,
        terms_of: Mapping[str, AxisTerms],
        constraints: AxisConstraints,
        interpreter: Interpreter,
    ) -> None:
        """Interpret the graph, and fix the axes of its outputs."""
        constants = {name: self.tensors.buffers[name] for name in self.tensors.unsaved}
        inputs = [_placeholder(node, graph, terms_of, constants) for node in graph.placeholders.values()]
        for name, value in zip(graph.placeholders, inputs, strict=True):
            if graph.origins.get(name) is None and is_tensor(value):
                constraints.observe(value)
        unsaved = {name: constants[origin] for name, origin in graph.origins.items() if origin in constants}
        returned = interpreter.run(graph.module, inputs, {**graph.constants, **unsaved})
        outputs = tensors_in(returned)
        require_outputs(self.model, outputs)
        for index, terms in enumerate(outputs):
            for term in terms:
                constraints.freeze(term, Reason("output", str(index), "model output"))
        for label in labels_in(returned):
            constraints.freeze(label.along, Reason("output", "positions", "positions along it are a model output"))


def _is_larger(spec: TracedSpec, other: TracedSpec) -> bool:
    """Return whether a specification has more permutations than another, and no fewer linear maps."""
    more = spec.layout.log10_order > other.layout.log10_order
    own, given = spec.folded_symmetry, other.folded_symmetry
    return more and own.dimension >= given.dimension and own.log2_signs >= given.log2_signs


def _placeholder(
    node: Node, graph: ModelGraph, terms_of: Mapping[str, AxisTerms], constants: Mapping[str, Tensor]
) -> object:
    """Return the axes of the parameter, buffer, constant or input of a placeholder; the axes of inputs are fixed."""
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
    reason = Reason("input", node.name, "model input")
    return tuple(fresh(int(size), reason) for size in value.shape)


def _without_values(leaf: object) -> object:
    """Return a tensor on the meta device, with shape and dtype; return other leaves unchanged."""
    return torch.empty_like(leaf, device="meta") if isinstance(leaf, Tensor) else leaf
