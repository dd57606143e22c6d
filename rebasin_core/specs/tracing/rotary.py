r"""Rotary positions in a graph: pairs of units that are rotated by angles that depend on the position.

Unit $i$ of the first half of an axis and unit $i$ of the second half are a pair $(a, b)$, replaced by
$(a \cos\theta - b \sin\theta, b \cos\theta + a \sin\theta)$. This commutes with every rotation and scaling of the pair.
Two forms of the formula are recognized: ``x * cos + cat((-x2, x1)) * sin``, where both halves of ``cos`` and of ``sin``
are equal, and ``cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin))``.
"""

from __future__ import annotations

import copy
import operator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Final, final

import torch
from torch.fx import GraphModule, Node

from rebasin_core.specs.kinds.rotary import rotary_positions
from rebasin_core.specs.tracing.constants import KnownConstants
from rebasin_core.specs.tracing.graph import ModelGraph, value_of, written_nodes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from torch import Tensor
    from torch.fx import Graph

_MULTIPLIED: Final = frozenset({"mul", "multiply"})
_ADDED: Final = frozenset({"add"})
_SUBTRACTED: Final = frozenset({"sub", "subtract"})
_NEGATED: Final = frozenset({"neg", "negative"})
_CONCATENATED: Final = frozenset({"cat", "concat", "concatenate"})
_COPIED: Final = frozenset({
    "alias", "clone", "contiguous", "detach", "expand", "expand_as", "lift_fresh_copy", "repeat_interleave", "to",
    "_to_copy", "type_as", "unsqueeze", "select", "slice", "index", "index_select", "embedding",
})  # fmt: skip
_ENTRYWISE: Final = frozenset({"cos", "sin", "mul", "multiply", "add", "sub", "div", "neg", "negative"})


@final
@dataclass(frozen=True, slots=True)
class Rotary:
    """The application of rotary positions to a tensor.

    Attributes:
        result: The node of the result.
        tensor: The node of the tensor.
        cos: The node of the cosines.
        sin: The node of the sines.
        inner: The nodes between the tensor and the result.
    """

    result: Node
    tensor: Node
    cos: Node
    sin: Node
    inner: tuple[Node, ...]


def find_rotary(graph: ModelGraph, buffers: Mapping[str, Tensor]) -> list[Rotary]:
    """Return all applications of rotary positions in a graph.

    Args:
        graph: The graph.
        buffers: Values of placeholders that are not trained, by name.

    Returns:
        The applications, in graph order.
    """
    written = written_nodes(graph.module)
    halves = _EqualHalves(graph, {**graph.constants, **buffers}, written)
    found: list[Rotary] = []
    for node in graph.module.graph.nodes:
        name = _name(node)
        one = _by_rotated_halves(node, halves) if name in _ADDED else None
        one = _by_halves(node) if name in _CONCATENATED else one
        if one is not None and not written.intersection((one.result, one.tensor, one.cos, one.sin, *one.inner)):
            found.append(one)
    return found


def with_rotary(graph: ModelGraph, found: Collection[Rotary]) -> tuple[ModelGraph, Mapping[str, Rotary]]:
    """Return a graph in which the application of rotary positions is one operator.

    Args:
        graph: The graph, not changed.
        found: The applications to replace.

    Returns:
        The new graph, and the applications by the names of their nodes in it.
    """
    copied = copy.deepcopy(graph.module.graph)
    of = dict(zip(graph.module.graph.nodes, copied.nodes, strict=True))
    names: dict[str, Rotary] = {}
    unused: list[Node] = []
    for one in found:
        result = of[one.result]
        with copied.inserting_before(result):
            new = copied.call_function(rotary_positions, (of[one.tensor], of[one.cos], of[one.sin]))
        new.meta = dict(result.meta)
        names[new.name] = one
        result.replace_all_uses_with(new)
        unused.extend([result, *(of[node] for node in one.inner)])
        of[one.result] = new
    _erase(copied, list(dict.fromkeys(unused)))
    module = GraphModule(graph.module, copied)
    return ModelGraph(module, graph.origins, graph.constants), names


