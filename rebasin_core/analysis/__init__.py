"""Analysis modulo symmetries: distances, chain diagnostics, canonical forms, folding, information, pairs."""

from rebasin_core.analysis.canonical import CanonicalForm, canonical_form
from rebasin_core.analysis.diagnostics import ChainDiagnostics, chain_distances, count_transpositions, diagnose_chains
from rebasin_core.analysis.discrepancy import Discrepancy, maximum_mean_discrepancy
from rebasin_core.analysis.distances import Distance, NetworkDistances, network_distances
from rebasin_core.analysis.folding.folding import Folding
from rebasin_core.analysis.folding.report import FoldingReport
from rebasin_core.analysis.information import PermutationInformation, permutation_information
from rebasin_core.analysis.modes import ChainCount, ModeCount, chains_for_modes, count_modes
from rebasin_core.analysis.pairs import PairMean, mean_over_cells, mean_over_pairs

__all__ = [
    "CanonicalForm",
    "ChainCount",
    "ChainDiagnostics",
    "Discrepancy",
    "Distance",
    "Folding",
    "FoldingReport",
    "ModeCount",
    "NetworkDistances",
    "PairMean",
    "PermutationInformation",
    "canonical_form",
    "chain_distances",
    "chains_for_modes",
    "count_modes",
    "count_transpositions",
    "diagnose_chains",
    "maximum_mean_discrepancy",
    "mean_over_cells",
    "mean_over_pairs",
    "network_distances",
    "permutation_information",
]
