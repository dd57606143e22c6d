"""Trained curves and simplexes in weight space."""

from rebasin_core.landscapes.curve import Curve, CurveKind

__all__ = [
    "Curve",
    "CurveKind",
]
