"""Sums of bilinear assignment problems over the groups of a network: terms, similarity matrices, coordinate descent."""

from rebasin_core.bilinear.coordinate_descent import CoordinateDescent
from rebasin_core.bilinear.levels import Level
from rebasin_core.bilinear.nested_levels import NestedLevels
from rebasin_core.bilinear.stacked_cell import StackedCell
from rebasin_core.bilinear.terms import Channels, Term
from rebasin_core.bilinear.two_levels import TwoLevels
from rebasin_core.bilinear.unit_similarity import UnitSimilarity, unit_similarities

__all__ = [
    "Channels",
    "CoordinateDescent",
    "Level",
    "NestedLevels",
    "StackedCell",
    "Term",
    "TwoLevels",
    "UnitSimilarity",
    "unit_similarities",
]
