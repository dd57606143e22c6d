"""Recurrent layers: LSTM, GRU and RNN."""

from __future__ import annotations

from itertools import starmap
from typing import TYPE_CHECKING, final

from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.specs.operators.slicing import narrowed, stacked
from rebasin_core.specs.unification.relation import Relation, Sight
from rebasin_core.specs.unification.terms import length

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.specs.operators.base import Result, Rule, Sights
    from rebasin_core.specs.operators.call import Call
    from rebasin_core.specs.unification.terms import AxisTerm, AxisTerms

_TIME = "time steps are ordered"
_BATCHED = 3  # dimensions of an input with a batch
_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
_VALUE = 2  # index of the gate with a hyperbolic tangent, in an LSTM (i, f, g, o) and a GRU (r, z, n)


def recurrent(call: Call) -> Result:
    """Tie gates, recurrent weights and states of the hidden units, for each layer and direction.

    Args:
        call: ``lstm``, ``gru``, ``rnn_tanh`` or ``rnn_relu``.

    Returns:
        The axes of the output sequence, and of the final states, stacked over layers and directions.
    """
    given = call.arguments["hx"]
    states: list[AxisTerms] = given if isinstance(given, list) else [given]
    inputs, states = _steps(call, states)
    cells = call.arguments["num_layers"] * (2 if call.arguments["bidirectional"] else 1)
    size = len(call.arguments["params"]) // cells
    feature = inputs[-1]
    found: list[tuple[AxisTerm, AxisTerm]] = []
    for number in range(cells):
        weights = call.arguments["params"][number * size : (number + 1) * size]
        starts = [narrowed(call, state, 0, number, 1)[-1] for state in states]
        found.append(_cell(call, feature, weights, starts))
        if not call.arguments["bidirectional"]:
            feature = found[-1][0]
        elif number % 2:
            feature = call.concat([found[-2][0], found[-1][0]])
    outputs = range(1, len(states) + 1)
    return [
        (*inputs[:-1], feature),
        *(_last_states(call, states[0], [cell[output - 1] for cell in found], output) for output in outputs),
    ]


def _steps(call: Call, states: Sequence[AxisTerms]) -> tuple[AxisTerms, list[AxisTerms]]:
    """Return the axes of the inputs and initial states, after fixing time and tying their batch axes."""
    inputs = list(call.first)
    if "batch_sizes" in call.arguments:  # packed sequence: one axis for the time steps of all examples
        inputs[0] = call.freeze(inputs[0], _TIME)
        return tuple(inputs), [(state[0], call.freeze(state[1], _TIME), state[2]) for state in states]
    if len(inputs) < _BATCHED:
        inputs[0] = call.freeze(inputs[0], _TIME)
        return tuple(inputs), list(states)
    time, batch = (1, 0) if call.arguments["batch_first"] else (0, 1)
    inputs[time] = call.freeze(inputs[time], _TIME)
    inputs[batch] = call.unify(inputs[batch], *(state[1] for state in states))
    call.see(inputs[batch], Sight.ANY, "the same bias is added at all positions")
    return tuple(inputs), [(state[0], inputs[batch], state[2]) for state in states]


def _cell(
    call: Call, feature: AxisTerm, weights: Sequence[AxisTerms], starts: Sequence[AxisTerm]
) -> tuple[AxisTerm, AxisTerm]:
    """Return the axes of output and cell state; they differ if the LSTM projects its output."""
    gates = _GATES[call.operator.removeprefix("aten.")]
    biases = 2 if call.arguments["has_biases"] else 0
    into, again, *rest = weights
    call.contract(feature, into[1])
    rows = [into[0], again[0], *(bias[0] for bias in rest[:biases])]
    unit = _units(call, rows, gates)
    output = unit
    if rest[biases:]:
        output, inner = rest[biases]
        unit = call.contract(unit, inner)
    call.contract(output, again[1])
    output = call.relate(Relation.EQUAL, output, starts[0])
    return output, call.relate(Relation.EQUAL, unit, *starts[1:])


def _units(call: Call, rows: Sequence[AxisTerm], gates: int) -> AxisTerm:
    """Return the axis of the hidden units, after tying the gates concatenated in ``rows``.

    The units have the sign of the gate that enters a hyperbolic tangent (the scale, without gates and with a ReLU). The
    other gates enter a sigmoid, and must not be changed.
    """
    sizes = [[length(row) // gates] * gates for row in rows]
    parts = list(starmap(call.split_axis, zip(rows, sizes, strict=True)))
    found = [call.relate(Relation.EQUAL, *(own[gate].term for own in parts)) for gate in range(gates)]
    value = found.pop(min(_VALUE, gates - 1))
    for term in found:
        call.see(term, Sight.ANY, "units are seen by a sigmoid")
    call.see(value, Sight.HOMOGENEOUS if call.operator.endswith("relu") else Sight.ODD, "units are seen by a cell")
    return call.relate(Relation.PRODUCT, value, *found)


def _last_states(call: Call, state: AxisTerms, axes: Sequence[AxisTerm], output: int) -> AxisTerms:
    """Return the axes of the final states, stacked over layers and directions."""
    if output not in call.used:
        return tuple(call.fixed(size, "never used") for size in call.shapes[output])
    return stacked(call, [(*state[1:-1], axis) for axis in axes], 0)


RULES: dict[str, Rule] = {f"aten.{name}": recurrent for name in _GATES}
SIGHTS: Sights = {f"aten.{name}": Sight.LINEAR for name in _GATES}


@final
class RecurrentRules(OperatorRules):
    """Rules for recurrent layers."""

    name = "recurrent"
    rules = RULES
    sights = SIGHTS
