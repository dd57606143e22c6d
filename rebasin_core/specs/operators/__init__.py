"""Rules for operators: the constraints of each operator on the axes of its arguments, one file per family."""

from rebasin_core.specs.operators.base import OperatorRules, Result, Rule, Rules
from rebasin_core.specs.operators.call import Call
from rebasin_core.specs.unification.terms import AxisTerms

__all__ = ["AxisTerms", "Call", "OperatorRules", "Result", "Rule", "Rules"]
