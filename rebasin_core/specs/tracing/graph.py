"""The captured graph of a model, and the tensors that it writes to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

from torch.fx import GraphModule, Node

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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
    def normalization_tensors(self) -> frozenset[str]:
        """Names of the parameters and buffers that normalizations use, running statistics among them."""
        found: set[str] = set()
        for node in self.module.graph.nodes:
            if "norm" in str(node.target):
                names = [argument.name for argument in node.args if isinstance(argument, Node)]
                found |= {origin for name in names if (origin := self.origins.get(name)) is not None}
        return frozenset(found)

    @cached_property
    def written_tensors(self) -> frozenset[str]:
        """Names of the parameters and buffers that the graph writes to."""
        names = {node.name for node in written_nodes(self.module)}
        return frozenset(origin for name, origin in self.origins.items() if origin is not None and name in names)


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
    schema = getattr(node.target, "_schema", None)
    regions = [argument for argument in node.args if isinstance(argument, Node) and argument.op == "get_attr"]
    for region in regions:
        inner = getattr(module, str(region.target))
        if isinstance(inner, GraphModule):
            changed = written_nodes(inner)
            placeholders = (other for other in inner.graph.nodes if other.op == "placeholder")
            given = node.args[node.args.index(region) + 1 :]
            yield from (outer for outer, own in zip(given, placeholders, strict=False) if own in changed)
    if schema is None or not schema.is_mutable:
        return
    for index, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield node.args[index] if index < len(node.args) else node.kwargs.get(argument.name)
