"""Results of studies: one row per loss curve, means over pairs with jackknife errors, scores, tables and figures."""

from rebasin_core.studies.results.figures import draw_means, write_figures
from rebasin_core.studies.results.reading import StudyPosterior, read_posteriors, read_results
from rebasin_core.studies.results.results import Results
from rebasin_core.studies.results.row import Row
from rebasin_core.studies.results.scores import ScoresRow
from rebasin_core.studies.results.scores_table import ScoreMean, ScoresGroup, ScoresTable
from rebasin_core.studies.results.table import Group, Table

__all__ = [
    "Group",
    "Results",
    "Row",
    "ScoreMean",
    "ScoresGroup",
    "ScoresRow",
    "ScoresTable",
    "StudyPosterior",
    "Table",
    "draw_means",
    "read_posteriors",
    "read_results",
    "write_figures",
]
