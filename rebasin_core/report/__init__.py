"""Figures and tables of a run, made from the files in its folder."""

from rebasin_core.report.figures import write_figures
from rebasin_core.report.table import barrier_table

__all__ = ["barrier_table", "write_figures"]
