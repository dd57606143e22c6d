"""Matchers: methods that find the group element which moves a candidate onto a reference."""

from rebasin_core.matchers.activation import ActivationMatcher
from rebasin_core.matchers.base import Matcher, MatchProblem
from rebasin_core.matchers.channel import AbstractChannelMatcher, Channels
from rebasin_core.matchers.kl import KLMatcher
from rebasin_core.matchers.result import MatchOutcome, MatchResult
from rebasin_core.matchers.similarity import UnitSimilarity, unit_similarities
from rebasin_core.matchers.wasserstein import WassersteinMatcher
from rebasin_core.matchers.weight import WeightMatcher

__all__ = [
    "AbstractChannelMatcher",
    "ActivationMatcher",
    "Channels",
    "KLMatcher",
    "MatchOutcome",
    "MatchProblem",
    "MatchResult",
    "Matcher",
    "UnitSimilarity",
    "WassersteinMatcher",
    "WeightMatcher",
    "unit_similarities",
]
