"""Means over pairs of networks, with standard errors that account for shared networks."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar, final

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.trust import interval

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

Network = TypeVar("Network", bound=Hashable)


@final
@dataclass(frozen=True, slots=True)
class PairMean:
    """Mean of a quantity over pairs of independently trained networks.

    Attributes:
        mean: Mean over the pairs.
        stderr: Jackknife standard error over the sampling of networks; NaN for fewer than three networks, or if one
            network is in all pairs (unless it is fixed).
        num_networks: Number of networks.
        num_pairs: Number of pairs; the sum over the cells.
        num_cells: Number of cells, such as training settings, over which the mean is taken.
        num_fixed: Number of networks on which the error is conditional.
    """

    mean: float
    stderr: float
    num_networks: int
    num_pairs: int
    num_cells: int = 1
    num_fixed: int = 0

    @property
    def degrees(self) -> int:
        """Degrees of freedom of the standard error: the number of networks that are not fixed, minus one."""
        return self.num_networks - self.num_fixed - 1

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the confidence interval of the mean, with the quantile of Student's t distribution.

        Args:
            level: Nominal coverage probability, in (0, 1).

        Returns:
            Lower and upper limit; NaN if the standard error is NaN.

        Raises:
            InvalidInputError: If the level is not in (0, 1).
        """
        return interval(self.mean, self.stderr, max(self.degrees, 1), level)


def mean_over_pairs(values: Mapping[tuple[Network, Network], float], *, fixed: Collection[Network] = ()) -> PairMean:
    r"""Return the mean of a quantity over pairs of networks, with its delete-one-network jackknife standard error.

    Barriers and other quantities of all pairs of $n$ networks are not independent: each network is in $n - 1$ pairs.
    Let $U_{(-k)}$ be the mean over the pairs without network $k$, and $\bar U$ the mean of these over $k$. Then

    $$ \mathrm{stderr}^2 = \frac{n - 1}{n} \sum_k \big(U_{(-k)} - \bar U\big)^2. $$

    Suppose that the quantity of pair $(i, j)$ is $a_i + a_j + b_{ij}$ with independent terms. The jackknife variance
    due to $a$ is unbiased, and that due to $b$ is too large by a factor of $2 (n - 1) / (n - 2)$, so the error is
    conservative. If pairs were treated as independent, the standard error due to $a$ would be too small by a factor of
    $\sqrt{n + 1}$. For three networks the jackknife error is exactly twice that error.

    To compare two methods on the same pairs, pass their differences. With few networks the error itself is uncertain;
    for a confidence interval use the quantile of Student's t distribution with $n - 1$ degrees of freedom (4.3 for 95 %
    and three networks), as `PairMean.interval` does.

    Args:
        values: The quantity by pair of network names, such as seeds. A pair and its reverse are averaged.
        fixed: Networks that are not deleted, such as one reference that is in all pairs. The error is conditional on
            them; with one reference it is that of the mean of independent values.

    Returns:
        The mean and its standard error.

    Raises:
        InvalidInputError: If there is no pair, a network is paired with itself, or a value is not finite.

    References:
        J. Arvesen (1969), "Jackknifing U-statistics", Annals of Mathematical Statistics 40, section 3; B. Efron,
        C. Stein (1981), "The jackknife estimate of variance", Annals of Statistics 9 (it is conservative on average).

    Examples:
        >>> found = mean_over_pairs({(1, 2): 0.1, (1, 3): 0.2, (2, 3): 0.3})
        >>> round(found.mean, 3), round(found.stderr, 3)
        (0.2, 0.115)
    """
    return mean_over_cells([values], fixed=fixed)


