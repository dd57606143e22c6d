"""Convergence diagnostics of chains: R-hat, effective sample sizes, autocorrelation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch

from rebasin_core.errors import InvalidInputError, PluginError
from rebasin_core.tensors.block_kernel import pairwise_squared_distances

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.posteriors.samples import SamplesPosterior
    from rebasin_core.symmetry.permutation import GroupElement


@final
@dataclass(frozen=True, slots=True)
class ChainDiagnostics:
    r"""Convergence diagnostics of chains, for every entry of every parameter.

    Attributes:
        rhat: Rank-normalized split $\hat R$ by parameter, ``[*s]``; 1 if the chains agree, NaN for entries that are
            equal in all draws.
        ess: Bulk effective sample size by parameter, ``[*s]``; the total number of draws for entries that are equal in
            all draws.
        autocorrelation: Autocorrelation within a chain by lag, starting at lag 0 where it is 1. It is averaged over all
            entries and chains, except entries that are constant within the chain; NaN if all are.
        num_chains: Number of chains.
        num_draws: Number of draws per chain.

    References:
        A. Vehtari et al. (2021), "Rank-normalization, folding, and localization: an improved R-hat", Bayesian Analysis
        16(2), arXiv 1903.08008; computed by ArviZ.
    """

    rhat: Mapping[str, Tensor]
    ess: Mapping[str, Tensor]
    autocorrelation: tuple[float, ...]
    num_chains: int
    num_draws: int

    def quantiles(self, part: str = "rhat", at: Sequence[float] = (0.05, 0.5, 0.95)) -> tuple[float, ...]:
        """Return quantiles of a diagnostic over all entries.

        Args:
            part: The diagnostic: ``rhat`` or ``ess``.
            at: Probabilities of the quantiles, in [0, 1].

        Returns:
            One quantile for each probability, over the entries that are not NaN; NaN if all are.

        Raises:
            InvalidInputError: If ``part`` is neither ``rhat`` nor ``ess``.
        """
        if part not in {"rhat", "ess"}:
            message = f"expected 'rhat' or 'ess', got {part!r}"
            raise InvalidInputError(message)
        flat = torch.cat([tensor.flatten() for tensor in getattr(self, part).values()]).double()
        finite = flat[flat.isfinite()]
        if not len(finite):
            return (math.nan,) * len(at)
        # By sorting, since torch.quantile is limited to 16 million elements.
        ordered = finite.sort().values
        positions = torch.tensor(list(at), dtype=torch.float64) * (len(ordered) - 1)
        return tuple(ordered[positions.round().long()].tolist())


def diagnose_chains(
    samples: SamplesPosterior, *, max_entries: int = 20_000, generator: torch.Generator | None = None
) -> ChainDiagnostics:
    r"""Return $\hat R$, effective sample sizes and autocorrelations of chains.

    Chains from different seeds disagree on the weights even if they agree on the function, since their units may be
    permuted. Compare the diagnostics before and after `align_samples`: disagreement that remains is about the function,
    or due to symmetries that the alignment did not consider (its option ``symmetry``).

    Args:
        samples: Posterior samples with at least two chains, of equal lengths of at least four draws.
        max_entries: Maximum number of entries per parameter that are diagnosed; a random subset of larger parameters,
            whose other entries are NaN.
        generator: Random number generator for these subsets; seeded with 0 if None.

    Returns:
        The diagnostics.

    Raises:
        InvalidInputError: If there are too few chains or draws, the chains have different lengths, or the samples have
            unequal weights, for which the diagnostics are not defined.
        PluginError: If ArviZ is not installed.
    """
    count, draws = _shape_of(samples)
    array_stats = _array_stats()
    order = torch.argsort(samples.chains, stable=True)
    generator = generator or torch.Generator().manual_seed(0)
    rhat: dict[str, Tensor] = {}
    ess: dict[str, Tensor] = {}
    lags = torch.zeros(draws, dtype=torch.float64)
    changing = 0
    for name, tensor in samples.samples.items():
        flat = tensor[order].reshape(count, draws, -1).double().cpu()
        chosen = torch.randperm(flat.shape[-1], generator=generator)[:max_entries]
        values = flat[..., chosen].numpy()
        with np.errstate(divide="ignore", invalid="ignore"):  # constant entries have zero variance
            for found, function in ((rhat, array_stats.rhat), (ess, array_stats.ess)):
                found[name] = torch.full(tensor.shape[1:], torch.nan, dtype=torch.float64)
                found[name].view(-1)[chosen] = torch.as_tensor(function(values, chain_axis=0, draw_axis=1)).double()
            correlations = torch.as_tensor(array_stats.autocorr(values, axis=1)).double()
        changes = torch.from_numpy(np.ptp(values, axis=1) > 0)
        lags += correlations.movedim(1, 2)[changes].sum(0)
        changing += int(changes.sum())
    mean = (lags / changing).tolist() if changing else [math.nan] * draws
    return ChainDiagnostics(rhat, ess, tuple(mean), count, draws)


def chain_distances(samples: SamplesPosterior) -> Tensor:
    r"""Return the root mean squared distances between the draws of every two chains.

    If chains sample the same distribution, distances between chains equal those within a chain. Chains in different
    copies of a mode are farther apart, unless `align_samples` has aligned them.

    Args:
        samples: Posterior samples; a chain with one draw has no distance to itself.

    Returns:
        ``[C, C]`` in float64: $\sqrt{\operatorname{mean} \lVert \theta_i - \theta_j \rVert^2}$ over draws $i$ of one
        chain and $j \ne i$ of another, on the diagonal of the same chain; NaN there for chains with one draw.
    """
    squares = pairwise_squared_distances(samples.samples)
    _, numbers = samples.chains.unique(return_inverse=True)
    members = torch.nn.functional.one_hot(numbers).to(squares)
    counts = members.sum(0)
    return ((members.mT @ squares @ members) / (torch.outer(counts, counts) - counts.diag())).sqrt()


def _shape_of(samples: SamplesPosterior) -> tuple[int, int]:
    """Return the number of chains and of draws in each; raise if they cannot be diagnosed."""
    counts = [int((samples.chains == number).sum()) for number in samples.chains.unique()]
    if len(counts) < 2 or len(set(counts)) > 1 or counts[0] < 4:
        message = f"expected at least two chains of equal lengths of at least four draws, got lengths {counts}"
        raise InvalidInputError(message)
    if not samples.is_uniform:
        message = (
            "expected samples of equal weights, since diagnostics of chains are not defined for weighted draws; to "
            "diagnose the draws without weights, pass SamplesPosterior(samples, chains=...)"
        )
        raise InvalidInputError(message)
    return len(counts), counts[0]


def count_transpositions(element: GroupElement) -> int:
    """Return the minimal number of transpositions whose composition is a permutation.

    Args:
        element: A permutation, or another group element, whose permutation is counted.

    Returns:
        The number of units minus the number of cycles, summed over groups (for nested groups over all outer units).

    Examples:
        >>> from rebasin_core import table_spec
        >>> spec = table_spec({"w": "units"}, {"w": torch.zeros(3)})
        >>> count_transpositions(spec.identity())
        0
    """
    total = 0
    for index in element.permutation.indices.values():
        for row in index.reshape(-1, index.shape[-1]).tolist():
            seen = [False] * len(row)
            for start in range(len(row)):
                unit, length = start, 0
                while not seen[unit]:
                    seen[unit] = True
                    unit = row[unit]
                    length += 1
                total += max(length - 1, 0)
    return total


def _array_stats() -> Any:  # ruff: ignore[any-type] - of an optional package
    try:
        return import_module("arviz_stats.base").array_stats
    except ImportError as error:
        message = "diagnostics need ArviZ; install it with: pip install 'rebasin-core[diagnostics]'"
        raise PluginError(message) from error
