"""Abstract interpretation of a graph on axes: each operator maps the axes of its arguments to those of its outputs."""

from __future__ import annotations

import operator
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, final

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from rebasin_core.errors import SpecError
from rebasin_core.specs.operators.call import Call, is_tensor, tensors_in
from rebasin_core.specs.operators.elementwise import elementwise, unchanged
from rebasin_core.specs.operators.indexing import frozen
from rebasin_core.specs.operators.normalization import BATCH_NORMALIZATIONS
from rebasin_core.specs.operators.positions import Positions, as_integers, label_of, labels_in
from rebasin_core.specs.tracing.constants import KnownConstants, refined, values_of
from rebasin_core.specs.tracing.decompose import Decomposer
from rebasin_core.specs.tracing.graph import value_of, written_nodes
from rebasin_core.specs.tracing.positioned import computed_axes, positioned
from rebasin_core.specs.unification.relation import Sight
from rebasin_core.specs.unification.terms import Reason, fresh, has_uniform, length, substitute

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rebasin_core.specs.operators.base import Result, Rules
    from rebasin_core.specs.unification.interface import AxisConstraints
    from rebasin_core.specs.unification.terms import AxisTerm, AxisTerms, Factor

Conclude: TypeAlias = "Callable[[Call, Node, list[AxisTerms]], list[AxisTerms]]"
"""Function of a call, its node and the axes of its outputs; returns their axes."""


_RANGES = ("aten.slice", "aten.narrow")  # an empty range does not constrain the tensor
# Operators whose rules also hold for empty tensors.
_ACCEPT_EMPTY = frozenset({
    "aten.cat", "aten.index", "aten.index_put", "aten.index_put_", "aten.linear", "aten.conv2d", "aten.index_select",
    "torchvision.roi_align", "torchvision.roi_pool", "torchvision.nms",
    *(f"aten.{name}" for name in BATCH_NORMALIZATIONS),
})  # fmt: skip


def _as_they_are(call: Call, node: Node, results: list[AxisTerms]) -> list[AxisTerms]:
    """Return the axes of the outputs of a call unchanged."""
    del call, node
    return results


@final
class UnknownLengthError(SpecError):
    """The length of an axis depends on the values of tensors; it is known only in a recorded execution."""


