r"""Translations of units that a model does not see, from its graph.

A layer normalization subtracts the mean of the units: a multiple of the vector of ones can be added to all that is
normalized. After it, the shift of the normalization is a translation of the units, which the biases of the next layers
can contain.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from rebasin_core.specs.folding import BiasedWeight, Dim, Foldable, Obstacle
from rebasin_core.specs.tracing.carriers import added_to, arguments_of, carried, operator_of, shape_of
from rebasin_core.specs.tracing.graph import written_nodes
from rebasin_core.specs.tracing.parameters import GraphParameters

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from torch.fx import Node

    from rebasin_core.specs.tracing.graph import ModelGraph

_NORMALIZATIONS = ("layer_norm", "native_layer_norm")
# The argument that is the second factor of a matrix product.
_FACTORS = {"addmm": "mat2", "mm": "mat2", "bmm": "mat2", "matmul": "other"}


def foldable_in(graph: ModelGraph, movable: Collection[str]) -> Foldable:
    """Return the shifts and means that can be folded.

    Args:
        graph: The graph of the model.
        movable: Names of the parameters that may be changed.

    Returns:
        The shifts, and the dimensions along which a mean is not seen, without obstacles to scales.
    """
    return _Translations(graph, movable).foldable()


@final
@dataclass(frozen=True, slots=True)
class _Layer:
    """A linear layer whose input is normalized: the call, and its weight and bias if they are parameters."""

    call: Node
    weight: Dim | None
    bias: str | None


@final
@dataclass(slots=True)
class _Found:
    """Findings so far."""

    shifts: dict[str, tuple[BiasedWeight, ...]] = field(default_factory=dict)
    obstacles: dict[str, Obstacle] = field(default_factory=dict)
    # For the dimension of every weight that a normalization is contracted with: scales and shifts of the latter.
    readers: dict[Dim, list[tuple[str | None, str | None]]] = field(default_factory=dict)


@final
class _Translations:
    def __init__(self, graph: ModelGraph, movable: Collection[str]) -> None:
        self._nodes = [*graph.module.graph.nodes]
        self._written = written_nodes(graph.module)
        self._parameters = GraphParameters(graph, movable)

    def foldable(self) -> Foldable:
        found = _Found()
        for node in self._nodes:
            if operator_of(node) in _NORMALIZATIONS:
                self._follow(node, found)
        readers = {
            at: (_names(scale for scale, _ in of), _names(shift for _, shift in of))
            for at, of in found.readers.items()
            if len(of) == len(self._parameters.uses_of(at.tensor))
        }
        return Foldable(found.shifts, tuple(self._writers()), readers, found.obstacles)

    def _writers(self) -> Iterator[Dim]:
        """Yield the dimensions of parameters along which a mean is not seen."""
        hidden: dict[Node, frozenset[int]] = {}
        for node in reversed(self._nodes):
            dims = range(len(shape_of(node))) if node.users and node not in self._written else ()
            hidden[node] = frozenset(dim for dim in dims if all(_hides(node, user, dim, hidden) for user in node.users))
        by_name: dict[str, list[Node]] = {}
        for node, name in self._parameters.names.items():
            if node.users:
                by_name.setdefault(name, []).append(node)
        for name, nodes in by_name.items():
            for dim in sorted(frozenset.intersection(*(hidden[node] for node in nodes))):
                yield Dim(name, dim)

    def _follow(self, node: Node, found: _Found) -> None:
        """Add the layers that use a normalization."""
        given = arguments_of(node)
        shape = given.get("normalized_shape")
        if not isinstance(shape, list | tuple) or len(shape) != 1:
            return
        scale, shift = self._parameters.name_of(given.get("weight")), self._parameters.name_of(given.get("bias"))
        layers = list(self._layers(node))
        # Scales and shifts that are no parameters themselves can have any values.
        is_parameter = (given.get("weight") is None) == (scale is None) and (given.get("bias") is None) == (
            shift is None
        )
        for layer in layers if is_parameter else ():
            if layer.weight is not None:
                found.readers.setdefault(layer.weight, []).append((scale, shift))
        if shift is None:
            return
        obstacle = self._obstacle(shift, layers)
        if obstacle is not None:
            found.obstacles[shift] = obstacle
            return
        found.shifts[shift] = tuple(
            BiasedWeight(layer.weight, layer.bias) for layer in layers if layer.weight and layer.bias
        )

    def _obstacle(self, shift: str, layers: Collection[_Layer]) -> Obstacle | None:
        """Return the reason why biases cannot contain a shift."""
        if len(self._parameters.uses_of(shift)) > 1:
            return Obstacle("it is used several times")
        for layer in layers:
            where = f"{operator_of(layer.call) or layer.call.op} at {layer.call.name}"
            if layer.weight is None:
                return Obstacle(f"its units are used by {where}")
            if layer.bias is None:
                return Obstacle(f"the layer with `{layer.weight.tensor}` has no bias ({where})")
            if len(self._parameters.uses_of(layer.bias)) > 1:
                return Obstacle(f"the bias `{layer.bias}` is used several times ({where})")
        return None

    def _layers(self, normalized: Node) -> Iterator[_Layer]:
        """Yield the calls that use the vectors of a normalization, after they are copied or averaged."""
        dim = len(shape_of(normalized)) - 1
        waiting = [(node, dim) for node in _outputs(normalized)]
        while waiting:
            node, at = waiting.pop()
            for user in node.users:
                found = None if user in self._written or node in self._written else carried(node, user, at)
                if found is None:
                    yield self._layer(node, user, at)
                else:
                    waiting.append((user, found))

    def _layer(self, node: Node, user: Node, dim: int) -> _Layer:
        """Return a call as a linear layer whose input is a node with units along a dimension."""
        other = _Layer(user, None, None)
        given = arguments_of(user)
        name = operator_of(user)
        if dim != len(shape_of(node)) - 1 or user.all_input_nodes.count(node) != 1:
            return other
        if name == "linear" and given["input"] is node:
            weight = self._parameters.matrix(given["weight"], 1)
        elif name in _FACTORS and node is given.get("mat1", given.get("self")) and _is_plain(given):
            weight = self._parameters.matrix(given[_FACTORS[name]], 0)
        else:
            return other
        bias = self._parameters.name_of(
            given.get("bias") if name == "linear" else given["self"] if name == "addmm" else None
        )
        return _Layer(user, weight, bias)


def _outputs(normalized: Node) -> list[Node]:
    """Return the nodes with the result of a normalization; others are statistics."""
    if operator_of(normalized) == "layer_norm":
        return [normalized]
    return [user for user in normalized.users if user.target is operator.getitem and user.args[1] == 0]


def _is_plain(given: Mapping[str, object]) -> bool:
    """Return whether the terms of a sum of matrix products have no factors."""
    return all(given.get(name, 1) == 1 for name in ("alpha", "beta"))


def _names(given: Iterator[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in given if name is not None))


def _hides(node: Node, user: Node, dim: int, hidden: Mapping[Node, frozenset[int]]) -> bool:
    """Return whether a call does not depend on a multiple of the vector of ones along a dimension of an argument."""
    if user.all_input_nodes.count(node) != 1 or shape_of(node)[dim] < 2:
        return False
    given = arguments_of(user)
    if operator_of(user) in _NORMALIZATIONS:
        shape = given["normalized_shape"]
        means = [item for item in user.users if item.target is operator.getitem and item.args[1] == 1 and item.users]
        is_input = given["input"] is node and isinstance(shape, list | tuple) and len(shape) == 1
        return is_input and not means and dim == len(shape_of(node)) - 1
    found = carried(node, user, dim)
    return (added_to(node, user, dim) if found is None else found) in hidden[user]
