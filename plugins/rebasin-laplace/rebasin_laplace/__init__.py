"""Fitted Laplace posteriors of laplace-torch in rebasin_core."""

from rebasin_laplace.adapter import LaplaceAdapter

__all__ = ["LaplaceAdapter"]