@final
class Interpreter:
    """Runs a graph once, on the axes of tensors instead of their values.

    Args:
        constraints: The constraints that the rules add to.
        rules: Rules by operator name.
        conclude: Called with every call to which a rule was applied, and the axes of its outputs; returns their axes.

    Attributes:
        without_rule: Number of calls of each operator with neither a rule nor a decomposition, or whose rule failed.
        decomposed: Number of calls of each operator that was decomposed.
    """

    def __init__(self, constraints: AxisConstraints, rules: Rules, conclude: Conclude = _as_they_are) -> None:
        self._constraints = constraints
        self._conclude = conclude
        self._rules = rules
        self._known = KnownConstants()
        self._decomposer = Decomposer()
        self.without_rule: dict[str, int] = {}
        self.decomposed: dict[str, int] = {}

    def run(self, module: GraphModule, inputs: Sequence[Any], constants: Mapping[str, Tensor] | None = None) -> Any:  # ruff: ignore[any-type] - nested lists of axes
        """Return the outputs of a graph.

        Args:
            module: The graph.
            inputs: The axes of its placeholders, in order.
            constants: The values of placeholders that are constants, by name.

        Returns:
            Axes, in the structure of the graph's output.
        """
        values: dict[Node, Any] = {}
        given = iter(inputs)
        mutated = written_nodes(module)
        for node in module.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(given)
                if constants and node.name in constants and node not in mutated:
                    self._known.record(node, constants[node.name])
            elif node.op == "get_attr":
                values[node] = _attribute_terms(module, node)
                if node not in mutated:
                    self._known.record(node, operator.attrgetter(str(node.target))(module))
            elif node.op == "output":
                return _substitute_values(node.args[0], values)
            else:
                value = self._call_operator(node, values)
                values[node] = _writable(value) if node in mutated else self._refine(node, value)
                for terms in tensors_in(values[node]):
                    self._constraints.observe(terms)
        return None

    def _refine(self, node: Node, value: Any) -> Any:  # ruff: ignore[any-type]
        """Return the axes of a value, refined if it is a constant."""
        constant = self._known.compute(node)
        if constant is None or not is_tensor(value) or label_of(value) is not None:
            return value
        return refined(value, constant)

    def _call_operator(self, node: Node, values: Mapping[Node, Any]) -> Any:  # ruff: ignore[any-type]
        if node.target is operator.getitem:
            source, index = _substitute_values(node.args, values)
            return source[index]
        if "wrap" in str(node.target):  # a region with other gradient or autocast settings
            given = _substitute_values(node.args, values)
            regions = [index for index, argument in enumerate(given) if isinstance(argument, GraphModule)]
            if len(regions) == 1:
                return self.run(given[regions[0]], given[regions[0] + 1 :])
        shapes = _output_shapes(node)
        if not shapes:
            _fix_read_positions(node, values, self._constraints)
            return _scalar_value(node)
        example = partial(self._known.example, node)
        call = Call(
            _operator_name(node),
            node.name,
            _bind_arguments(node, values),
            shapes,
            _used_outputs(node),
            self._constraints,
            example,
        )
        results = self._apply(call, node, values)
        return results if _returns_list(node) else results[0]

    def _apply(self, call: Call, node: Node, values: Mapping[Node, Any]) -> list[AxisTerms]:
        """Return the axes of all outputs, from the rule for positions if there is one."""

        def ordinary(call: Call) -> list[AxisTerms]:
            return self._apply_rule(call, node, values)

        try:
            uses_values_only = call.used == {0} and not labels_in([*call.arguments.values()])
            found = None if uses_values_only else positioned(call, node, ordinary)
            if found is not None:
                for term in computed_axes(call, found):
                    call.see(term, Sight.ANY, "units are seen by an operator on positions")
                return _check_lengths(call, found)
        except Exception as error:  # ruff: ignore[blind-except] - as below; the axes of the positions are then fixed
            self._report(_failed(call, error))
        return ordinary(as_integers(call))

    def _apply_rule(self, call: Call, node: Node, values: Mapping[Node, Any]) -> list[AxisTerms]:
        rule = self._rules.get(call.operator) or self._rules.get(call.operator.removesuffix("_"))
        if rule is None and torch.Tag.pointwise in getattr(node.target, "tags", ()):
            rule = elementwise
        empty = any(0 in shape for shape in call.shapes) or any(
            length(term) == 0 for terms in call.tensors for term in terms
        )
        if empty and rule not in {elementwise, unchanged} and call.operator not in _ACCEPT_EMPTY:
            return _fix_empty(call)
        label = call.operator
        if rule is not None:
            try:
                return self._conclude(call, node, _check_lengths(call, rule(call)))
            except Exception as error:  # ruff: ignore[blind-except] - a rule that fails must not stop the trace
                # Constraints added before the failure are harmless. Decomposing or fixing keeps the result sound.
                label = _failed(call, error)
        found = self._apply_decomposition(call, node, values)
        if found is None:
            return self._fix_axes(call, label)
        if label != call.operator:  # a failed rule is reported even if the operator is decomposed
            self._report(label)
        return found

    def _apply_decomposition(self, call: Call, node: Node, values: Mapping[Node, Any]) -> list[AxisTerms] | None:
        """Return the axes of the outputs by decomposing the operator; None if it has no decomposition."""
        found = self._decomposer.decomposition(node, call.used, values)
        if found is None:
            return None
        self._decomposer.depth += 1
        try:
            outputs = self.run(found.module, [tuple(values[argument]) for argument in found.inputs])
        finally:
            self._decomposer.depth -= 1
        results = outputs if _returns_list(node) else [outputs]
        unused = call.all_fixed("never used")
        for label in labels_in(results):
            self._constraints.freeze(label.along, call.because(label.why))
        plain = [fixed if own is None else tuple(own) for own, fixed in zip(results, unused, strict=True)]
        try:
            checked = _check_lengths(call, plain)
        except SpecError:  # PyTorch states wrong shapes, such as those of LSTM states before 2.13
            return None
        self.decomposed[call.operator] = self.decomposed.get(call.operator, 0) + 1
        return checked

    def _fix_axes(self, call: Call, label: str) -> list[AxisTerms]:
        self._report(label)
        return frozen(call, not_ruled=True)

    def _report(self, label: str) -> None:
        """Count a call of an operator without a rule, or whose rule failed."""
        self.without_rule[label] = self.without_rule.get(label, 0) + 1


def _failed(call: Call, error: Exception) -> str:
    """Return the label for reports of a call whose rule failed."""
    return f"{call.operator} (its rule failed: {type(error).__name__}: {error})"


def _fix_empty(call: Call) -> list[AxisTerms]:
    """Fix the axes of an operator on empty tensors, which most rules do not cover."""
    why = "the tensor is empty for the example inputs"
    for terms in [] if call.operator in _RANGES else call.tensors:
        for term in terms:
            call.freeze(term, why)
    return call.all_fixed(why)


def _operator_name(node: Node) -> str:
    """Return the name of an operator without its overload."""
    if isinstance(node.target, torch._ops.OpOverload):  # ruff: ignore[private-member-access] - there is no public alias
        return f"{node.target.namespace}.{node.target._schema.name.partition('::')[2]}"  # ruff: ignore[private-member-access]
    return str(getattr(node.target, "__name__", node.target))


