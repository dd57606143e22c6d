"""The interface of rules for operators."""

from __future__ import annotations

from abc import ABC
from typing import TYPE_CHECKING, ClassVar, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rebasin_core.specs.operators.call import Call
    from rebasin_core.specs.unification.terms import AxisTerms

Result: TypeAlias = "AxisTerms | list[AxisTerms]"
"""Result of a rule: the axes of each output, or of the only one."""

Rule: TypeAlias = "Callable[[Call], Result]"
"""Adds the constraints of one operator on the axes of its arguments, and returns the axes of its outputs."""

Rules: TypeAlias = "Mapping[str, Rule]"
"""Rules by operator name."""


class OperatorRules(ABC):
    """Rules of a family of operators. A plugin registers them so that models with its operators can be traced.

    Laws:
        - *Sound*: the constraints of a rule suffice, that is, every group element of a model traced with it preserves
          the function. `check_spec` tests it on the examples that the plugin provides.
        - *Local*: a rule depends on its call only, and returns one axis of the right length for every dimension of
          every output.

    Attributes:
        name: Name of the family.
        rules: A rule for every operator, by name without overload: ``aten.linear``, ``mylib.my_operator``. The rule of
            ``relu`` also applies to the in-place operator ``relu_``.
        exempt_laws: Laws that the conformance kit skips, with the reasons.
    """

    name: ClassVar[str]
    rules: ClassVar[Rules]
    exempt_laws: ClassVar[Mapping[str, str]] = {}