def _erase(graph: Graph, nodes: list[Node]) -> None:
    """Erase those of some nodes that no other node uses."""
    while unused := [node for node in nodes if not node.users]:
        for node in unused:
            graph.erase_node(node)
            nodes.remove(node)


def _by_rotated_halves(node: Node, halves: _EqualHalves) -> Rotary | None:
    """Return ``x * cos + cat((-x2, x1)) * sin``."""
    for first, second in _orders(node):
        for (tensor, cos), (rotated, sin) in product(_factors(first), _factors(second)):
            inner = _rotated(rotated, tensor)
            if inner is not None and halves.of(cos) and halves.of(sin) and _same_length(tensor, cos, sin):
                return Rotary(node, tensor, cos, sin, (first, second, rotated, *inner))
    return None


def _rotated(node: Node, tensor: Node) -> tuple[Node, ...] | None:
    """Return the nodes of ``cat((-x2, x1))``, or None."""
    parts = _two_parts(node)
    if parts is None or _name(parts[0]) not in _NEGATED:
        return None
    second, first = parts[0].args[0], parts[1]
    if not isinstance(second, Node) or _half(second) != (tensor, 1) or _half(first) != (tensor, 0):
        return None
    return (*parts, *_views(first), *_views(second))


def _by_halves(node: Node) -> Rotary | None:
    """Return ``cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin))``."""
    parts = _two_parts(node)
    if parts is None or _name(parts[0]) not in _SUBTRACTED or _name(parts[1]) not in _ADDED:
        return None
    minus, plus = parts
    for (one, two), (three, four) in product(list(_orders(minus))[:1], _orders(plus)):
        products = (one, two, three, four)
        for first, second, third, fourth in product(*(list(_factors(item)) for item in products)):
            (x1, cos), (x2, sin) = first, second
            tensor, index = _half(x1)
            is_rotary = tensor is not None and index == 0 and _half(x2) == (tensor, 1)
            is_rotary = is_rotary and _is_product(third, (tensor, 1), cos) and _is_product(fourth, (tensor, 0), sin)
            if tensor is not None and is_rotary and _same_length(x1, cos, sin):
                views = [view for half in (x1, x2, third[0], fourth[0]) for view in _views(half)]
                return Rotary(node, tensor, cos, sin, (minus, plus, *products, *dict.fromkeys(views)))
    return None


def _is_product(factors: tuple[Node, Node], half: tuple[Node | None, int], angle: Node) -> bool:
    return _half(factors[0]) == half and factors[1] is angle


def _factors(node: Node) -> Iterator[tuple[Node, Node]]:
    """Yield both orders of the factors of a product."""
    if _name(node) in _MULTIPLIED:
        yield from _orders(node)


def _half(node: Node) -> tuple[Node | None, int]:
    """Return the tensor of which a node is one half along the last dimension, and whether it is the second half."""
    if node.target is operator.getitem and isinstance(node.args[0], Node):
        source = node.args[0]
        index = node.args[1]
        tensor = source.args[0] if source.args else None
        is_split = _name(source) in {"chunk", "split", "tensor_split", "split_with_sizes"}
        dim = _argument(source, "dim", 0)
        if is_split and isinstance(tensor, Node) and _is_last(dim, tensor) and _length(node) * 2 == _length(tensor):
            return tensor, int(str(index))
    if _name(node) in {"slice", "narrow"} and isinstance(node.args[0], Node):
        tensor = node.args[0]
        start = _argument(node, "start", 0) or 0
        fits = _is_last(_argument(node, "dim", 0), tensor) and _argument(node, "step", 1) == 1
        if fits and isinstance(start, int) and _length(node) * 2 == _length(tensor):
            start += _length(tensor) if start < 0 else 0
            return (tensor, int(start > 0)) if start in {0, _length(node)} else (None, 0)
    return None, 0


def _views(half: Node) -> tuple[Node, ...]:
    """Return the nodes of one half of a tensor."""
    source = half.args[0]
    return (half, source) if half.target is operator.getitem and isinstance(source, Node) else (half,)


