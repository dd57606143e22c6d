"""A plugin of rebasin_core to copy: one architecture, one matcher."""

from rebasin_example.architecture import ConvNetArchitecture, ConvNetSpec
from rebasin_example.matcher import RankMatcher

__all__ = ["ConvNetArchitecture", "ConvNetSpec", "RankMatcher"]
