"""Maximum mean discrepancy between the samples of two posteriors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.trust import interval
from rebasin_core.posteriors.checks import require_same_tensors
from rebasin_core.tensors.arguments import require_mapping
from rebasin_core.tensors.block_kernel import (
    BlockKernel,
    autocorrelation_time,
    blocks_of,
    gaussian_kernel,
    median_distance,
    pairwise_squared_distances,
)

if TYPE_CHECKING:
    from torch import Tensor


@final
@dataclass(frozen=True, slots=True)
class Discrepancy:
    r"""Maximum mean discrepancy (MMD) between two distributions, estimated from samples.

    Attributes:
        squared: Estimate of $\mathrm{MMD}^2$, unbiased for independent draws; it can be negative.
        stderr: Standard error of ``squared``, by the jackknife over blocks; NaN if a sample has fewer than three
            blocks. If the distributions are equal, it is too large by a factor of about $\sqrt 2$.
        p_value: Probability of an estimate at least as large if the distributions are equal, from a permutation test;
            NaN without permutations.
        bandwidths: Bandwidths of the kernel.
        num_samples: Number of draws of each sample.
        num_blocks: Number of blocks of each sample.
    """

    squared: float
    stderr: float
    p_value: float
    bandwidths: tuple[float, ...]
    num_samples: tuple[int, int]
    num_blocks: tuple[int, int]

    @property
    def distance(self) -> float:
        r"""$\mathrm{MMD}$: the square root of ``squared``, 0 if that is negative."""
        return math.sqrt(max(0.0, self.squared))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        r"""Return the confidence interval of $\mathrm{MMD}^2$, with the quantile of Student's t distribution.

        Args:
            level: Nominal coverage probability, in (0, 1).

        Returns:
            Lower and upper limit; NaN if the standard error is NaN.

        Raises:
            InvalidInputError: If the level is not in (0, 1).
        """
        return interval(self.squared, self.stderr, max(1, min(self.num_blocks) - 1), level)


def maximum_mean_discrepancy(  # ruff: ignore[too-many-arguments] - two samples with their chains, and the test
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    *,
    chains: tuple[Tensor | None, Tensor | None] = (None, None),
    bandwidth: float | Sequence[float] | None = None,
    block_length: int | None = None,
    num_permutations: int = 999,
    generator: torch.Generator | None = None,
) -> Discrepancy:
    r"""Return the maximum mean discrepancy between two distributions, estimated from samples.

    $$ \mathrm{MMD}^2(p, q) = \mathbb E\, k(x, x') + \mathbb E\, k(y, y') - 2\, \mathbb E\, k(x, y),
       \qquad x, x' \sim p, \quad y, y' \sim q, \qquad k(x, y) = e^{-\lVert x - y \rVert^2 / 2 h^2} $$

    It is 0 only for equal distributions. The estimate is the mean over all pairs of different draws. Draws of a chain
    depend on each other, so chains are divided into blocks of consecutive draws: pairs in the same block are omitted,
    the jackknife deletes blocks, and the permutation test permutes blocks. The test is exact for independent draws, and
    approximate for chains. Memory is quadratic in the number of draws.

    Args:
        first: Draws from the first distribution, ``[n, *s]`` by name, such as `SamplesPosterior.samples`.
        second: Draws from the second distribution, ``[m, *s]`` for the same names.
        chains: For each sample, the chain of each draw, sorted by time within a chain; None for independent draws.
        bandwidth: $h$, or several, for the mean of their kernels; the median distance of all draws if None.
        block_length: Minimum number of draws per block; if None, four times the autocorrelation time of $\mathbb E_x
            k(x, \cdot) - \mathbb E_y k(y, \cdot)$ along the chains, and 1 for independent draws.
        num_permutations: Number of random permutations in the test; no test if 0.
        generator: Random number generator of the test; seeded with 0 if None.

    Returns:
        The estimate, its standard error, and the p-value of the hypothesis of equal distributions.

    Raises:
        InvalidInputError: If the samples have different names or shapes, have fewer than two blocks, contain non-finite
            values, or an option is out of range.

    References:
        A. Gretton et al. (2012), "A kernel two-sample test", JMLR 13; A. Schrab et al. (2023), "MMD aggregated
        two-sample test", JMLR 24 (several bandwidths; here their kernels are averaged, not their tests).

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, y = torch.randn(100, 2, generator=generator), torch.randn(100, 2, generator=generator)
        >>> found = maximum_mean_discrepancy({"w": x}, {"w": y + 1})
        >>> found.squared > 4 * found.stderr, found.p_value
        (True, 0.001)
    """
    counts = _counts(first, second)
    device = next(iter(first.values())).device
    squares = pairwise_squared_distances(first, second)
    if not bool(squares.isfinite().all()):
        message = "expected finite draws, got NaN or infinite values"
        raise InvalidInputError(message)
    bandwidths = _bandwidths(bandwidth, squares)
    if num_permutations < 0 or (block_length is not None and block_length < 1):
        message = (
            f"expected `num_permutations` of at least 0 and `block_length` of at least 1, got {num_permutations!r} and "
            f"{block_length!r}"
        )
        raise InvalidInputError(message)
    kernel = gaussian_kernel(squares, bandwidths)
    parts = [_blocks(kernel, counts, chains[side], side, block_length).to(device) for side in (0, 1)]
    sizes = (int(parts[0].max()) + 1, int(parts[1].max()) + 1)
    if min(sizes) < 2:
        message = (
            f"expected at least two blocks of draws in each sample, got {sizes[0]} and {sizes[1]}; use more draws, "
            "more chains or a smaller `block_length`"
        )
        raise InvalidInputError(message)
    blocked = BlockKernel(kernel, torch.cat([parts[0], parts[1] + sizes[0]]), sizes[0])
    generator = generator or torch.Generator().manual_seed(0)
    p_value = blocked.p_value(num_permutations, generator) if num_permutations else math.nan
    return Discrepancy(blocked.squared, blocked.stderr(), p_value, bandwidths, counts, sizes)


def _counts(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> tuple[int, int]:
    """Return the numbers of draws; raise if the samples do not fit each other."""
    for sample in (first, second):
        require_mapping(sample, "draws as a mapping from names to tensors ``[n, *s]``")
    counts: list[int] = []
    for sample, label in ((first, "first"), (second, "second")):
        found = {tensor.shape[0] if tensor.dim() else 0 for tensor in sample.values()}
        if len(found) != 1 or 0 in found:
            message = (
                f"expected the same number of draws of every tensor in the {label} sample, at least 1, got "
                f"{sorted(found)}"
            )
            raise InvalidInputError(message)
        counts.append(found.pop())
    shapes = [{name: tensor[0] for name, tensor in sample.items()} for sample in (first, second)]
    require_same_tensors(shapes[0], shapes[1], "the second sample")
    return counts[0], counts[1]


def _bandwidths(given: float | Sequence[float] | None, squares: Tensor) -> tuple[float, ...]:
    """Return the bandwidths of the kernel."""
    if given is None:
        return (median_distance(squares),)
    values = tuple(given) if isinstance(given, Sequence) else (given,)
    if not values or not all(0 < value < math.inf for value in values):
        message = f"expected a positive, finite `bandwidth`, or several, got {given!r}"
        raise InvalidInputError(message)
    return tuple(float(value) for value in values)


def _blocks(kernel: Tensor, counts: tuple[int, int], chains: Tensor | None, side: int, length: int | None) -> Tensor:
    """Return the block of each draw of a sample."""
    count = counts[side]
    if chains is None:
        return blocks_of(torch.zeros(count, dtype=torch.int64), length or 1)
    if tuple(chains.shape) != (count,) or chains.is_floating_point():
        message = f"expected {count} chain indices as integers, got {chains.dtype} of shape {tuple(chains.shape)}"
        raise InvalidInputError(message)
    chains = chains.cpu()
    if length is None:
        witness = kernel[:, : counts[0]].mean(1) - kernel[:, counts[0] :].mean(1)
        own = (witness[: counts[0]], witness[counts[0] :])[side].cpu()
        length = max(1, round(4 * autocorrelation_time(own, chains) - 3))
    return blocks_of(chains, length)
