"""Laplace approximations of laplace-torch as posteriors of rebasin_core."""

from rebasin_laplace.adapter import LaplaceAdapter

__all__ = ["LaplaceAdapter"]
