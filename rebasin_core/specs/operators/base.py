"""The interface of rules for operators."""

from __future__ import annotations

from abc import ABC
from typing import TYPE_CHECKING, ClassVar, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rebasin_core.specs.operators.call import Call, Terms

Result: TypeAlias = "Terms | list[Terms]"
"""What a rule returns: the axes of each output; where there is one, its axes alone will do."""

Rule: TypeAlias = "Callable[[Call], Result]"
"""What an operator asks of the axes of its arguments: adds the equations and returns the axes of the outputs."""

Rules: TypeAlias = "Mapping[str, Rule]"
"""Rules by the names of their operators."""


class OperatorRules(ABC):
    """Rules of a family of operators: what a plugin registers so that models with its operators can be traced.

    Laws:
        - *Sound*: a rule ties, cuts or freezes at least what the operator needs; a model traced with it keeps its
          function under every group element. `check_spec` tests it on the examples that the plugin gives.
        - *Local*: a rule only looks at its call, and returns one axis of the right length for every dimension of
          every output.

    Attributes:
        name: Its name among the families of rules.
        rules: A rule for every operator, by name without overload: ``aten.linear``, ``mylib.my_operator``. The name
            of an operator that works in place, ``relu_``, need not stand there beside ``relu``.
        exempt_laws: Laws that the conformance kit leaves out, with the reasons.
    """

    name: ClassVar[str]
    rules: ClassVar[Rules]
    exempt_laws: ClassVar[Mapping[str, str]] = {}
