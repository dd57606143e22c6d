"""Numbers of equivalent modes of a posterior, and of chains that visit all functional modes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.specs.base import require_spec
from rebasin_core.symmetry.kind import Kind
from rebasin_core.symmetry.slots import contains_permutations
from rebasin_core.tensors.arguments import require_sequence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.linear import Symmetry

# Kinds of matrices whose determinant has either sign.
_TWO_COMPONENTS = {Kind.ORTHOGONAL, Kind.ORTHOGONAL_FIXING_ONES, Kind.INVERTIBLE}
_ROUNDING = 1e-6
_MAX_MODES = 10**300
# Step of the trapezoidal rule in log t, divided by 1 + log(number of modes), the inverse width of the integrand's
# step: the error for this analytic integrand is below rounding.
_STEP = 0.05
_MAX_ENTRIES = 2**22


@final
@dataclass(frozen=True, slots=True)
class ModeCount:
    r"""Number of equivalent copies of a mode: of connected components of the symmetry group.

    Attributes:
        log10_permutations: Decimal logarithm of the number of permutations that no continuous map contains.
        log10_signs: Decimal logarithm of the number of choices of signs, and of determinants of orthogonal and
            invertible maps.
        dimension: Dimension of each component: the number of directions along which the function does not change.
    """

    log10_permutations: float
    log10_signs: float
    dimension: int

    @property
    def log10_total(self) -> float:
        """Decimal logarithm of the number of copies."""
        return self.log10_permutations + self.log10_signs


def count_modes(spec: PermutationSpec, symmetry: Symmetry | None = None) -> ModeCount:
    r"""Return the number of equivalent copies that the symmetries of a network make of each mode of its posterior.

    An MLP with tanh has $\prod_l 2^{n_l} n_l!$ copies for hidden layers of $n_l$ units. In general, the copies are the
    connected components of the symmetry group. Scales of ReLU units join points to a component, and so do rotations:
    permutations of a residual stream that rotates are not counted, only the two signs of the determinant.

    Args:
        spec: Symmetries of the network.
        symmetry: The linear symmetries; those that the network admits with any weights (`PermutationSpec.symmetry`) if
            None. For networks with folded normalizations, pass ``spec.folded_symmetry``.

    Returns:
        The decimal logarithms of the numbers, and the dimension of each component.

    References:
        J. G. Wiese et al. (2023), "Towards efficient MCMC sampling in Bayesian neural networks by exploiting symmetry",
        ECML PKDD, arXiv 2304.02902, section 3.

    Examples:
        >>> from rebasin_core import trace_spec
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
        >>> round(10 ** count_modes(trace_spec(model, torch.zeros(1, 2))).log10_total)  # 2^3 3!
        48
    """
    require_spec(spec)
    symmetry = spec.symmetry if symmetry is None else symmetry
    layout = symmetry.layout
    permutations, signs = spec.layout.log10_order * math.log(10), float(symmetry.log2_signs)
    for linear in symmetry.linear:
        *outer, size = layout.index_shape(linear.group)
        count = math.prod(outer)
        if linear.kind in _TWO_COMPONENTS and not (linear.kind is Kind.ORTHOGONAL_FIXING_ONES and size == 1):
            signs += count
        if linear.group in spec.layout.groups and contains_permutations(layout, linear):
            permutations -= count * math.lgamma(size + 1)
    return ModeCount(max(0.0, permutations / math.log(10)), signs * math.log10(2), symmetry.dimension)


@final
@dataclass(frozen=True, slots=True)
class ChainCount:
    r"""Number of independent chains that visit all modes, if each chain visits one at random.

    Attributes:
        expected: Expected number of chains $\mathbb E[T]$ until all modes have been visited.
        markov: Number for which the probability of a mode that is not visited is at most the given one, by Markov's
            inequality: the bound of Wiese et al.
        union: The same by the union bound, which is smaller for large probabilities.
    """

    expected: float
    markov: int
    union: int


def chains_for_modes(modes: int | Sequence[float], *, probability: float = 0.99) -> ChainCount:
    r"""Return upper bounds on the number of chains that visit all functional modes.

    Let each chain sample from one mode only, from mode $j$ with probability $\pi_j$ independently of other chains, and
    let $T$ be the number of chains until all modes have been visited (the coupon collector's problem). Then

    $$ \mathbb E[T] = \int_0^\infty \Big(1 - \prod_j \big(1 - e^{-\pi_j t}\big)\Big)\, dt,
       \qquad \mathbb P(T > G) \le \frac{\mathbb E[T]}{G}, \qquad \mathbb P(T > G) \le \sum_j (1 - \pi_j)^G. $$

    Since symmetries leave the function unchanged, only functional modes count: modes that no symmetry maps to each
    other, and not the copies of `count_modes`. Their number and probabilities are assumptions. Wiese et al. use the
    density of a half-normal distribution at equidistant points of [0, 1.96].

    Args:
        modes: Number of modes, at least 1, of equal probabilities; or the probability of each mode, with sum 1.
        probability: Probability with which all modes shall be visited, in (0, 1).

    Returns:
        The expected number of chains, and two bounds for the given probability.

    Raises:
        InvalidInputError: If the modes or the probability are out of range.

    References:
        J. G. Wiese et al. (2023), "Towards efficient MCMC sampling in Bayesian neural networks by exploiting symmetry",
        ECML PKDD, arXiv 2304.02902 (Markov's inequality); P. Flajolet, D. Gardy, L. Thimonier (1992), "Birthday
        paradox, coupon collectors, caching algorithms and self-organizing search", Discrete Applied Mathematics 39
        (expectation).

    Examples:
        >>> half_normal = torch.exp(-torch.linspace(0, 1.96, 3, dtype=torch.float64).square() / 2)
        >>> found = chains_for_modes((half_normal / half_normal.sum()).tolist())
        >>> found.markov, found.union
        (1274, 54)
    """
    if isinstance(probability, bool) or not 0 < probability < 1:
        message = f"expected a `probability` in (0, 1), got {probability!r}"
        raise InvalidInputError(message)
    if isinstance(modes, int):
        if not 1 <= modes <= _MAX_MODES:
            message = f"expected from 1 to 1e300 modes, got {modes if modes < 1 else 'more'}"
            raise InvalidInputError(message)
        return _chain_count(torch.ones(1, dtype=torch.float64) / float(modes), modes, 1 - probability)
    require_sequence(modes, "a number of modes as an integer, or the probability of each mode as a sequence")
    shares = torch.as_tensor(list(modes), dtype=torch.float64)
    if not len(shares) or not bool((shares > 0).all()) or abs(shares.sum().item() - 1) > _ROUNDING:
        message = f"expected positive probabilities of modes with sum 1, got {list(modes)!r}"
        raise InvalidInputError(message)
    return _chain_count(shares, 1, 1 - probability)


def _chain_count(shares: Tensor, repeats: int, missed: float) -> ChainCount:
    """Return the bounds for modes of given probabilities, each of which ``repeats`` modes have."""
    count = repeats * len(shares)
    smallest, largest = shares.min().item(), shares.max().item()
    if count == 1:
        return ChainCount(1.0, 1, 1)
    # The integrand is analytic in log t, and vanishes at both limits.
    step = _STEP / (1 + math.log(count))
    start, stop = math.log(1e-18 / largest), math.log((math.log(count) + 40) / smallest)
    logs = torch.arange(start, stop, step, dtype=torch.float64)
    expected = 0.0
    for times in logs.exp().split(max(1, _MAX_ENTRIES // len(shares))):
        visited = float(repeats) * torch.log1p(-torch.exp(-torch.outer(times, shares))).sum(1)
        expected += (-torch.expm1(visited) * times).sum().item() * step
    return ChainCount(expected, math.ceil(expected / missed), _union_bound(shares, repeats, missed))


def _union_bound(shares: Tensor, repeats: int, missed: float) -> int:
    """Return the smallest number of chains for which the sum of probabilities is at most ``missed``."""

    def fails(number: int) -> bool:
        return float(repeats) * torch.exp(float(number) * torch.log1p(-shares)).sum().item() > missed

    low, high = 0, 1
    while fails(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fails(middle) else (low, middle)
    return high
