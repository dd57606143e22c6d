"""The interface of operator rules."""

from __future__ import annotations

from abc import ABC
from typing import TYPE_CHECKING, ClassVar, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rebasin_core.specs.operators.call import Call
    from rebasin_core.specs.unification.relation import Sight
    from rebasin_core.specs.unification.terms import AxisTerms

Result: TypeAlias = "AxisTerms | list[AxisTerms]"
"""Result of a rule: the axes of the output, or a list of them for operators with several outputs."""

Rule: TypeAlias = "Callable[[Call], Result]"
"""Adds the constraints of one operator on the axes of its arguments and returns the axes of its outputs."""

Rules: TypeAlias = "Mapping[str, Rule]"
"""Rules by operator name."""

Sights: TypeAlias = "Mapping[str, Sight]"
"""How operators see the units of the axes that they keep, by operator name."""


class OperatorRules(ABC):
    """Rules for a family of operators.

    A plugin registers a subclass to make models that use its operators traceable.

    Laws:
        - *Sound*: every group element of a model traced with the rules preserves the model's function. `check_spec`
          tests this on the examples that the plugin provides.
        - *Local*: a rule depends on its call only. It returns one axis for every dimension of every output, of the
          same length.

    Attributes:
        name: Name of the family.
        rules: Rules by operator name without overload, such as ``aten.linear`` or ``mylib.my_operator``. The rule for
            ``relu`` also applies to the in-place operator ``relu_``.
        sights: How operators see the units of the axes that they keep, by the same names. An operator that is not in it
            admits permutations only, no scales, signs or other linear maps. If it is ``LINEAR``, the rule must state
            with `Call.relate`, `Call.contract` and `Call.see` how the axes of several tensors are combined.
        constants: For operators with the sight ``CENTERED``, by the same names, the constant $c$ with
            $f(-u) = c - f(u)$, and the slope $f'(0)$: 1 and 1/4 for the logistic sigmoid.
        exempt_laws: Names of laws that the conformance kit skips, with reasons.
    """

    name: ClassVar[str]
    rules: ClassVar[Rules]
    sights: ClassVar[Sights] = {}
    constants: ClassVar[Mapping[str, tuple[float, float]]] = {}
    exempt_laws: ClassVar[Mapping[str, str]] = {}
