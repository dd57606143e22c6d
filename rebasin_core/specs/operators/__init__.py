"""What operators ask of the axes of their arguments: one rule an operator, one file a family."""

from rebasin_core.specs.operators.base import OperatorRules, Result, Rule, Rules
from rebasin_core.specs.operators.call import Call, Terms

__all__ = ["Call", "OperatorRules", "Result", "Rule", "Rules", "Terms"]
