r"""Rotary positions in a graph: pairs of units that are rotated by angles that depend on the position.

A pair $(a, b)$ is replaced by $(a \cos\theta - b \sin\theta, b \cos\theta + a \sin\theta)$. This commutes with every
rotation and scaling of the pair. The units i of the first and of the second half of an axis are a pair, or the
neighbors 2 i and 2 i + 1. Two forms of the formula are recognized for both: ``x * cos + (-x2, x1) * sin``, where the
entries of ``cos`` and of ``sin`` are equal for the units of a pair, and ``(x1 * cos - x2 * sin, x2 * cos + x1 * sin)``.
Neighbors can also be multiplied as complex numbers.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Final, final

from torch.fx import GraphModule, Node

from rebasin_core.specs.kinds.rotary import rotary_positions
from rebasin_core.specs.tracing.carriers import operator_of
from rebasin_core.specs.tracing.graph import ModelGraph, written_nodes
from rebasin_core.specs.tracing.rotary_angles import EqualPairs
from rebasin_core.specs.tracing.rotary_nodes import Halves, Neighbors, have_same_length, orders, whole

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from torch import Tensor
    from torch.fx import Graph

    from rebasin_core.specs.tracing.rotary_nodes import Pairing
    from rebasin_core.symmetry.pairs import Pairs

_MULTIPLIED: Final = frozenset({"mul", "multiply"})
_ADDED: Final = frozenset({"add"})
_SUBTRACTED: Final = frozenset({"sub", "subtract"})
_NEGATED: Final = frozenset({"neg", "negative"})
_NEIGHBORS: Final = Neighbors()
_PAIRINGS: Final = (Halves(), _NEIGHBORS)


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
        pairs: The units that are a pair.
    """

    result: Node
    tensor: Node
    cos: Node
    sin: Node
    inner: tuple[Node, ...]
    pairs: Pairs


def find_rotary(graph: ModelGraph, buffers: Mapping[str, Tensor]) -> list[Rotary]:
    """Return all applications of rotary positions in a graph.

    Args:
        graph: The graph.
        buffers: Values of placeholders that are not trained, by name.

    Returns:
        The applications, in graph order.
    """
    written = written_nodes(graph.module)
    equal = EqualPairs(graph, {**graph.constants, **buffers}, written)
    found: list[Rotary] = []
    for node in graph.module.graph.nodes:
        one = next((one for pairing in _PAIRINGS if (one := _applied(node, pairing, equal)) is not None), None)
        one = one or _by_complex_numbers(node)
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
            given = (of[one.tensor], of[one.cos], of[one.sin], one.pairs.value)
            new = copied.call_function(rotary_positions, given)
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


def _applied(node: Node, pairing: Pairing, equal: EqualPairs) -> Rotary | None:
    """Return the application of rotary positions whose result is a node, in one of two forms."""
    return _by_rotated_pairs(node, pairing, equal) if operator_of(node) in _ADDED else _by_parts(node, pairing)


def _by_rotated_pairs(node: Node, pairing: Pairing, equal: EqualPairs) -> Rotary | None:
    """Return ``x * cos + (-x2, x1) * sin``."""
    for first, second in orders(node):
        for (tensor, cos), (rotated, sin) in product(_factors(first), _factors(second)):
            inner = _rotated(rotated, tensor, pairing)
            is_equal = inner is not None and equal.of(cos, pairing) and equal.of(sin, pairing)
            if inner is not None and is_equal and have_same_length(tensor, cos, sin):
                return Rotary(node, tensor, cos, sin, (first, second, rotated, *inner), pairing.pairs)
    return None


def _rotated(node: Node, tensor: Node, pairing: Pairing) -> tuple[Node, ...] | None:
    """Return the nodes of ``(-x2, x1)``, or None."""
    parts = pairing.joined(node)
    if parts is None or operator_of(parts.first) not in _NEGATED or not isinstance(parts.first.args[0], Node):
        return None
    second, first = pairing.part(parts.first.args[0]), pairing.part(parts.second)
    if first is None or second is None or (first.index, second.index) != (0, 1):
        return None
    if {first.tensor, second.tensor} != {whole(tensor)[0]} and {first.tensor, second.tensor} != {tensor}:
        return None
    return (*parts.inner, parts.first, *first.inner, *second.inner)


def _by_parts(node: Node, pairing: Pairing) -> Rotary | None:
    """Return ``(x1 * cos - x2 * sin, x2 * cos + x1 * sin)``."""
    parts = pairing.joined(node)
    if parts is None or operator_of(parts.first) not in _SUBTRACTED or operator_of(parts.second) not in _ADDED:
        return None
    minus, plus = parts.first, parts.second
    for (one, two), (three, four) in product(list(orders(minus))[:1], orders(plus)):
        products = (one, two, three, four)
        for factors in product(*(list(_factors(item)) for item in products)):
            found = _of_products(node, factors, pairing)
            if found is not None:
                tensor, cos, sin, inner = found
                between = (*parts.inner, minus, plus, *products, *inner)
                return Rotary(node, tensor, cos, sin, tuple(dict.fromkeys(between)), pairing.pairs)
    return None


def _of_products(
    node: Node, factors: tuple[tuple[Node, Node], ...], pairing: Pairing
) -> tuple[Node, Node, Node, tuple[Node, ...]] | None:
    """Return tensor, cosines and sines of ``x1 * cos, x2 * sin, x2 * cos, x1 * sin``, and the nodes of the parts."""
    parts = [pairing.part(factor) for factor, _ in factors]
    found = [part for part in parts if part is not None]
    cos, sin = factors[0][1], factors[1][1]
    tensors = {part.tensor for part in found}
    fits = [part.index for part in found] == [0, 1, 1, 0] and len(tensors) == 1
    fits = fits and factors[2][1] is cos and factors[3][1] is sin and have_same_length(factors[0][0], cos, sin)
    inner = tuple(each for part in found for each in part.inner)
    return (tensors.pop(), cos, sin, inner) if fits and node not in inner else None


def _by_complex_numbers(node: Node) -> Rotary | None:
    """Return pairs of neighbors multiplied as complex numbers."""
    real = node.args[0] if node.args else None
    if not isinstance(real, Node) or operator_of(real) != "view_as_real" or not _NEIGHBORS.flattens(node, real):
        return None
    (multiplied,) = real.all_input_nodes
    for number, angle in _factors(multiplied):
        pairs = number.args[0] if operator_of(number) == "view_as_complex" else None
        source = _NEIGHBORS.divided(pairs) if isinstance(pairs, Node) else None
        if source is not None and have_same_length(number, angle):
            inner = (real, multiplied, number, *source[1])
            return Rotary(node, source[0], angle, angle, inner, _NEIGHBORS.pairs)
    return None


def _factors(node: Node) -> Iterator[tuple[Node, Node]]:
    """Yield both orders of the factors of a product."""
    if operator_of(node) in _MULTIPLIED:
        yield from orders(node)
