"""Recurrent layers: the gates of a unit are tied, and a unit to itself one step later."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.specs.operators.slicing import narrowed, stacked
from rebasin_core.specs.unification.terms import length

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.specs.operators.base import Result, Rule
    from rebasin_core.specs.operators.call import Call
    from rebasin_core.specs.unification.terms import AxisTerm, AxisTerms

_TIME = "steps follow each other"
_BATCHED = 3  # dimensions of an input with a batch
_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def recurrent(call: Call) -> Result:
    """Tie the gates of every unit, its recurrent weights and its states, layer by layer and direction by direction.

    Args:
        call: ``lstm``, ``gru``, ``rnn_tanh`` or ``rnn_relu``.

    Returns:
        The axes of the sequence, and of the last states, stacked over layers and directions.
    """
    given = [*call.arguments.values()][1]
    states: list[AxisTerms] = given if isinstance(given, list) else [given]
    inputs = call.first
    for term in inputs[:-1] if len(inputs) < _BATCHED else (inputs[1 if call.arguments["batch_first"] else 0],):
        call.freeze(term, _TIME)
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


def _cell(
    call: Call, feature: AxisTerm, weights: Sequence[AxisTerms], starts: Sequence[AxisTerm]
) -> tuple[AxisTerm, AxisTerm]:
    """Return the axes of the output and of the inner state of one cell; they differ if the output is projected."""
    gates = _GATES[call.operator.removeprefix("aten.")]
    biases = 2 if call.arguments["has_biases"] else 0
    into, again, *rest = weights
    call.contract(feature, into[1])
    rows = [into[0], again[0], *(bias[0] for bias in rest[:biases])]
    unit = call.unify(*(_units(call, row, gates) for row in rows))
    output = unit
    if rest[biases:]:
        output, inner = rest[biases]
        unit = call.contract(unit, inner)
    output = call.unify(call.contract(output, again[1]), starts[0])
    return output, call.unify(unit, *starts[1:])


def _units(call: Call, rows: AxisTerm, gates: int) -> AxisTerm:
    """Return the axis of the units, after tying the gates that an axis concatenates."""
    parts = call.split_axis(rows, [length(rows) // gates] * gates)
    return call.unify(*(part.term for part in parts))


def _last_states(call: Call, state: AxisTerms, axes: Sequence[AxisTerm], output: int) -> AxisTerms:
    """Return the axes of the last states, stacked over layers and directions."""
    if output not in call.used:
        return tuple(call.fixed(size, "never used") for size in call.shapes[output])
    found = stacked(call, [(*state[1:-1], axis) for axis in axes], 0)
    # Before 2.10, torch exports states of `lstm` with one more axis, of length 1, after the first.
    more = [call.fixed(1, "of length 1")] * (len(call.shapes[output]) - len(found))
    return (found[0], *more, *found[1:])


RULES: dict[str, Rule] = {f"aten.{name}": recurrent for name in _GATES}


@final
class RecurrentRules(OperatorRules):
    """Rules of recurrent layers."""

    name = "recurrent"
    rules = RULES
