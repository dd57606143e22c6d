"""One added to parameters in a graph, as in the scales ``1 + weight`` of some normalizations (Gemma)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Final

from torch.fx import GraphModule, Node

from rebasin_core.specs.kinds.offset import one_plus
from rebasin_core.specs.tracing.carriers import arguments_of, operator_of, shape_of
from rebasin_core.specs.tracing.graph import ModelGraph, value_of, written_nodes

if TYPE_CHECKING:
    from collections.abc import Collection

_COPIED: Final = frozenset({
    "alias", "clone", "contiguous", "detach", "lift_fresh_copy", "to", "_to_copy", "type_as", "unsqueeze", "view",
    "reshape", "expand", "expand_as",
})  # fmt: skip


def with_offsets(graph: ModelGraph) -> ModelGraph:
    """Return a graph in which adding one to a parameter is one operator.

    Args:
        graph: The graph, not changed.

    Returns:
        The new graph; the same one if no parameter has one added to it.
    """
    written = written_nodes(graph.module)
    found = [node for node in graph.module.graph.nodes if _is_offset(node, graph, written)]
    if not found:
        return graph
    copied = copy.deepcopy(graph.module.graph)
    of = dict(zip(graph.module.graph.nodes, copied.nodes, strict=True))
    for node in found:
        old = of[node]
        with copied.inserting_before(old):
            new = copied.call_function(one_plus, (of[_added_to(node)],))
        new.meta = dict(old.meta)
        old.replace_all_uses_with(new)
        copied.erase_node(old)
    return ModelGraph(GraphModule(graph.module, copied), graph.origins, graph.constants)


def _is_offset(node: Node, graph: ModelGraph, written: Collection[Node]) -> bool:
    """Return whether a node adds one to a parameter, possibly after copies of it."""
    if operator_of(node) != "add" or node in written:
        return False
    given = arguments_of(node)
    numbers = [given.get(name) for name in ("self", "other") if not isinstance(given.get(name), Node)]
    if numbers != [1] or given.get("alpha", 1) != 1 or shape_of(_added_to(node)) != shape_of(node):
        return False
    source = _added_to(node)
    while source not in written and operator_of(source) in _COPIED and _keeps_entries(source):
        source = source.all_input_nodes[0]
    return source.op == "placeholder" and source not in written and graph.origins.get(source.name) is not None


def _added_to(node: Node) -> Node:
    return node.all_input_nodes[0]


def _keeps_entries(node: Node) -> bool:
    """Return whether a copy has the same entries, up to dimensions of length one."""
    before, after = shape_of(node.all_input_nodes[0]), shape_of(node)
    is_float = bool(getattr(getattr(value_of(node), "dtype", None), "is_floating_point", False))
    return is_float and [size for size in before if size != 1] == [size for size in after if size != 1]
