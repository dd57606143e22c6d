"""Convergence of chains, of weights as they are and modulo permutations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch

from rebasin_core.errors import InvalidInputError, PluginError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.posteriors.samples import SamplesPosterior
    from rebasin_core.symmetry.permutation import Permutation


@final
@dataclass(frozen=True, slots=True)
class ChainDiagnostics:
    r"""How well chains agree, entry by entry.

    Attributes:
        rhat: Rank-normalised split $\hat R$ of every entry, each ``[*s]``; 1 where chains agree, NaN where an entry is
            the same in all draws.
        ess: Bulk effective sample size of every entry, each ``[*s]``; the number of draws where they are all the same.
        autocorrelation: Mean of the autocorrelation within a chain, by lag, from lag 0, which is 1; over all chains of
            all entries in which the entry changes. NaN if nothing changes.
        num_chains: Number of chains.
        num_draws: Draws a chain.

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
        """Return quantiles over all entries.

        Args:
            part: ``rhat`` or ``ess``.
            at: Places in [0, 1].

        Returns:
            One number a place, of the entries that have one; NaN if none has.

        Raises:
            InvalidInputError: If there is no such part.
        """
        if part not in {"rhat", "ess"}:
            message = f"expected 'rhat' or 'ess', got {part!r}"
            raise InvalidInputError(message)
        flat = torch.cat([tensor.flatten() for tensor in getattr(self, part).values()]).double()
        finite = flat[flat.isfinite()]
        places = torch.tensor(list(at), dtype=torch.float64)
        # In order of size by sorting: torch's own quantile takes 16 million numbers at most.
        if not len(finite):
            return (math.nan,) * len(at)
        order = finite.sort().values
        return tuple(order[(places * (len(order) - 1)).round().long()].tolist())


def diagnose_chains(
    samples: SamplesPosterior, *, max_entries: int = 20_000, generator: torch.Generator | None = None
) -> ChainDiagnostics:
    r"""Return $\hat R$, effective sample sizes and autocorrelations of chains.

    Chains of a network from different seeds never agree on their weights, since each may hold its units in another
    order. Diagnose them before and after `align_samples`: what is left then is disagreement about the function, or
    about symmetries that are no permutations.

    Args:
        samples: With at least two chains of as many draws, at least four.
        max_entries: Entries looked at for every parameter, drawn at random where it has more; the others are NaN.
        generator: Random number generator for that choice; seeded with 0 if None.

    Returns:
        The diagnostics.

    Raises:
        InvalidInputError: If there are fewer chains or draws, the chains have different lengths, or samples have
            weights that differ: the diagnostics are those of draws that count the same.
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
        with np.errstate(divide="ignore", invalid="ignore"):  # of entries that do not change
            for found, function in ((rhat, array_stats.rhat), (ess, array_stats.ess)):
                found[name] = torch.full(tensor.shape[1:], torch.nan, dtype=torch.float64)
                found[name].view(-1)[chosen] = torch.as_tensor(function(values, chain_axis=0, draw_axis=1)).double()
            correlations = torch.as_tensor(array_stats.autocorr(values, axis=1)).double()
        changes = torch.from_numpy(np.ptp(values, axis=1) > 0)
        lags += correlations.movedim(1, 2)[changes].sum(0)
        changing += int(changes.sum())
    mean = (lags / changing).tolist() if changing else [math.nan] * draws
    return ChainDiagnostics(rhat, ess, tuple(mean), count, draws)


def _shape_of(samples: SamplesPosterior) -> tuple[int, int]:
    """Return the number of chains and of draws in each, if these can be diagnosed."""
    counts = [int((samples.chains == number).sum()) for number in samples.chains.unique()]
    if len(counts) < 2 or len(set(counts)) > 1 or counts[0] < 4:
        message = f"expected at least two chains of as many draws, at least four each; got draws {counts}"
        raise InvalidInputError(message)
    if not samples.is_uniform:
        message = (
            "expected samples of equal weights: the diagnostics of chains take no weights; leave them out, with "
            "SamplesPosterior(samples, chains=...), to diagnose the draws themselves"
        )
        raise InvalidInputError(message)
    return len(counts), counts[0]


def count_transpositions(permutation: Permutation) -> int:
    """Return the least number of exchanges of two units that a permutation is made of.

    Args:
        permutation: A group element.

    Returns:
        The number of units less the number of cycles, summed over groups (for nested groups over all outer units).

    Examples:
        >>> from rebasin_core import table_spec
        >>> spec = table_spec({"w": "units"}, {"w": torch.zeros(3)})
        >>> count_transpositions(spec.identity())
        0
    """
    total = 0
    for index in permutation.indices.values():
        for row in index.reshape(-1, index.shape[-1]).tolist():
            seen = [False] * len(row)
            for start in range(len(row)):
                place, length = start, 0
                while not seen[place]:
                    seen[place] = True
                    place = row[place]
                    length += 1
                total += max(length - 1, 0)
    return total


def _array_stats() -> Any:  # ruff: ignore[any-type] - of an optional package
    try:
        return import_module("arviz_stats.base").array_stats
    except ImportError as error:
        message = "diagnostics need ArviZ; install it with: pip install 'rebasin-core[diagnostics]'"
        raise PluginError(message) from error
