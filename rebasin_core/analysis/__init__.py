"""Analysis modulo symmetries: chain diagnostics, canonical forms, mutual information, means over pairs of networks."""

from rebasin_core.analysis.canonical import CanonicalForm, canonical_form
from rebasin_core.analysis.diagnostics import ChainDiagnostics, count_transpositions, diagnose_chains
from rebasin_core.analysis.information import PermutationInformation, permutation_information
from rebasin_core.analysis.pairs import PairMean, mean_over_cells, mean_over_pairs

__all__ = [
    "CanonicalForm",
    "ChainDiagnostics",
    "PairMean",
    "PermutationInformation",
    "canonical_form",
    "count_transpositions",
    "diagnose_chains",
    "mean_over_cells",
    "mean_over_pairs",
    "permutation_information",
]
