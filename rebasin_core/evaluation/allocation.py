"""How many samples every example is given: more of them where its loss is uncertain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

LEAST_SAMPLES = 4
"""Samples that every example gets, and that the pilot draws: two pairs of opposite noise, since an error needs two."""
# Examples next to each other by their loss are mostly about equally uncertain: so many to each side are averaged.
# What the pilot says of an example itself, from a few samples, has a share, for data where the loss tells nothing.
_NEIGHBOURS, _OWN_SHARE = 32, 0.25
_HALVINGS = 40
_MOST = 2.0**30


@final
@dataclass(frozen=True, slots=True)
class Stratum:
    """Examples that get equally many samples.

    Attributes:
        rows: Their numbers in the data set, increasing.
        batches: They themselves.
        num_samples: How many samples each gets.
    """

    rows: Tensor
    batches: Sequence[tuple[Tensor, Tensor]]
    num_samples: int


@final
@dataclass(frozen=True, slots=True)
class Allocation:
    r"""Samples given to examples in proportion to the Monte Carlo spread of their losses (Neyman allocation).

    Where noise is drawn for every example on its own, the error of a mean loss is $\frac1N \sqrt{\sum_i v_i / n_i}$
    for $n_i$ samples of example $i$, whose loss has the variance $v_i$ for one. At a given total this is least for
    $n_i \propto \sqrt{v_i}$. On data that a network knows well, nearly all of the error comes from a few examples. The
    variances come from a *pilot*, a few samples that are then thrown away: samples that had a say in how many more
    there will be would bias the mean.

    Attributes:
        strata: All examples, by the number of samples: 4, 8, 16, ...

    References:
        J. Neyman (1934), "On the two different aspects of the representative method", Journal of the Royal Statistical
        Society 97(4), section III.
    """

    strata: Sequence[Stratum]

    @classmethod
    def of(
        cls, errors: Tensor, losses: Tensor, batches: Sequence[tuple[Tensor, Tensor]], num_samples: int
    ) -> Allocation:
        """Return the allocation that a pilot suggests.

        Args:
            errors: ``[N]``: of every example, a number whose square is in expectation the variance of its error in
                the pilot, up to a factor (`LossEstimate.sample_influence`).
            losses: ``[N]``: its loss in the pilot. Squares are averaged over examples of nearly the same loss, which
                are about equally uncertain on most data.
            batches: The data, as from `held_batches`.
            num_samples: Samples of an example, on average.

        Returns:
            The allocation.

        Raises:
            InvalidInputError: If there are fewer samples than twice what every example gets at least.
        """
        if num_samples < 2 * LEAST_SAMPLES:
            message = (
                f"expected at least {2 * LEAST_SAMPLES} samples for allocation='adaptive', which gives every example "
                f"{LEAST_SAMPLES} and shares out the rest; got {num_samples}"
            )
            raise InvalidInputError(message)
        order = losses.cpu().argsort()
        spread = torch.empty(len(order), dtype=torch.float64)
        squares = errors.to(spread)[order].square()
        spread[order] = torch.lerp(_averaged(squares), squares, _OWN_SHARE).sqrt()
        levels = _levels(spread, num_samples / LEAST_SAMPLES)
        inputs = torch.cat([x for x, _ in batches])
        targets = torch.cat([y for _, y in batches])
        size = max(len(part) for _, part in batches)
        strata: list[Stratum] = []
        for level in levels.unique().tolist():
            rows = (levels == level).nonzero()[:, 0].to(targets.device)
            parts = zip(inputs[rows].split(size), targets[rows].split(size), strict=True)
            strata.append(Stratum(rows, list(parts), LEAST_SAMPLES * 2**level))
        return cls(strata)


def _averaged(values: Tensor) -> Tensor:
    """Return every value's mean with its neighbours."""
    sums = torch.cat([values.new_zeros(1), values.cumsum(0)])
    place = torch.arange(len(values))
    first = (place - _NEIGHBOURS).clamp_min(0)
    last = (place + _NEIGHBOURS + 1).clamp_max(len(values))
    return (sums[last] - sums[first]).clamp_min(0) / (last - first)


def _levels(spread: Tensor, budget: float) -> Tensor:
    """Return k for every example, so that the mean of ``2 ** k`` is just within the budget."""
    if not spread.any():
        return torch.zeros(len(spread), dtype=torch.int64)

    def at(scale: float) -> Tensor:
        share = budget * math.exp2(scale) / spread.mean().item()
        return (spread * share).clamp(1, _MOST).log2().round().long()

    # With 2^-20 of its share everyone is at the least; with twice its share the most are above the budget.
    low, high = -20.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if at(middle).double().exp2().mean().item() > budget:
            high = middle
        else:
            low = middle
    return at(low)
