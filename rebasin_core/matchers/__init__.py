"""Matchers: algorithms that find the permutation aligning a candidate with a reference."""

from rebasin_core.matchers.activation import ActivationMatcher
from rebasin_core.matchers.annealing import AnnealingMatcher
from rebasin_core.matchers.base import Matcher, MatchOutcome, MatchProblem, MatchResult
from rebasin_core.matchers.channel import AbstractChannelMatcher
from rebasin_core.matchers.fisher import FisherMatcher
from rebasin_core.matchers.frank_wolfe import FrankWolfeMatcher
from rebasin_core.matchers.gradient import GradientMatcher
from rebasin_core.matchers.kl import KLMatcher
from rebasin_core.matchers.refinement import RefinedMatcher
from rebasin_core.matchers.sinkhorn import SinkhornMatcher
from rebasin_core.matchers.straight_through import StraightThroughMatcher
from rebasin_core.matchers.symmetric import AbstractSymmetryMatcher
from rebasin_core.matchers.transport import TransportMatcher
from rebasin_core.matchers.wasserstein import WassersteinMatcher
from rebasin_core.matchers.weight import WeightMatcher
from rebasin_core.matchers.wrappers import ChainMatcher, PortfolioMatcher, RestartsMatcher

__all__ = [
    "AbstractChannelMatcher",
    "AbstractSymmetryMatcher",
    "ActivationMatcher",
    "AnnealingMatcher",
    "ChainMatcher",
    "FisherMatcher",
    "FrankWolfeMatcher",
    "GradientMatcher",
    "KLMatcher",
    "MatchOutcome",
    "MatchProblem",
    "MatchResult",
    "Matcher",
    "PortfolioMatcher",
    "RefinedMatcher",
    "RestartsMatcher",
    "SinkhornMatcher",
    "StraightThroughMatcher",
    "TransportMatcher",
    "WassersteinMatcher",
    "WeightMatcher",
]
