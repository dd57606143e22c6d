"""Trained curves and simplexes in weight space."""

from rebasin_core.landscapes.curve import Curve, CurveKind
from rebasin_core.landscapes.simplex import SimplicialComplex

__all__ = [
    "Curve",
    "CurveKind",
    "SimplicialComplex",
]
