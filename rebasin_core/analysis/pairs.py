"""Means over pairs of networks, with standard errors that account for shared networks."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, final

from rebasin_core.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

# With fewer networks, no pair remains after one network is deleted.
_MIN_NETWORKS = 3

Network = TypeVar("Network", bound=Hashable)


@final
@dataclass(frozen=True, slots=True)
class PairMean:
    """Mean of a quantity over pairs of independently trained networks.

    Attributes:
        mean: Mean over the pairs.
        stderr: Jackknife standard error over the sampling of networks; NaN for fewer than three networks, or if one
            network is in all pairs.
        num_networks: Number of networks.
        num_pairs: Number of pairs.
    """

    mean: float
    stderr: float
    num_networks: int
    num_pairs: int


def mean_over_pairs(values: Mapping[tuple[Network, Network], float]) -> PairMean:
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
    and three networks).

    Args:
        values: The quantity by pair of network names, such as seeds. A pair and its reverse are averaged.

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
    means = {names: math.fsum(found) / len(found) for names, found in collected.items()}
    networks = sorted({name for names in means for name in names}, key=repr)
    mean = math.fsum(means.values()) / len(means)
    return PairMean(mean, _jackknife(means, networks), len(networks), len(means))


def _jackknife(means: Mapping[frozenset[Network], float], networks: list[Network]) -> float:
    """Return the delete-one-network standard error; NaN if deleting a network leaves no pair."""
    count = len(networks)
    replicates: list[float] = []
    for network in networks:
        others = [value for names, value in means.items() if network not in names]
        if count < _MIN_NETWORKS or not others:
            return math.nan
        replicates.append(math.fsum(others) / len(others))
    center = math.fsum(replicates) / count
    return math.sqrt((count - 1) / count * math.fsum((value - center) ** 2 for value in replicates))