def _two_parts(node: Node) -> tuple[Node, Node] | None:
    """Return the two tensors that a node concatenates along the last dimension."""
    if _name(node) not in _CONCATENATED or not isinstance(node.args[0], list | tuple) or len(node.args[0]) != 2:
        return None
    first, second = node.args[0]
    if not isinstance(first, Node) or not isinstance(second, Node) or not _is_last(_argument(node, "dim", 0), first):
        return None
    return first, second


@final
class _EqualHalves:
    """Decides whether both halves of the last dimension of a tensor are equal for all inputs."""

    def __init__(self, graph: ModelGraph, constants: Mapping[str, Tensor], written: Collection[Node]) -> None:
        self._written = written
        self._values = KnownConstants()
        self._found: dict[Node, bool] = {}
        for node in graph.module.graph.nodes:
            if node in written:
                continue
            if node.op == "placeholder" and node.name in constants:
                self._values.record(node, constants[node.name])
            elif node.op == "get_attr":
                self._values.record(node, operator.attrgetter(str(node.target))(graph.module))
            elif node.op == "call_function":
                self._values.compute(node)

    def of(self, node: Node) -> bool:
        if node not in self._found:
            self._found[node] = node not in self._written and (self._by_value(node) or self._by_structure(node))
        return self._found[node]

    def _by_value(self, node: Node) -> bool:
        value = self._values.value(node)
        if value is None or value.dim() == 0 or value.shape[-1] % 2:
            return False
        first, second = value.chunk(2, -1)
        return torch.equal(first, second)

    def _by_structure(self, node: Node) -> bool:
        name, given = _name(node), [item for item in node.args if isinstance(item, Node)]
        if name in _CONCATENATED:
            parts = _two_parts(node)
            return parts is not None and parts[0] is parts[1]
        if name in _ENTRYWISE and given and _argument(node, "alpha", 1) == 1:
            varying = [item for item in given if _length(item) != 1]
            return bool(varying) and all(_length(item) == _length(node) and self.of(item) for item in varying)
        return name in _COPIED and bool(given) and _keeps_last(node, given[0]) and self.of(given[0])


def _keeps_last(node: Node, source: Node) -> bool:
    """Return whether an operator keeps the last dimension of its first argument as the last one."""
    before, after = _shape(source), _shape(node)
    if not before or not after or before[-1] != after[-1]:
        return False
    name = _name(node)
    if name == "unsqueeze":
        return not _is_last(node.args[1], node)
    if name in {"select", "index_select", "repeat_interleave", "slice"}:
        dim = _argument(node, "dim", 0 if name == "slice" else None)
        return isinstance(dim, int) and not _is_last(dim, source)
    if name == "index":  # the first dimensions are indexed
        indices = node.args[1]
        return isinstance(indices, list | tuple) and len(indices) < len(before) and None not in indices
    return True


def _orders(node: Node) -> Iterator[tuple[Node, Node]]:
    """Yield both orders of the two tensors that a node combines, the given one first."""
    first, second = node.args if len(node.args) == 2 else (None, None)
    if isinstance(first, Node) and isinstance(second, Node) and not node.kwargs:
        yield from ((first, second), (second, first))


def _name(node: object) -> str:
    """Return the name of an operator of PyTorch without namespace and overload; empty for other nodes."""
    target = node.target if isinstance(node, Node) else None
    is_aten = isinstance(target, torch._ops.OpOverload) and target.namespace == "aten"  # ruff: ignore[private-member-access] - there is no public alias
    return str(target).split(".")[1] if is_aten else ""


def _argument(node: object, name: str, default: object) -> object:
    """Return an argument of an operator by its name in the schema."""
    schema = getattr(getattr(node, "target", None), "_schema", None)
    if not isinstance(node, Node) or schema is None:
        return default
    names = [argument.name for argument in schema.arguments]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}.get(name, default)


def _shape(node: Node) -> tuple[int, ...]:
    return tuple(getattr(value_of(node), "shape", ()))


def _length(node: Node) -> int:
    """Return the length of the last dimension; 1 for a scalar."""
    return int((_shape(node) or (1,))[-1])


def _is_last(dim: object, tensor: Node) -> bool:
    size = len(_shape(tensor))
    return isinstance(dim, int) and size > 0 and dim % size == size - 1


def _same_length(*nodes: Node) -> bool:
    return len({_length(node) for node in nodes}) == 1
