"""The second interpretation of a graph, from which the linear symmetries are derived."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, final

from rebasin_core.specs.kinds.derive import Derivation, Symmetries
from rebasin_core.specs.kinds.offset import ONE_PLUS, OffsetRule
from rebasin_core.specs.kinds.rotary import ROTARY, RotaryRule
from rebasin_core.specs.kinds.slots import Slots
from rebasin_core.specs.operators.default import constants_of, sights_of
from rebasin_core.specs.tracing.centering import find_centerings
from rebasin_core.specs.tracing.interpret import Interpreter
from rebasin_core.specs.tracing.offset import with_offsets
from rebasin_core.specs.tracing.rotary import find_rotary, with_rotary
from rebasin_core.specs.unification.relation import Sight
from rebasin_core.specs.unification.terms import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from torch import Tensor
    from torch.fx import Node

    from rebasin_core.specs.kinds.unpermuted import PairKey
    from rebasin_core.specs.operators.base import Rules
    from rebasin_core.specs.operators.call import Call
    from rebasin_core.specs.tracing.graph import ModelGraph
    from rebasin_core.specs.tracing.rotary import Rotary
    from rebasin_core.specs.unification.constraints import Constraints
    from rebasin_core.specs.unification.interface import AxisConstraints
    from rebasin_core.specs.unification.solution import Solution
    from rebasin_core.specs.unification.terms import AxisTerms

Run: TypeAlias = "Callable[[ModelGraph, Mapping[str, AxisTerms], AxisConstraints, Interpreter], None]"
"""Interprets a graph: given the graph, the axes of tensors by name, the constraints, and an interpreter."""


@final
@dataclass(frozen=True, slots=True)
class SecondInterpretation:
    """The second interpretation of a graph.

    Attributes:
        graph: The graph.
        first: The constraints of the first interpretation, solved.
        solution: Their solution.
        terms_of: The axes of every tensor in the first interpretation.
        constant: Names of the tensors that must not be changed.
        rules: Rules by operator name.
        run: Interprets a graph.
    """

    graph: ModelGraph
    first: Constraints
    solution: Solution
    terms_of: Mapping[str, AxisTerms]
    constant: Collection[str]
    rules: Rules
    run: Run

    def symmetries(self, buffers: Mapping[str, Tensor]) -> Symmetries:
        """Return the linear symmetries.

        Rotary positions are first seen as one operator, which commutes with rotations of pairs. Where the rest of the
        graph does not commute with them, they are seen as the operators of which they consist.

        Args:
            buffers: Values of the buffers that are not saved, by placeholder.

        Returns:
            The symmetries.
        """
        graph = with_offsets(self.graph)
        found = find_rotary(graph, buffers)
        keys: Collection[PairKey] = ()
        if found:
            found, keys = self._rotated(graph, found)
        slots, _, _ = self._interpret(graph, found, keys.__contains__)
        return Derivation(slots).symmetries()

    def _rotated(self, graph: ModelGraph, found: Collection[Rotary]) -> tuple[list[Rotary], frozenset[PairKey]]:
        """Return those applications of rotary positions whose pairs admit rotations, and these pairs."""
        slots, rule, names = self._interpret(graph, found, bool)
        rotated = Derivation(slots).rotated()
        of_node = {node: slots.constraints.slots_in(term) for node, term in rule.tensors.items()}
        kept = [one for node, one in names.items() if of_node.get(node) and of_node[node] <= rotated.keys()]
        return kept, frozenset(rotated.values())

    def _interpret(
        self, graph: ModelGraph, found: Collection[Rotary], is_rotated: Callable[[PairKey], bool]
    ) -> tuple[Slots, RotaryRule, Mapping[str, Rotary]]:
        sights = {**sights_of(self.rules), ROTARY: Sight.LINEAR, ONE_PLUS: Sight.LINEAR}
        slots = Slots(self.first, self.solution, sights, constant=self.constant, is_rotated=is_rotated)
        rule = RotaryRule(slots.constraints, slots.pairings)
        own = {name: slots.terms_of(name, terms) for name, terms in self.terms_of.items()}
        for name in self.constant:
            for term in own[name]:
                slots.constraints.see(term, Sight.ANY, Reason("none", name, "its entries are not changed"))
        rules: Rules = {**self.rules, ROTARY: rule, ONE_PLUS: OffsetRule(slots.constraints)}
        graph, names = with_rotary(graph, found) if found else (graph, {})
        movable = own.keys() - set(self.constant) - self.solution.layout.stacks.keys()
        centerings = find_centerings(graph, movable, constants_of(self.rules))

        def conclude(call: Call, node: Node, results: list[AxisTerms]) -> list[AxisTerms]:
            return slots.constraints.conclude(call, results, centerings.get(node))

        interpreter = Interpreter(slots.constraints, rules, conclude)
        self.run(graph, own, slots.constraints, interpreter)
        return slots, rule, names
