"""Templates: the common structure of several branches of a graph.

*Like* branches apply the same operators in the same order to the same tensors, except for parameters and buffers, of
which each branch has its own, and positions of one tensor, such as the column of a gate.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, final

import torch
from torch.fx import Node

from rebasin_core.specs.tracing.carriers import arguments_of, operator_of, shape_of
from rebasin_core.specs.tracing.graph import value_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor

Branches: TypeAlias = "tuple[Node, ...]"
"""The corresponding nodes of all branches."""


@final
@dataclass(frozen=True, slots=True)
class Slices:
    """The positions of one tensor that the branches use: consecutive ranges of equal length.

    Attributes:
        source: The tensor.
        dim: The dimension, not negative.
        start: The first position of the first branch.
        length: Number of positions of a branch.
        keeps: Whether the dimension is kept.
    """

    source: Node
    dim: int
    start: int
    length: int
    keeps: bool


@final
@dataclass(slots=True)
class Template:
    """The common structure of branches.

    Attributes:
        roots: The outputs of the branches.
        members: Placeholders of parameters and buffers, of which each branch has its own.
        slices: Positions of shared tensors, by the nodes that select them.
        shared: Tensors that all branches use.
        calls: The operators of the branches, in the order of the graph.
    """

    roots: Branches
    members: list[Branches] = field(default_factory=list)
    slices: dict[Branches, Slices] = field(default_factory=dict)
    shared: list[Node] = field(default_factory=list)
    calls: list[Branches] = field(default_factory=list)

    @property
    def nodes(self) -> set[Node]:
        """All nodes that belong to one of the branches."""
        return {node for branches in (*self.calls, *self.slices) for node in branches}


@final
class Matching:
    """Compares branches of a graph.

    Args:
        origins: Names of parameters and buffers by their placeholders.
        constants: Values of nodes that are constants. Equal ones are seen as one.
        impure: Nodes whose memory is written to, which cannot be in branches.
    """

    def __init__(self, origins: Mapping[Node, str], constants: Mapping[Node, Tensor], impure: Collection[Node]) -> None:
        self._origins = origins
        self._constants = constants
        self._impure = impure

    def template(self, roots: Branches) -> Template | None:
        """Return the common structure of branches.

        Args:
            roots: The outputs of at least two branches.

        Returns:
            The template; None if the branches differ, or have no parameters of their own.
        """
        found = Template(roots)
        seen: dict[Branches, bool] = {}
        try:
            if not self._match(roots, found, seen) or not found.members:
                return None
        except RecursionError:  # deeper than models with like branches
            return None
        names = [self._origins[node] for branches in found.members for node in branches]
        return found if len(set(names)) == len(names) else None

    def _match(self, nodes: Branches, found: Template, seen: dict[Branches, bool]) -> bool:
        if nodes not in seen:
            seen[nodes] = False  # a cycle is impossible; the value is replaced below
            seen[nodes] = self._compare(nodes, found, seen)
        return seen[nodes]

    def _compare(self, nodes: Branches, found: Template, seen: dict[Branches, bool]) -> bool:
        first = nodes[0]
        if any(node in self._impure for node in nodes):
            return False
        if all(node is first for node in nodes) or self._are_one_constant(nodes):
            found.shared.append(first)
            return True
        if len(set(nodes)) < len(nodes) or len({_form(node) for node in nodes}) > 1:
            return False
        if all(node in self._origins for node in nodes):
            found.members.append(nodes)
            return True
        is_call = all(node.op == "call_function" and node.target is first.target for node in nodes)
        return is_call and self._compare_calls(nodes, found, seen)

    def _compare_calls(self, nodes: Branches, found: Template, seen: dict[Branches, bool]) -> bool:
        slices = _slices(nodes)
        if slices is not None:
            found.slices[nodes] = slices
            return slices.source not in self._impure
        is_like = self._match_arguments([(node.args, node.kwargs) for node in nodes], found, seen)
        if is_like:
            found.calls.append(nodes)
        return is_like

    def _are_one_constant(self, nodes: Branches) -> bool:
        """Return whether nodes are constants with the same known values."""
        values = [self._constants[node] for node in nodes if node in self._constants]
        return len(values) == len(nodes) and all(_are_equal(values[0], value) for value in values)

    def _match_arguments(self, given: list[object], found: Template, seen: dict[Branches, bool]) -> bool:
        """Return whether arguments correspond, in nested containers."""
        first = given[0]
        if any(isinstance(one, Node) for one in given):
            nodes = tuple(one for one in given if isinstance(one, Node))
            return len(nodes) == len(given) and self._match(nodes, found, seen)
        if any(type(one) is not type(first) for one in given):
            return False
        if isinstance(first, dict):
            dicts = [one for one in given if isinstance(one, dict)]
            keys = [*first]
            return all([*one] == keys for one in dicts) and all(
                self._match_arguments([one[key] for one in dicts], found, seen) for key in keys
            )
        if isinstance(first, list | tuple):
            lists = [one for one in given if isinstance(one, list | tuple)]
            return len({len(one) for one in lists}) == 1 and all(
                self._match_arguments(list(items), found, seen) for items in zip(*lists, strict=True)
            )
        return all(one == first for one in given)


def _form(node: Node) -> tuple[tuple[int, ...], str]:
    """Return the shape and the dtype of a tensor."""
    return shape_of(node), str(getattr(value_of(node), "dtype", ""))


def _are_equal(first: Tensor, second: Tensor) -> bool:
    """Return whether two constants have the same known values."""
    known = first.device.type != "meta" and first.dtype == second.dtype and first.shape == second.shape
    return known and torch.equal(first, second.to(first.device))


def _slices(nodes: Branches) -> Slices | None:
    """Return the positions of one tensor that nodes select; None if they select no consecutive equal ranges."""
    ranges = [_range(node) for node in nodes]
    known = [one for one in ranges if one is not None]
    if len(known) < len(ranges):
        return None
    first = known[0]
    for number, one in enumerate(known):
        expected = first.start + number * first.length
        same = (one.source, one.dim, one.length, one.keeps) == (first.source, first.dim, first.length, first.keeps)
        if not same or one.start != expected:
            return None
    return first


def _range(node: Node) -> Slices | None:
    """Return the range of positions that a node selects from a tensor."""
    name, given = operator_of(node), arguments_of(node)
    if node.target is operator.getitem:
        return _range_of_part(node)
    source = given.get("self")
    if not isinstance(source, Node) or name not in {"select", "slice", "narrow"}:
        return None
    shape = shape_of(source)
    dim = given.get("dim", 0)
    if not isinstance(dim, int) or not shape:
        return None
    dim %= len(shape)
    if name == "select":
        index = given.get("index")
        return Slices(source, dim, index % shape[dim], 1, keeps=False) if isinstance(index, int) else None
    start = given.get("start")
    length = shape_of(node)[dim]
    if given.get("step", 1) != 1 or not isinstance(start, int | None):
        return None
    start = start or 0
    return Slices(source, dim, start % shape[dim] if start < 0 else start, length, keeps=True)


def _range_of_part(node: Node) -> Slices | None:
    """Return the range of a part of a split tensor."""
    split, index = node.args
    if not isinstance(split, Node) or not isinstance(index, int):
        return None
    name, given = operator_of(split), arguments_of(split)
    source, dim = given.get("self"), given.get("dim", 0)
    parts = value_of(split)
    is_split = name in {"unbind", "chunk", "split", "split_with_sizes", "tensor_split"}
    if not is_split or not isinstance(source, Node) or not isinstance(dim, int):
        return None
    dim %= len(shape_of(source))
    if name == "unbind":
        return Slices(source, dim, index, 1, keeps=False)
    sizes = [int(part.shape[dim]) for part in parts]
    return Slices(source, dim, sum(sizes[:index]), sizes[index], keeps=True)
