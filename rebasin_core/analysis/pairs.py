"""Means over pairs of networks, with errors that know that pairs share networks."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, final

from rebasin_core.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Without the third network, no pair is left where one is deleted.
_LEAST_NETWORKS = 3

Network = TypeVar("Network", bound=Hashable)


@final
@dataclass(frozen=True, slots=True)
class PairMean:
    """A mean over pairs of independently trained networks.

    Attributes:
        mean: The mean over the pairs.
        stderr: Its standard error over the choice of networks; NaN for fewer than three networks, or if one network is
            in all pairs.
        num_networks: Number of networks.
        num_pairs: Number of pairs.
    """

    mean: float
    stderr: float
    num_networks: int
    num_pairs: int


def mean_over_pairs(values: Mapping[tuple[Network, Network], float]) -> PairMean:
    r"""Return the mean of a quantity of pairs, such as a barrier, with the delete-one-network jackknife error.

    All pairs of $n$ networks are not independent: each network is in $n - 1$ of them. With the mean $U_{(-k)}$ over the
    pairs without network $k$, and the mean $\bar U$ of these over $k$,

    $$ \mathrm{stderr}^2 = \frac{n - 1}{n} \sum_k \big(U_{(-k)} - \bar U\big)^2. $$

    If the quantity of a pair is the sum of a part of each network and of a part of the pair alone, the error of the
    first is right on average, and the variance of the second is overstated $2 (n - 1) / (n - 2)$ times: the error is on
    the safe side. The error that takes pairs for independent is too small for the first, by a factor of
    $\sqrt{n + 1}$. For three networks the jackknife error is exactly twice that one.

    To compare two treatments of the same pairs, give the differences. The error itself is uncertain at few networks:
    for an interval use the quantile of Student's distribution with $n - 1$ degrees of freedom (4.3 for 95 % and three
    networks).

    Args:
        values: The quantity by pair of names of networks (seeds, say). A pair and its reverse are two measurements of
            the pair, and are averaged.

    Returns:
        The mean and its error.

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
    left: list[float] = []
    for network in networks:
        others = [value for names, value in means.items() if network not in names]
        if count < _LEAST_NETWORKS or not others:
            return math.nan
        left.append(math.fsum(others) / len(others))
    center = math.fsum(left) / count
    return math.sqrt((count - 1) / count * math.fsum((value - center) ** 2 for value in left))
