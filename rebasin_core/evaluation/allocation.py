"""Allocation of samples to examples: more samples where the loss is more uncertain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.inputs import concatenated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from rebasin_core.evaluation.batches import Batch


MIN_SAMPLES = 4
"""Minimum number of samples of an example, and number of pilot samples: two antithetic pairs, as an error needs two."""
# Pilot variances are averaged over 32 neighbors in loss on each side, because examples of similar loss are about
# equally uncertain. An example's own variance has a weight of 0.25, in case loss and variance are unrelated.
_NEIGHBORS, _OWN_WEIGHT = 32, 0.25
_BISECTIONS = 40
_MAX_LEVEL = 2.0**30


@final
@dataclass(frozen=True, slots=True)
class Stratum:
    """Examples with the same number of samples.

    Attributes:
        rows: Indices of the examples in the dataset, increasing.
        batches: The examples, in batches ``(inputs, targets)``.
        num_samples: Number of samples of each example.
    """

    rows: Tensor
    batches: Sequence[Batch]
    num_samples: int


@final
@dataclass(frozen=True, slots=True)
class Allocation:
    r"""Number of samples of each example, proportional to the standard deviation of its loss (Neyman allocation).

    If noise is independent across examples, the standard error of the mean loss is
    $\frac1N \sqrt{\sum_i v_i / n_i}$ for $n_i$ samples of example $i$, where $v_i$ is the variance of its loss for one
    sample. For a given total number of samples this is minimal at $n_i \propto \sqrt{v_i}$. On data that a network
    predicts well, a few examples contribute nearly all of the error. The variances are estimated from a *pilot*: a few
    samples that are not used again, because reusing them would bias the mean.

    Attributes:
        strata: All examples, grouped by their number of samples: 4, 8, 16, ...

    References:
        J. Neyman (1934), "On the two different aspects of the representative method", Journal of the Royal Statistical
        Society 97(4), section III.
    """

    strata: Sequence[Stratum]

    @classmethod
    def of(cls, errors: Tensor, losses: Tensor, batches: Sequence[Batch], num_samples: int) -> Allocation:
        """Return the allocation for the variances and losses of a pilot.

        Args:
            errors: ``[N]``: for each example, a number whose expected square is proportional to the variance of its
                loss (`LossEstimate.sample_influence` of the pilot).
            losses: ``[N]``: the losses in the pilot. Squared errors are averaged over examples of similar loss.
            batches: The data, as from `held_batches`.
            num_samples: Mean number of samples per example, at least 8.

        Returns:
            The allocation.

        Raises:
            InvalidInputError: If `num_samples` is less than twice the minimum per example.
        """
        if num_samples < 2 * MIN_SAMPLES:
            message = (
                f"expected at least {2 * MIN_SAMPLES} samples for allocation='adaptive', which uses at least "
                f"{MIN_SAMPLES} for each example, got {num_samples}"
            )
            raise InvalidInputError(message)
        order = losses.cpu().argsort()
        stddev = torch.empty(len(order), dtype=torch.float64)
        squares = errors.to(stddev)[order].square()
        stddev[order] = torch.lerp(_moving_average(squares), squares, _OWN_WEIGHT).sqrt()
        levels = _levels(stddev, num_samples / MIN_SAMPLES)
        inputs = concatenated([x for x, _ in batches])
        targets = torch.cat([y for _, y in batches])
        size = max(len(part) for _, part in batches)
        strata: list[Stratum] = []
        for level in levels.unique().tolist():
            rows = (levels == level).nonzero()[:, 0].to(targets.device)
            parts = [(inputs[part], targets[part]) for part in rows.split(size)]
            strata.append(Stratum(rows, parts, MIN_SAMPLES * 2**level))
        return cls(strata)


def _moving_average(values: Tensor) -> Tensor:
    """Return the mean of each value and its neighbors."""
    sums = torch.cat([values.new_zeros(1), values.cumsum(0)])
    index = torch.arange(len(values))
    first = (index - _NEIGHBORS).clamp_min(0)
    last = (index + _NEIGHBORS + 1).clamp_max(len(values))
    return (sums[last] - sums[first]).clamp_min(0) / (last - first)


def _levels(stddev: Tensor, budget: float) -> Tensor:
    """Return the largest levels k, with 2^k about proportional to `stddev`, whose mean of 2^k is within the budget."""
    if not stddev.any():
        return torch.zeros(len(stddev), dtype=torch.int64)

    def at(scale: float) -> Tensor:
        factor = budget * math.exp2(scale) / stddev.mean().item()
        return (stddev * factor).clamp(1, _MAX_LEVEL).log2().round().long()

    # Bisection of the scale: at 2^-20 all levels are 0; at 2 the mean exceeds the budget, also after rounding.
    low, high = -20.0, 1.0
    for _ in range(_BISECTIONS):
        scale = (low + high) / 2
        if at(scale).double().exp2().mean().item() > budget:
            high = scale
        else:
            low = scale
    return at(low)
