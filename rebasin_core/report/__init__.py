"""Figures, tables and the HTML report of a run, from the files in its output folder."""

from rebasin_core.report.drawing import draw_barrier_matrix, draw_loss_plane, draw_reliability, draw_similarity
from rebasin_core.report.figures import write_figures
from rebasin_core.report.page import write_report
from rebasin_core.report.style import save_figure, styled_figure
from rebasin_core.report.table import barrier_notes, barrier_table

__all__ = [
    "barrier_notes",
    "barrier_table",
    "draw_barrier_matrix",
    "draw_loss_plane",
    "draw_reliability",
    "draw_similarity",
    "save_figure",
    "styled_figure",
    "write_figures",
    "write_report",
]
