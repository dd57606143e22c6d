r"""Layers after units that are an odd function plus a constant, from the graph of a model.

With $f(-u) = c - f(u)$, the units are $\tfrac c2$ plus an odd function. If only layers with biases use them, these
biases can contain the constant; a flip of a unit is then a sign. The constant must be the same at all positions: a
convolution that pads with zeros sees another one at the border.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from torch.fx import Node

from rebasin_core.specs.folding import Dim
from rebasin_core.specs.kinds.statement import Centering
from rebasin_core.specs.tracing.carriers import KEEP_CONSTANTS, arguments_of, operator_of, shape_of
from rebasin_core.specs.tracing.graph import written_nodes
from rebasin_core.specs.tracing.parameters import GraphParameters
from rebasin_core.symmetry.kind import Shift

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from rebasin_core.specs.tracing.graph import ModelGraph

_CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d", "convolution"})
_POOLINGS = frozenset({"avg_pool1d", "avg_pool2d", "avg_pool3d"})
# The arguments of matrix products with two matrices: the units, and the weight.
_FACTORS = {"addmm": ("mat1", "mat2"), "mm": ("self", "mat2"), "matmul": ("self", "other")}


def find_centerings(
    graph: ModelGraph, movable: Collection[str], constants: Mapping[str, tuple[float, float]]
) -> dict[Node, Centering]:
    """Return, for units that are an odd function plus a constant, the layers whose biases can contain the constant.

    Args:
        graph: The graph of the model.
        movable: Names of the tensors that may be changed.
        constants: The constant $c$ and the slope $f'(0)$ of every operator with $f(-u) = c - f(u)$, by name.

    Returns:
        The layers by call of such an operator, or the reason why there are no centered coordinates.
    """
    return _Search(graph, movable).centerings(constants)


class _Obstacle(Exception):  # ruff: ignore[error-suffix-on-exception-name] - never leaves this file
    """The reason why there are no centered coordinates."""


@final
@dataclass(frozen=True, slots=True)
class _Layer:
    """A call of a layer, the call that adds its bias, and how flips of its units shift this bias."""

    adding: Node
    shift: Shift


@final
class _Search:
    def __init__(self, graph: ModelGraph, movable: Collection[str]) -> None:
        self._nodes = [*graph.module.graph.nodes]
        self._written = written_nodes(graph.module)
        self._parameters = GraphParameters(graph, movable)

    def centerings(self, constants: Mapping[str, tuple[float, float]]) -> dict[Node, Centering]:
        found: dict[Node, Centering] = {}
        layers: dict[Node, list[_Layer]] = {}
        for node in self._nodes:
            constant = constants.get(f"aten.{operator_of(node)}")
            if constant is None:
                continue
            try:
                layers[node] = list(self._layers(node, constant))
            except _Obstacle as obstacle:
                found[node] = Centering(obstacle=str(obstacle))
        # A bias contains the constant in all its uses: without one of them, other units have no centered coordinates.
        while True:
            without = {node: why for node, own in layers.items() if (why := self._shared(own, layers))}
            if not without:
                break
            for node, why in without.items():
                found[node] = Centering(obstacle=why)
                del layers[node]
        centered = {node: Centering(tuple(dict.fromkeys(one.shift for one in own)), "") for node, own in layers.items()}
        return {**found, **centered}

    def _shared(self, own: Collection[_Layer], layers: Mapping[Node, Sequence[_Layer]]) -> str:
        """Return why a bias of some layers cannot contain a constant; empty if all can."""
        if not own:
            return "no layer uses the result"
        known: dict[str, dict[Node, Shift]] = {}
        for each in layers.values():
            for layer in each:
                known.setdefault(layer.shift.bias, {})[layer.adding] = layer.shift
        for layer in own:
            shifts = known[layer.shift.bias]
            if set(self._parameters.uses_of(layer.shift.bias)) != shifts.keys() or len({*shifts.values()}) > 1:
                return f"the bias `{layer.shift.bias}` is used several times"
        return ""

    def _layers(self, node: Node, constant: tuple[float, float]) -> Iterator[_Layer]:
        """Yield the layers that use the result of a call, all of whose entries contain half of a constant."""
        waiting = [(node, 1.0)]
        while waiting:
            node, factor = waiting.pop()
            for user in node.users:
                scale = None if {node, user} & self._written else _scale(node, user)
                if scale is None:
                    yield self._layer(node, user, (constant[0] * factor, constant[1] * factor))
                else:
                    waiting.append((user, factor * scale))

    def _layer(self, node: Node, user: Node, constant: tuple[float, float]) -> _Layer:
        """Return a layer that uses units; raise if it is none with a bias of its own."""
        where = "they are an output of the model" if user.op == "output" else _where(user)
        if {node, user} & self._written or user.all_input_nodes.count(node) != 1:
            raise _Obstacle(where)
        given = arguments_of(user)
        weight = self._weight(node, user, given)
        if weight is None:
            raise _Obstacle(where)
        adding, bias = self._bias(user, given)
        if bias is None or shape_of(bias) != (self._parameters.length(weight),):
            message = f"the layer with `{weight.tensor}` has no bias"
            raise _Obstacle(message)
        name = self._parameters.name_of(bias)
        if name is None:
            message = f"the bias of the layer with `{weight.tensor}` is not a free parameter"
            raise _Obstacle(message)
        return _Layer(adding, Shift(weight.tensor, weight.dim, name, *constant))

    def _weight(self, node: Node, user: Node, given: Mapping[str, object]) -> Dim | None:
        """Return the weight of a layer that sums over units, and its dimension that the sums have; None for others."""
        name = operator_of(user)
        if name == "linear" and given["input"] is node:
            return self._parameters.matrix(given["weight"], 0)
        if name in _FACTORS and given[_FACTORS[name][0]] is node and given.get("alpha", 1) == given.get("beta", 1) == 1:
            return self._parameters.matrix(given[_FACTORS[name][1]], 1)
        if name in _CONVOLUTIONS and given["input"] is node and not given.get("transposed"):
            weight = self._parameters.name_of(given["weight"])
            if given.get("groups", 1) != 1:
                message = f"{_where(user)}, which has several groups"
                raise _Obstacle(message)
            if given.get("padding", 0) != "valid" and any(_integers(given.get("padding", 0))):
                message = f"{_where(user)}, which pads with zeros"
                raise _Obstacle(message)
            return None if weight is None else Dim(weight, 0)
        return None

    def _bias(self, user: Node, given: Mapping[str, object]) -> tuple[Node, Node | None]:
        """Return the call that adds the bias of a layer, and the bias."""
        name = operator_of(user)
        bias = given.get("self") if name == "addmm" else None if name in _FACTORS else given.get("bias")
        if name in {"mm", "matmul"} and len(user.users) == 1:
            (following,) = user.users
            sums = arguments_of(following)
            if operator_of(following) == "add" and sums.get("alpha", 1) == 1 and following not in self._written:
                bias = sums["other"] if sums["self"] is user else sums["self"]
                user = following
        return user, bias if isinstance(bias, Node) else None


def _where(user: Node) -> str:
    return f"its units are used by {operator_of(user) or user.op}"


def _scale(node: Node, user: Node) -> float | None:
    """Return the factor by which a call multiplies a constant in all entries of an argument; None for other calls."""
    name = operator_of(user)
    given = arguments_of(user)
    if user.target is operator.getitem or (name in KEEP_CONSTANTS and next(iter(given.values())) is node):
        return None if given.get("train") else 1.0
    if name in _POOLINGS:
        pads = any(_integers(given.get("padding", 0))) and given.get("count_include_pad", True)
        return None if pads or given.get("divisor_override") else 1.0
    other = given.get("other")
    if name in {"mul", "div"} and given["self"] is node and isinstance(other, int | float) and other:
        return None if given.get("rounding_mode") else other if name == "mul" else 1 / other
    return None


def _integers(value: object) -> list[object]:
    """Return the entries of an argument that is an integer or a sequence; a name such as ``same`` counts as padding."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
