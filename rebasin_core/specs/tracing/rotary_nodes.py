"""Nodes of a graph that compute rotary positions: their arguments, shapes, and the halves or neighbors of an axis."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from torch.fx import Node
from typing_extensions import override

from rebasin_core.specs.tracing.carriers import arguments_of, operator_of, shape_of
from rebasin_core.symmetry.pairs import Pairs

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_JOINED = frozenset({"flatten", "reshape", "view", "_unsafe_view", "reshape_as", "view_as"})
_DIVIDED = frozenset({"unflatten", "reshape", "view", "_unsafe_view"})


@final
@dataclass(frozen=True, slots=True)
class PartOfPairs:
    """The first or the second unit of all pairs of an axis.

    Attributes:
        tensor: The node of the tensor whose last axis has the pairs.
        index: 0 for the first unit of each pair, 1 for the second.
        inner: The nodes that select them.
    """

    tensor: Node
    index: int
    inner: tuple[Node, ...]


@final
@dataclass(frozen=True, slots=True)
class JoinedParts:
    """A tensor whose last axis has pairs, from the first and the second units.

    Attributes:
        first: The node of the first unit of each pair.
        second: That of the second unit.
        inner: The nodes between them and the tensor.
    """

    first: Node
    second: Node
    inner: tuple[Node, ...]


class Pairing(ABC):
    """A way to pair the units of an axis, as the operators of a graph select and join them.

    Laws:
        - *Inverse*: `joined` of a node that joins the two parts of a tensor returns these parts, and `part` of a part
          returns the tensor.
    """

    @property
    @abstractmethod
    def pairs(self) -> Pairs:
        """The pairs of units."""

    @abstractmethod
    def part(self, node: Node) -> PartOfPairs | None:
        """Return the tensor of which a node is the first or second unit of each pair.

        Args:
            node: A node.

        Returns:
            The part; None for other nodes.
        """

    @abstractmethod
    def joined(self, node: Node) -> JoinedParts | None:
        """Return the two parts that a node joins.

        Args:
            node: A node.

        Returns:
            The parts; None for other nodes.
        """


@final
class Halves(Pairing):
    """Unit i of the first half and unit i of the second half are a pair."""

    @property
    @override
    def pairs(self) -> Pairs:
        return Pairs.HALVES

    @override
    def part(self, node: Node) -> PartOfPairs | None:
        if node.target is operator.getitem and isinstance(node.args[0], Node):
            source, index = node.args[0], node.args[1]
            tensor = source.args[0] if source.args else None
            is_split = operator_of(source) in {"chunk", "split", "tensor_split", "split_with_sizes"}
            is_split = is_split and isinstance(tensor, Node) and is_last(argument(source, "dim", 0), tensor)
            if is_split and isinstance(tensor, Node) and length_of(node) * 2 == length_of(tensor):
                return PartOfPairs(tensor, int(str(index)), (node, source))
        if operator_of(node) in {"slice", "narrow"} and isinstance(node.args[0], Node):
            tensor = node.args[0]
            start = argument(node, "start", 0) or 0
            fits = is_last(argument(node, "dim", 0), tensor) and argument(node, "step", 1) == 1
            if fits and isinstance(start, int) and length_of(node) * 2 == length_of(tensor):
                start += length_of(tensor) if start < 0 else 0
                return PartOfPairs(tensor, int(start > 0), (node,)) if start in {0, length_of(node)} else None
        return None

    @override
    def joined(self, node: Node) -> JoinedParts | None:
        parts = two_parts(node, {"cat", "concat", "concatenate"})
        return None if parts is None or not is_last(argument(node, "dim", 0), node) else JoinedParts(*parts, ())


@final
class Neighbors(Pairing):
    """Units 2 i and 2 i + 1 are a pair."""

    @property
    @override
    def pairs(self) -> Pairs:
        return Pairs.NEIGHBORS

    @override
    def part(self, node: Node) -> PartOfPairs | None:
        name, given = operator_of(node), node.args
        if name == "slice" and isinstance(given[0], Node) and is_last(argument(node, "dim", 0), given[0]):
            start, is_every_second = argument(node, "start", 0) or 0, argument(node, "step", 1) == 2
            if is_every_second and start in {0, 1} and length_of(node) * 2 == length_of(given[0]):
                tensor, copies = whole(given[0])
                return PartOfPairs(tensor, int(str(start)), (node, *copies))
        selected = self._selected(node)
        source = None if selected is None else self.divided(selected[0])
        if selected is None or source is None:
            return None
        tensor, inner = source
        return PartOfPairs(tensor, selected[1], (*selected[2], *inner))

    @staticmethod
    def _selected(node: Node) -> tuple[Node, int, tuple[Node, ...]] | None:
        """Return the tensor ``[..., n, 2]`` of which a node is one entry along the last axis, and the index."""
        source, index = (node.args[0], node.args[-1]) if len(node.args) > 1 else (None, None)
        if not isinstance(source, Node) or not isinstance(index, int):
            return None
        if node.target is operator.getitem and operator_of(source) == "unbind":
            tensor = source.args[0]
            fits = isinstance(tensor, Node) and is_last(argument(source, "dim", 0), tensor) and index in {0, 1}
            return (tensor, index, (node, source)) if fits and isinstance(tensor, Node) else None
        if operator_of(node) == "select" and is_last(node.args[1], source) and index in {0, 1, -1, -2}:
            return source, index % 2, (node,)
        return None

    @staticmethod
    def divided(node: Node) -> tuple[Node, tuple[Node, ...]] | None:
        """Return the tensor whose last axis is divided into pairs.

        Args:
            node: A node, such as one that reshapes ``[..., 2 * n]`` to ``[..., n, 2]``.

        Returns:
            The tensor, and the nodes between it and the given one; None for other nodes.
        """
        last, copies = whole(node)
        tensor = last.args[0] if operator_of(last) in _DIVIDED else None
        if not isinstance(tensor, Node) or shape_of(last)[-1:] != (2,):
            return None
        is_pairs = (*shape_of(last)[:-2], 2 * shape_of(last)[-2]) == shape_of(tensor)
        return (tensor, (*copies, last)) if is_pairs else None

    @override
    def joined(self, node: Node) -> JoinedParts | None:
        source = node.args[0] if operator_of(node) in _JOINED else None
        parts = two_parts(source, {"stack"})
        if not isinstance(source, Node) or parts is None or not is_last(argument(source, "dim", 0), source):
            return None
        return JoinedParts(*parts, (source,)) if self.flattens(node, source) else None

    @staticmethod
    def flattens(node: Node, source: Node) -> bool:
        """Return whether a node reshapes ``[..., n, 2]`` to ``[..., 2 * n]``.

        Args:
            node: The node.
            source: The node of its argument.

        Returns:
            Whether the pairs become neighbors.
        """
        before, after = shape_of(source), shape_of(node)
        return operator_of(node) in _JOINED and len(before) > 1 and after == (*before[:-2], before[-2] * before[-1])


def whole(node: Node) -> tuple[Node, tuple[Node, ...]]:
    """Return the tensor that a node copies without a change of its entries.

    Args:
        node: A node.

    Returns:
        The first node that is no slice of all entries and no copy, and the nodes from the given one to it.
    """
    found: list[Node] = []
    while operator_of(node) in {"slice", "contiguous", "clone", "alias"} and isinstance(node.args[0], Node):
        if shape_of(node) != shape_of(node.args[0]):
            break
        found.append(node)
        node = node.args[0]
    return node, tuple(found)


def two_parts(node: object, names: Collection[str]) -> tuple[Node, Node] | None:
    """Return the two tensors that a node joins.

    Args:
        node: A node.
        names: Names of the operators.

    Returns:
        The tensors, or None.
    """
    if not isinstance(node, Node) or operator_of(node) not in names or not isinstance(node.args[0], list | tuple):
        return None
    parts = node.args[0]
    first, second = parts if len(parts) == 2 else (None, None)
    return (first, second) if isinstance(first, Node) and isinstance(second, Node) else None


def orders(node: Node) -> Iterator[tuple[Node, Node]]:
    """Yield both orders of the two tensors that a node combines.

    Args:
        node: A node.

    Yields:
        The tensors in the given order, then in the other one, if the node combines two.
    """
    first, second = node.args if len(node.args) == 2 else (None, None)
    if isinstance(first, Node) and isinstance(second, Node) and not node.kwargs:
        yield from ((first, second), (second, first))


def argument(node: Node, name: str, default: object) -> object:
    """Return an argument of an operator by its name in the schema.

    Args:
        node: A node.
        name: The name.
        default: The value if it is not given.

    Returns:
        The argument.
    """
    return arguments_of(node).get(name, default)


def length_of(node: Node) -> int:
    """Return the length of the last dimension; 1 for a scalar.

    Args:
        node: A node.

    Returns:
        The length.
    """
    return int((shape_of(node) or (1,))[-1])


def is_last(dim: object, tensor: Node) -> bool:
    """Return whether a dimension is the last one of a tensor.

    Args:
        dim: The dimension, possibly negative.
        tensor: The node of the tensor.

    Returns:
        Whether it is.
    """
    size = len(shape_of(tensor))
    return isinstance(dim, int) and size > 0 and dim % size == size - 1


def have_same_length(*nodes: Node) -> bool:
    """Return whether the last dimensions of tensors have one length.

    Args:
        *nodes: The nodes.

    Returns:
        Whether they have.
    """
    return len({length_of(node) for node in nodes}) == 1
