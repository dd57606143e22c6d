"""Main functions of the library: `align`, `match`, `barrier`, `merge`, `score`, `trace_spec` and others."""

from rebasin_core.api.alignment import AlignResult, align
from rebasin_core.api.checkpoints import (
    align_checkpoints,
    merge_checkpoints,
    merge_lora,
    model_of,
    open_adapter,
    open_checkpoint,
    spec_of,
)
from rebasin_core.api.conversion import as_posterior, load_posterior, write_back
from rebasin_core.api.curves import fit_curve
from rebasin_core.api.discrepancies import discrepancy, function_discrepancy
from rebasin_core.api.evaluation import barrier, score
from rebasin_core.api.folding import Folded, fold
from rebasin_core.api.forks import Instability, instability
from rebasin_core.api.landscape import BarrierMatrix, Star, barrier_matrix, star
from rebasin_core.api.many import ManyMatch, match_many
from rebasin_core.api.many_on_data import match_many_on_data
from rebasin_core.api.matching import build, match
from rebasin_core.api.merging import Merged, greedy_soup, merge, save_checkpoint
from rebasin_core.api.plane import HullLosses, LossPlane, hull_losses, loss_plane
from rebasin_core.api.samples import AlignedSamples, Summary, align_samples, summarize
from rebasin_core.api.tracing import trace_spec
from rebasin_core.api.untying import untie
from rebasin_core.api.volumes import StarCenter, fit_center, fit_simplex, simplex_losses

__all__ = [
    "AlignResult",
    "AlignedSamples",
    "BarrierMatrix",
    "Folded",
    "HullLosses",
    "Instability",
    "LossPlane",
    "ManyMatch",
    "Merged",
    "Star",
    "StarCenter",
    "Summary",
    "align",
    "align_checkpoints",
    "align_samples",
    "as_posterior",
    "barrier",
    "barrier_matrix",
    "build",
    "discrepancy",
    "fit_center",
    "fit_curve",
    "fit_simplex",
    "fold",
    "function_discrepancy",
    "greedy_soup",
    "hull_losses",
    "instability",
    "load_posterior",
    "loss_plane",
    "match",
    "match_many",
    "match_many_on_data",
    "merge",
    "merge_checkpoints",
    "merge_lora",
    "model_of",
    "open_adapter",
    "open_checkpoint",
    "save_checkpoint",
    "score",
    "simplex_losses",
    "spec_of",
    "star",
    "summarize",
    "trace_spec",
    "untie",
    "write_back",
]