def mean_over_cells(
    cells: Sequence[Mapping[tuple[Network, Network], float]], *, fixed: Collection[Network] = ()
) -> PairMean:
    r"""Return the mean over cells of the mean over pairs, with its delete-one-network jackknife standard error.

    A cell is one training setting, such as a width. Networks of several cells with the same name, such as the seed,
    may depend on each other: they share the order of the batches, and the initialization if the architecture is the
    same. Therefore a name is deleted in all cells simultaneously. Let $U_{(-k)}$ be the mean over the cells of the mean
    over the pairs without $k$; the standard error is that of `mean_over_pairs`.

    This is valid for any dependence between the networks of one name, including independence, because the vectors of
    the networks of one name are independent and identically distributed. The cells are not a sample: the mean describes
    these cells. All cells have equal weights, also if they have different numbers of pairs. The test data and a seed
    of the Monte Carlo samples that all pairs share are not resampled, so their errors are not included.

    Args:
        cells: The quantity by pair of network names, for each cell.
        fixed: Networks that are not deleted; the error is conditional on them.

    Returns:
        The mean and its standard error; the error is NaN if a cell has no pair without one of the networks.

    Raises:
        InvalidInputError: If there is no pair in a cell, a network is paired with itself, or a value is not finite.

    Examples:
        >>> narrow = {(1, 2): 0.1, (1, 3): 0.2, (2, 3): 0.3}
        >>> wide = {(1, 2): 0.0, (1, 3): 0.1, (2, 3): 0.2}
        >>> found = mean_over_cells([narrow, wide])
        >>> round(found.mean, 3), round(found.stderr, 3), found.num_cells
        (0.15, 0.115, 2)
    """
    if not cells:
        message = "expected at least one cell, got none"
        raise InvalidInputError(message)
    sums = [_Sums(_averaged(values)) for values in cells]
    names = sorted({name for cell in sums for name in cell.totals}, key=repr)
    deleted = [name for name in names if name not in fixed]
    mean = math.fsum(cell.mean_without(None) for cell in sums) / len(sums)
    return PairMean(
        mean,
        _jackknife(sums, deleted),
        len(names),
        sum(cell.count for cell in sums),
        len(sums),
        len(names) - len(deleted),
    )


def _averaged(values: Mapping[tuple[Network, Network], float]) -> dict[frozenset[Network], float]:
    """Return the values by pair, in which a pair and its reverse are averaged."""
    collected: dict[frozenset[Network], list[float]] = {}
    for pair, value in values.items():
        names = frozenset(pair)
        if len(names) < len(pair):
            message = f"expected pairs of two networks, got {pair!r}"
            raise InvalidInputError(message)
        if not math.isfinite(value):
            message = f"expected finite values, got {value!r} for {pair!r}"
            raise InvalidInputError(message)
        collected.setdefault(names, []).append(value)
    if not collected:
        message = "expected at least one pair, got none"
        raise InvalidInputError(message)
    return {names: math.fsum(found) / len(found) for names, found in collected.items()}


@final
class _Sums(Generic[Network]):
    """Sums over the pairs of a cell, from which the means without one network follow."""

    def __init__(self, means: Mapping[frozenset[Network], float]) -> None:
        self.count = len(means)
        self._total = math.fsum(means.values())
        self.totals: dict[Network, float] = {}
        self._counts: dict[Network, int] = {}
        for names, value in means.items():
            for name in names:
                self.totals[name] = self.totals.get(name, 0.0) + value
                self._counts[name] = self._counts.get(name, 0) + 1

    def mean_without(self, name: Network | None) -> float:
        """Return the mean over the pairs without a network; NaN if there are none."""
        if name is None or name not in self._counts:
            return self._total / self.count
        others = self.count - self._counts[name]
        return (self._total - self.totals[name]) / others if others else math.nan


def _jackknife(cells: Sequence[_Sums[Network]], names: Sequence[Network]) -> float:
    """Return the delete-one-network standard error; NaN if deleting a network leaves no pair in a cell."""
    count = len(names)
    if count < 2:
        return math.nan
    replicates = [math.fsum(cell.mean_without(name) for cell in cells) / len(cells) for name in names]
    center = math.fsum(replicates) / count
    return math.sqrt((count - 1) / count * math.fsum((value - center) ** 2 for value in replicates))
