"""Tensors of a graph that have equal entries for both units of every pair, such as the angles of rotary positions."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Final, final

import torch
from torch.fx import Node

from rebasin_core.specs.tracing.carriers import operator_of, shape_of
from rebasin_core.specs.tracing.constants import KnownConstants
from rebasin_core.specs.tracing.rotary_nodes import argument, is_last, length_of
from rebasin_core.symmetry.pairs import Pairs

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor

    from rebasin_core.specs.tracing.graph import ModelGraph
    from rebasin_core.specs.tracing.rotary_nodes import Pairing

_COPIED: Final = frozenset({
    "alias", "clone", "contiguous", "detach", "expand", "expand_as", "lift_fresh_copy", "repeat_interleave", "to",
    "_to_copy", "type_as", "unsqueeze", "select", "slice", "index", "index_select", "embedding",
})  # fmt: skip
_ENTRYWISE: Final = frozenset({"cos", "sin", "mul", "multiply", "add", "sub", "div", "neg", "negative"})


@final
class EqualPairs:
    """Decides whether both units of every pair have equal entries in a tensor, for all inputs.

    Args:
        graph: The graph.
        constants: Values of placeholders that are not trained, by name.
        written: Nodes whose memory a later node writes to.
    """

    def __init__(self, graph: ModelGraph, constants: Mapping[str, Tensor], written: Collection[Node]) -> None:
        self._written = written
        self._values = KnownConstants()
        self._found: dict[tuple[Node, Pairs], bool] = {}
        for node in graph.module.graph.nodes:
            if node in written:
                continue
            if node.op == "placeholder" and node.name in constants:
                self._values.record(node, constants[node.name])
            elif node.op == "get_attr":
                self._values.record(node, operator.attrgetter(str(node.target))(graph.module))
            elif node.op == "call_function":
                self._values.compute(node)

    def of(self, node: Node, pairing: Pairing) -> bool:
        """Return whether both units of every pair are equal.

        Args:
            node: The node of the tensor.
            pairing: The pairs of its last axis.

        Returns:
            Whether this is certain.
        """
        key = node, pairing.pairs
        if key not in self._found:
            is_equal = self._by_value(node, pairing.pairs) or self._by_structure(node, pairing)
            self._found[key] = node not in self._written and is_equal
        return self._found[key]

    def _by_value(self, node: Node, pairs: Pairs) -> bool:
        value = self._values.value(node)
        if value is None or value.dim() == 0 or value.shape[-1] % 2:
            return False
        first, second = pairs.parts(value, -1)
        return torch.equal(first, second)

    def _by_structure(self, node: Node, pairing: Pairing) -> bool:
        name, given = operator_of(node), [item for item in node.args if isinstance(item, Node)]
        parts = pairing.joined(node)
        if parts is not None:
            return parts.first is parts.second
        if name == "repeat_interleave" and given and length_of(node) == 2 * length_of(given[0]):
            is_doubled = node.args[1:2] == (2,) and is_last(argument(node, "dim", None), node)
            return is_doubled and pairing.pairs is Pairs.NEIGHBORS
        if name in _ENTRYWISE and given and argument(node, "alpha", 1) == 1:
            varying = [item for item in given if length_of(item) != 1]
            return bool(varying) and all(
                length_of(item) == length_of(node) and self.of(item, pairing) for item in varying
            )
        return name in _COPIED and bool(given) and _keeps_last(node, given[0]) and self.of(given[0], pairing)


def _keeps_last(node: Node, source: Node) -> bool:
    """Return whether an operator keeps the last dimension of its first argument as the last one."""
    before, after = shape_of(source), shape_of(node)
    if not before or not after or before[-1] != after[-1]:
        return False
    name = operator_of(node)
    if name == "unsqueeze":
        return not is_last(node.args[1], node)
    if name in {"select", "index_select", "repeat_interleave", "slice"}:
        dim = argument(node, "dim", 0 if name == "slice" else None)
        return isinstance(dim, int) and not is_last(dim, source)
    if name == "index":  # the first dimensions are indexed
        indices = node.args[1]
        return isinstance(indices, list | tuple) and len(indices) < len(before) and None not in indices
    return True