def _attribute_terms(module: GraphModule, node: Node) -> object:
    value = operator.attrgetter(str(node.target))(module)
    if isinstance(value, Tensor) and node.meta.get("unknown"):
        reason = Reason("constant", node.name, "it was computed by code that is not recorded")
        return tuple(fresh(size, reason) for size in value.shape)
    return constant_terms(value, node.name) if isinstance(value, Tensor) else value


def constant_terms(tensor: Tensor, name: str) -> AxisTerms:
    """Return the axes of a constant, which are fixed unless a permutation leaves its values unchanged.

    Args:
        tensor: The constant. Without values, such as on the meta device, it is assumed to vary along every axis.
        name: Name of the constant, for reports.

    Returns:
        The axes.
    """
    reason = Reason("constant", name, "values vary along it")
    terms = tuple(fresh(size, reason) for size in tensor.shape)
    known = values_of(tensor)
    return terms if known is None else refined(terms, known)


def _bind_arguments(node: Node, values: Mapping[Node, Any]) -> dict[str, Any]:
    """Return the arguments by name, with defaults."""
    schema = getattr(node.target, "_schema", None)
    given = [_substitute_values(argument, values) for argument in node.args]
    if schema is None:
        return {**{str(index): value for index, value in enumerate(given)}, **_substitute_values(node.kwargs, values)}
    found = {argument.name: argument.default_value for argument in schema.arguments}
    found.update(zip(found, given, strict=False))
    found.update(_substitute_values(node.kwargs, values))
    return found


def _substitute_values(argument: Any, values: Mapping[Node, Any]) -> Any:  # ruff: ignore[any-type]
    """Return an argument with nodes replaced by their values, also in lists and dictionaries."""
    if isinstance(argument, Node):
        return values[argument]
    if isinstance(argument, list | tuple):
        return [_substitute_values(item, values) for item in argument]
    if isinstance(argument, dict):
        return {key: _substitute_values(item, values) for key, item in argument.items()}
    return _size(argument) if isinstance(argument, torch.SymInt) else argument


def _output_shapes(node: Node) -> tuple[tuple[int, ...], ...]:
    found = value_of(node) if _returns_list(node) else [value_of(node)]
    return tuple(tuple(_size(size) for size in item.shape) for item in found if hasattr(item, "shape"))


def _fix_read_positions(node: Node, values: Mapping[Node, Any], constraints: AxisConstraints) -> None:
    """Fix the axes along which positions are used as integers, for example read by Python."""
    name = _operator_name(node)
    if name.startswith(("aten.sym_", "aten._assert_tensor_metadata")):  # use only shape and dtype
        return
    for label in labels_in(_substitute_values([*node.args, *node.kwargs.values()], values)):
        constraints.freeze(label.along, Reason(name.removeprefix("aten."), node.name, label.why))


def _returns_list(node: Node) -> bool:
    value = value_of(node)  # the record of a tensor is a named tuple
    return isinstance(value, list | tuple) and not hasattr(value, "shape")


def _size(size: int | torch.SymInt) -> int:
    if isinstance(size, int):
        return size
    if size.node.has_hint():
        return int(size.node.hint)
    message = "the length of an axis depends on the values of a tensor"
    raise UnknownLengthError(message)


def _scalar_value(node: Node) -> object:
    """Return the value of a node that is not a tensor, such as a dynamic size."""
    value = node.meta.get("val")
    return _size(value) if isinstance(value, torch.SymInt) else value


def _used_outputs(node: Node) -> frozenset[int]:
    """Return the indices of the used outputs of a node with several outputs."""
    used: set[int] = set()
    for user in node.users:
        if user.target is operator.getitem and isinstance(user.args[1], int) and user.users:
            used.add(user.args[1])
    return frozenset(used)


def _writable(value: Any) -> Any:  # ruff: ignore[any-type]
    """Return the axes of a tensor that is written_nodes to, with new variables instead of uniform factors."""
    if is_tensor(value):
        terms = tuple(_without_uniform(term) for term in value)
        label = label_of(value)
        return terms if label is None else Positions.of(terms, label)
    return [_writable(item) for item in value] if isinstance(value, list) else value


def _without_uniform(term: AxisTerm) -> AxisTerm:
    found: list[Factor] = []
    for factor in substitute(term):
        found.extend(fresh(factor.size) if has_uniform((factor,)) else (factor,))
    return tuple(found)


def _check_lengths(call: Call, result: Result) -> list[AxisTerms]:
    """Return the result of a rule as a list, after checking the lengths of its axes."""
    results = [result] if is_tensor(result) else result
    shapes = tuple(tuple(length(term) for term in terms) for terms in results)
    if shapes != call.shapes:
        message = f"expected axes of shapes {call.shapes}, got {shapes}"
        raise SpecError(message)
    return results
