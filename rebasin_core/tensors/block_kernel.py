"""Maximum mean discrepancy of two samples whose draws are divided into blocks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

# Number of entries in one part.
_MAX_ENTRIES = 2**22
# Squared distances that are smaller, relative to the squared norms of centered points, are errors of the products; its
# square, relative to those of the points, are errors of centering.
_ROUNDING = 1e-14


def pairwise_squared_distances(*samples: Mapping[str, Tensor]) -> Tensor:
    """Return the squared Euclidean distances between all points of one or several samples.

    Tensors are widened to double precision in parts, and distances computed from inner products of centered points.

    Args:
        samples: For each sample, its points as named tensors ``[n, *s]``; all with the names of the first one.

    Returns:
        ``[N, N]`` in float64 on the device of the first tensor, for the points of all samples in order. Distances below
        rounding are exactly zero.
    """
    like = next(iter(samples[0].values()))
    count = sum(len(next(iter(sample.values()))) for sample in samples)
    gram = torch.zeros(count, count, dtype=torch.float64, device=like.device)
    norms = torch.zeros(count, dtype=torch.float64, device=like.device)
    width = max(1, _MAX_ENTRIES // count)
    for name in samples[0]:
        rows = [sample[name].flatten(1) if sample[name].dim() > 1 else sample[name].unsqueeze(1) for sample in samples]
        for start in range(0, rows[0].shape[1], width):
            part = torch.cat([row[:, start : start + width].to(gram) for row in rows])
            norms += part.square().sum(1)
            part -= part.mean(0)
            gram += part @ part.mT
    diagonal = gram.diagonal()
    sums = diagonal.unsqueeze(1) + diagonal
    squares = sums - 2 * gram
    return torch.where(squares <= _ROUNDING * sums + _ROUNDING**2 * norms.max(), 0.0, squares).fill_diagonal_(0.0)


def median_distance(squared_distances: Tensor) -> float:
    """Return the median distance of pairs of different points.

    Args:
        squared_distances: ``[N, N]``.

    Returns:
        The median; if it is zero, the mean distance of pairs of distinct points; 1 if all points are equal.
    """
    count = len(squared_distances)
    rows, columns = torch.triu_indices(count, count, 1, device=squared_distances.device)
    distances = squared_distances[rows, columns].sqrt()
    median = distances.quantile(0.5).item() if len(distances) < 2**24 else distances.median().item()
    if median > 0:
        return median
    positive = distances[distances > 0]
    return positive.mean().item() if len(positive) else 1.0


def gaussian_kernel(squared_distances: Tensor, bandwidths: Sequence[float]) -> Tensor:
    r"""Return the mean of Gaussian kernels $\exp(-d^2 / 2 h^2)$.

    Args:
        squared_distances: ``[N, N]``.
        bandwidths: The bandwidths $h$.

    Returns:
        ``[N, N]``.
    """
    kernels = [torch.exp(-squared_distances / (2 * bandwidth**2)) for bandwidth in bandwidths]
    return torch.stack(kernels).mean(0)


def autocorrelation_time(series: Tensor, chains: Tensor) -> float:
    r"""Return the integrated autocorrelation time of a quantity along chains, $1 + 2 \sum_t \rho_t$.

    Autocovariances are those of deviations from the mean of all chains. Therefore the time of chains with different
    means is about their length. The sum stops before the first pair of lags with a negative sum.

    Args:
        series: ``[n]``: the quantity, sorted by time within a chain.
        chains: ``[n]``: index of the chain.

    Returns:
        The time, at least 1.

    References:
        C. Geyer (1992), "Practical Markov chain Monte Carlo", Statistical Science 7(4) (initial positive sequence).
    """
    centered = series - series.mean()
    rows = [centered[chains == number] for number in chains.unique()]
    longest = max(len(row) for row in rows)
    variance = centered.square().mean().item()
    if variance <= 0:
        return 1.0

    def correlation(lag: int) -> float:
        products = [(row[lag:] * row[: len(row) - lag]).sum().item() for row in rows if len(row) > lag]
        # Divided by the number at lag 0: the few products at long lags then have small weights.
        return math.fsum(products) / (len(series) * variance)

    total = 0.0
    for lag in range(0, longest, 2):
        pair = correlation(lag) + correlation(lag + 1)
        if pair <= 0:
            break
        total += pair
    return max(1.0, 2 * total - 1)


def blocks_of(chains: Tensor, length: int) -> Tensor:
    """Return the division of chains into blocks of consecutive draws of about equal lengths.

    Args:
        chains: ``[n]``: index of the chain of each draw, sorted by time within a chain.
        length: Minimum length of a block, unless the chain is shorter.

    Returns:
        ``[n]``: index of the block of each draw, from 0.
    """
    found = torch.zeros_like(chains)
    start = 0
    for number in chains.unique():
        (at,) = torch.nonzero(chains == number, as_tuple=True)
        count = max(1, len(at) // length)
        found[at] = start + torch.arange(len(at), device=chains.device) * count // len(at)
        start += count
    return found


@final
class BlockKernel:
    r"""Sums of a kernel over pairs of blocks, from which the discrepancy of two sets of blocks follows.

    With the blocks of two samples $x$ and $y$, the squared discrepancy is

    $$ \operatorname{mean}_{b \ne c} k(x_b, x_c) + \operatorname{mean}_{b \ne c} k(y_b, y_c)
       - 2 \operatorname{mean}_{b, c} k(x_b, y_c), $$

    where $k(x_b, x_c)$ has all pairs of draws in the two blocks. Pairs in the same block are omitted, as their draws
    depend on each other. For blocks of one draw, this is the unbiased U-statistic.

    Args:
        kernel: ``[N, N]``.
        blocks: ``[N]``: index of the block of each draw.
        num_first: Number of blocks of the first sample, which have the smallest indices.
    """

    def __init__(self, kernel: Tensor, blocks: Tensor, num_first: int) -> None:
        count = int(blocks.max()) + 1
        member = torch.nn.functional.one_hot(blocks, count).to(kernel.dtype)
        self._sums = member.mT @ kernel @ member
        self._sums.fill_diagonal_(0.0)
        self._sizes = member.sum(0)
        self._first = (torch.arange(count, device=kernel.device) < num_first).to(kernel.dtype)

    @property
    def squared(self) -> float:
        """The squared discrepancy of the two samples."""
        return self._squared(self._first.unsqueeze(0)).item()

    def stderr(self) -> float:
        """Return the standard error of the squared discrepancy, by the jackknife over blocks of both samples.

        Returns:
            The standard error; NaN if a sample has fewer than three blocks.
        """
        total = 0.0
        for own, other in ((self._first, 1 - self._first), (1 - self._first, self._first)):
            (blocks,) = torch.nonzero(own, as_tuple=True)
            if len(blocks) < 3:
                return math.nan
            to_own, to_other = self._sums @ own, self._sums @ other
            # Sums and numbers of pairs of the own sample without each block, and of the other one.
            within = own @ to_own - 2 * to_own[blocks]
            remaining = (own * self._sizes).sum() - self._sizes[blocks]
            squares = (own * self._sizes.square()).sum() - self._sizes[blocks].square()
            between = own @ to_other - to_other[blocks]
            pairs = remaining * (other * self._sizes).sum()
            values = within / (remaining.square() - squares) - 2 * between / pairs
            total += (len(blocks) - 1) * values.var(correction=0).item()
        return math.sqrt(total)

    def p_value(self, num_permutations: int, generator: torch.Generator) -> float:
        """Return the p-value of the hypothesis that both samples have the same distribution.

        Args:
            num_permutations: Number of random divisions of all blocks into two sets of the sizes of the samples.
            generator: Random number generator.

        Returns:
            The share of divisions, including the given one, with at least its squared discrepancy.
        """
        shape = (num_permutations, len(self._first))
        order = torch.rand(shape, generator=generator, device=generator.device).argsort(1).to(self._first.device)
        values = self._squared(self._first[order])
        observed = self.squared
        at_least = values >= observed - 1e-12 * max(1.0, abs(observed))
        return (1 + int(at_least.sum())) / (1 + num_permutations)

    def _squared(self, first: Tensor) -> Tensor:
        """Return the squared discrepancies of divisions, given as indicators ``[R, B]`` of the first set."""
        degrees = self._sums.sum(0)
        within = ((first @ self._sums) * first).sum(1)
        others = degrees.sum() - 2 * first @ degrees + within
        sizes, squares = first @ self._sizes, first @ self._sizes.square()
        rest, rest_squares = self._sizes.sum() - sizes, self._sizes.square().sum() - squares
        own = within / (sizes.square() - squares)
        other = others / (rest.square() - rest_squares)
        return own + other - 2 * (first @ degrees - within) / (sizes * rest)
