"""The parameters of a graph: their placeholders, their uses, and the weights of layers, possibly transposed."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from torch.fx import Node

from rebasin_core.specs.folding import Dim
from rebasin_core.specs.tracing.carriers import carried, operator_of, shape_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from rebasin_core.specs.tracing.graph import ModelGraph

_TRANSPOSITIONS = frozenset({"t", "transpose", "permute", "numpy_T", "mT"})


@final
class GraphParameters:
    """The parameters of a graph that may be changed.

    Args:
        graph: The graph of the model.
        movable: Names of the parameters that may be changed.

    Attributes:
        names: The name of each parameter, by placeholder.
    """

    def __init__(self, graph: ModelGraph, movable: Collection[str]) -> None:
        nodes = graph.module.graph.nodes
        origins = {node: graph.origins.get(node.name) for node in nodes if node.op == "placeholder"}
        self.names = {node: name for node, name in origins.items() if name is not None and name in movable}
        self._uses: dict[str, list[Node]] = {}
        for node, name in self.names.items():
            self._uses.setdefault(name, []).extend(_uses_of(node))

    def name_of(self, node: object) -> str | None:
        """Return the name of the parameter of a placeholder.

        Args:
            node: A node, or another argument of a call.

        Returns:
            The name; None for others.
        """
        return self.names.get(node) if isinstance(node, Node) else None

    def uses_of(self, name: str) -> Sequence[Node]:
        """Return the calls that use a parameter, also if it is transposed before.

        Args:
            name: Name of the parameter.

        Returns:
            The calls, once for each use.
        """
        return self._uses[name]

    def length(self, at: Dim) -> int:
        """Return the length of a dimension of a parameter.

        Args:
            at: The dimension.

        Returns:
            The length.
        """
        placeholder = next(node for node, name in self.names.items() if name == at.tensor)
        return shape_of(placeholder)[at.dim]

    def matrix(self, node: object, dim: int) -> Dim | None:
        """Return a dimension of a matrix as that of a parameter, possibly transposed.

        Args:
            node: A node, or another argument of a call.
            dim: Index of the dimension of the matrix.

        Returns:
            The dimension of the parameter; None if it is no matrix that is a parameter.
        """
        if isinstance(node, Node) and len(shape_of(node)) != 2:
            return None
        name = self.name_of(node)
        if name is not None:
            return Dim(name, dim)
        if not isinstance(node, Node) or operator_of(node) not in _TRANSPOSITIONS:
            return None
        source = node.args[0]
        name = self.name_of(source)
        found = None if name is None or not isinstance(source, Node) else carried(source, node, 1 - dim)
        return None if name is None or found is None else Dim(name, 1 - dim if found == dim else dim)


def _uses_of(node: Node) -> Iterator[Node]:
    for user in node.users:
        if operator_of(user) in _TRANSPOSITIONS:
            yield from user.users
        else:
            yield user
