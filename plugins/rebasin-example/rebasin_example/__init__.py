"""Template of a rebasin_core plugin: an architecture, a matcher and a rule for an operator."""

from rebasin_example.architecture import ConvNetArchitecture, ConvNetSpec
from rebasin_example.matcher import RankMatcher

__all__ = ["ConvNetArchitecture", "ConvNetSpec", "RankMatcher"]
