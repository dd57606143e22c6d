"""The captured graph of a model, and the tensors that it writes to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, final

import torch
from torch.fx import GraphModule, Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor


@final
@dataclass(frozen=True)
class ModelGraph:
    """The graph of a model, and the tensors that its placeholders represent. The graph must not be changed.

    Attributes:
        module: The graph, including nested graphs.
        origins: Name of the parameter or buffer of each placeholder; None for an input.
        constants: Values of all other placeholders.
    """

    module: GraphModule
    origins: Mapping[str, str | None]
    constants: Mapping[str, Tensor]

    @cached_property
    def placeholders(self) -> Mapping[str, Node]:
        """The placeholders by name, in graph order."""
        return {node.name: node for node in self.module.graph.nodes if node.op == "placeholder"}

    @cached_property
    def used_tensors(self) -> frozenset[str]:
        """Names of the parameters and buffers that the graph uses."""
        return frozenset(
            origin
            for name, node in self.placeholders.items()
            if node.users and (origin := self.origins.get(name)) is not None
        )

    @cached_property
    def running_statistics(self) -> frozenset[str]:
        """Names of the parameters and buffers that normalizations use as running statistics."""
        return self._origins_of(_statistics(self.module))

    @cached_property
    def written_tensors(self) -> frozenset[str]:
        """Names of the parameters and buffers that the graph writes to."""
        return self._origins_of(written_nodes(self.module))

    def _origins_of(self, nodes: set[Node]) -> frozenset[str]:
        """Return the names of the parameters and buffers among some nodes."""
        found = (self.origins.get(node.name) for node in nodes if node.op == "placeholder")
        return frozenset(origin for origin in found if origin is not None)


def value_of(node: Node) -> Any:  # ruff: ignore[any-type] - a tensor, a record of one, a scalar, or a list of those
    """Return the recorded value of a node, or a record of its shape and dtype.

    Args:
        node: A node.

    Returns:
        The value or record; None if nothing was recorded.
    """
    return node.meta.get("val", node.meta.get("tensor_meta"))


def written_nodes(module: GraphModule) -> set[Node]:
    """Return the nodes whose memory a later node writes to, including writes in nested graphs.

    Args:
        module: A graph.

    Returns:
        The nodes, and the nodes that they are views of.
    """
    found: set[Node] = set()
    for node in module.graph.nodes:
        for target in _targets(module, node):
            base: object = target
            while isinstance(base, Node) and base not in found:
                found.add(base)
                base = base.args[0] if base.args and not makes_new_tensor(base) else None
    return found


def makes_new_tensor(node: Node) -> bool:
    """Return whether an operator always allocates its output.

    Args:
        node: A node.

    Returns:
        True for ``empty_like``, ``new_zeros`` and the like.
    """
    name = str(node.target).partition(".")[2].partition(".")[0]
    return name.endswith("_like") or name.startswith("new_") or name in {"zeros", "ones", "empty", "full"}


def _targets(module: GraphModule, node: Node) -> Iterator[object]:
    """Yield the arguments that an operator writes to."""
    yield from _given(module, node, written_nodes)
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable or node.target is torch.ops.aten.detach_.default:
        return
    for index, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield _argument(node, index, argument.name)


def _statistics(module: GraphModule) -> set[Node]:
    """Return the nodes that batch and instance normalizations use as running statistics, also in nested graphs."""
    found: set[Node] = set()
    for node in module.graph.nodes:
        arguments = enumerate(getattr(getattr(node.target, "_schema", None), "arguments", ()))
        used = [_argument(node, index, argument.name) for index, argument in arguments if argument.name in _STATISTICS]
        found.update(given for given in (*used, *_given(module, node, _statistics)) if isinstance(given, Node))
    return found


def _argument(node: Node, index: int, name: str) -> object:
    """Return an argument of an operator, by its index and name in the schema."""
    return node.args[index] if index < len(node.args) else node.kwargs.get(name)


def _given(module: GraphModule, node: Node, select: Callable[[GraphModule], set[Node]]) -> Iterator[object]:
    """Yield the arguments for those placeholders of nested graphs that a function of the nested graph selects."""
    for index, region in enumerate(node.args):
        inner = getattr(module, str(region.target)) if isinstance(region, Node) and region.op == "get_attr" else None
        if isinstance(inner, GraphModule):
            selected = select(inner)
            placeholders = (other for other in inner.graph.nodes if other.op == "placeholder")
            given = zip(node.args[index + 1 :], placeholders, strict=False)
            yield from (outer for outer, own in given if own in selected)


_STATISTICS: Final = frozenset({"running_mean", "running_var"})
"""Arguments of all variants of batch and instance normalization, by their names in the schemas."""
