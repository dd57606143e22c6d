"""The engine: composes the interfaces, by hand (`match`, `barrier`, `trace_spec`) or for a whole run."""

from rebasin_core.engine.align import barrier, build, match
from rebasin_core.engine.canonical import CanonicalForm, canonical_form
from rebasin_core.engine.convert import as_posterior, load_posterior, write_back
from rebasin_core.engine.diagnostics import ChainDiagnostics, count_transpositions, diagnose_chains
from rebasin_core.engine.evaluate import score
from rebasin_core.engine.information import PermutationInformation, permutation_information
from rebasin_core.engine.landscape import BarrierMatrix, Star, barrier_matrix, star
from rebasin_core.engine.many import ManyMatch, match_many
from rebasin_core.engine.merge import Merged, greedy_soup, merge, save_checkpoint
from rebasin_core.engine.plane import HullLosses, LossPlane, hull_losses, loss_plane
from rebasin_core.engine.run import RunResult, load_run, run
from rebasin_core.engine.samples import AlignedSamples, Summary, align_samples, summarise
from rebasin_core.engine.trace import trace_spec

__all__ = [
    "AlignedSamples",
    "BarrierMatrix",
    "CanonicalForm",
    "ChainDiagnostics",
    "HullLosses",
    "LossPlane",
    "ManyMatch",
    "Merged",
    "PermutationInformation",
    "RunResult",
    "Star",
    "Summary",
    "align_samples",
    "as_posterior",
    "barrier",
    "barrier_matrix",
    "build",
    "canonical_form",
    "count_transpositions",
    "diagnose_chains",
    "greedy_soup",
    "hull_losses",
    "load_posterior",
    "load_run",
    "loss_plane",
    "match",
    "match_many",
    "merge",
    "permutation_information",
    "run",
    "save_checkpoint",
    "score",
    "star",
    "summarise",
    "trace_spec",
    "write_back",
]
