"""PyTorch's decompositions of operators without a rule into graphs of simpler operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from rebasin_core.specs.tracing.graph import value_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

_MAX_DEPTH: Final = 8  # nested decompositions


@final
class Decomposition:
    """The decomposition of an operator.

    Attributes:
        module: Graph of simpler operators; unused outputs are None.
        inputs: The nodes of the outer graph that its placeholders represent, in order.
    """

    __slots__ = ("inputs", "module")

    def __init__(self, module: GraphModule, inputs: Sequence[Node]) -> None:
        self.module = module
        self.inputs = tuple(inputs)


@final
class Decomposer:
    """Decomposes operators; calls with equal shapes, dtypes and options share one graph."""

    def __init__(self) -> None:
        self._modules: dict[tuple[object, ...], GraphModule | None] = {}
        self.depth = 0

    def decomposition(self, node: Node, used: Collection[int], scalars: Mapping[Node, Any]) -> Decomposition | None:
        """Return the decomposition of an operator.

        Args:
            node: The node of the operator.
            used: Indices of the outputs that are used, if it has several.
            scalars: Values of the arguments that are not tensors.

        Returns:
            The decomposition; None if PyTorch has none, or if it depends on the values of tensors.
        """
        function = _decomposition_of(node.target)
        if function is None or self.depth >= _MAX_DEPTH:
            return None
        inputs = [argument for argument in node.all_input_nodes if hasattr(value_of(argument), "shape")]
        others = {argument: scalars[argument] for argument in node.all_input_nodes if argument not in inputs}
        if any(isinstance(value, GraphModule) for value in others.values()):
            return None
        key = _key(node, inputs, others, used)
        if key not in self._modules:
            self._modules[key] = _capture(function, node, inputs, others, used)
        module = self._modules[key]
        return None if module is None else Decomposition(module, inputs)


def _decomposition_of(target: object) -> Callable[..., Any] | None:
    """Return the decomposition of a composite operator, or the one in PyTorch's table."""
    from torch import _decomp, _refs  # ruff: ignore[import-outside-top-level, import-private-name] - half a second

    del _refs  # importing it adds to the table
    if not isinstance(target, torch._ops.OpOverload):  # ruff: ignore[private-member-access] - there is no public alias
        return None
    if target._can_decompose():  # ruff: ignore[private-member-access]
        return target.decompose
    found: Callable[..., Any] | None = _decomp.decomposition_table.get(target)
    return found


def _key(node: Node, inputs: Sequence[Node], others: Mapping[Node, Any], used: Collection[int]) -> tuple[object, ...]:
    positions = {argument: position for position, argument in enumerate(inputs)}

    def described(argument: Node) -> str:
        value = value_of(argument)
        if argument in positions:
            return f"<{positions[argument]} {tuple(value.shape)} {value.dtype}>"
        return repr(others[argument])

    return node.target, repr(map_arg((node.args, dict(node.kwargs)), described)), tuple(sorted(used))


def _capture(
    function: Callable[..., Any],
    node: Node,
    inputs: Sequence[Node],
    others: Mapping[Node, Any],
    used: Collection[int],
) -> GraphModule | None:
    from torch._subclasses.fake_tensor import FakeTensorMode  # ruff: ignore[import-outside-top-level, import-private-name] - its documented module
    from torch.fx.experimental.proxy_tensor import make_fx  # ruff: ignore[import-outside-top-level] - half a second

    several = isinstance(value_of(node), list | tuple) and not hasattr(value_of(node), "shape")

    def called(*tensors: Tensor) -> Any:  # ruff: ignore[any-type]
        given: dict[Node, Any] = {**dict(zip(inputs, tensors, strict=True)), **others}
        args, kwargs = map_arg((node.args, dict(node.kwargs)), lambda argument: given[argument])
        found = function(*args, **kwargs)
        if not several:
            return found
        return [value if index in used else None for index, value in enumerate(found)]

    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            examples = [torch.empty(_shape(argument), dtype=value_of(argument).dtype) for argument in inputs]
        module = make_fx(called, tracing_mode="fake")(*examples)
    except Exception:  # ruff: ignore[blind-except] - PyTorch may raise anything if a decomposition needs values
        return None
    module.graph.eliminate_dead_code()
    calls = [inner for inner in module.graph.nodes if inner.op == "call_function"]
    return None if any(inner.target == node.target for inner in calls) else module


def _shape(node: Node) -> list[int]:
    return [size if isinstance(size, int) else int(size.node.hint) for size in value_of(node).shape]
