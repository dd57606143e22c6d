"""What symmetrising a posterior over permutations would add to its evidence lower bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.capabilities import AbstractLogDensity
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.tensors.statistics import mean_stderr, symmetrization_bound

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.layout import Layout


@final
@dataclass(frozen=True, slots=True)
class PermutationInformation:
    r"""Bounds of the mutual information $I(G; \theta)$ between a uniform group element and a symmetrised sample.

    Symmetrising $q$ over the group lowers its divergence from an exchangeable prior by $I$: the evidence lower bound of
    the symmetrised posterior is that of $q$, plus $I$, with $0 \le I \le \log \lvert G \rvert$.

    Attributes:
        lower: Estimate of a lower bound, nats; at most the logarithm of one more than the elements it was made with.
        lower_stderr: Its Monte Carlo standard error.
        upper: Estimate of an upper bound, nats.
        upper_stderr: Its Monte Carlo standard error.
        log_order: $\log \lvert G \rvert$.
    """

    lower: float
    lower_stderr: float
    upper: float
    upper_stderr: float
    log_order: float


def permutation_information(
    posterior: Posterior,
    spec: PermutationSpec,
    *,
    num_samples: int = 16,
    num_elements: int = 64,
    generator: torch.Generator | None = None,
) -> PermutationInformation:
    r"""Return bounds of what symmetrising a posterior over permutations would add to its evidence lower bound.

    $I = \mathbb E_{\theta \sim q} \log q(\theta) - \log \frac{1}{\lvert G \rvert} \sum_g q(g\theta)$. With uniform
    elements, $\log q(\theta) - \log \frac{1}{M+1} (q(\theta) + \sum_m q(g_m \theta))$ bounds it from below in
    expectation. A sum over a subset (here the identity and exchanges of two units) is less than the whole, so that
    $\log \lvert G \rvert - \log \sum_{g \in T} q(g\theta) / q(\theta)$ bounds it from above. A posterior whose modes do
    not overlap has $I$ near $\log \lvert G \rvert$; one that collapsed to its prior has none.

    Args:
        posterior: With a density, over all tensors that move.
        spec: The symmetries of the network.
        num_samples: Samples of $\theta$, at least 2.
        num_elements: The number M, and the most exchanges.
        generator: Source of randomness; a fixed seed if not given.

    Returns:
        The bounds.

    Raises:
        InvalidInputError: If the posterior has no density, or does not fit the specification.

    References:
        Y. Gelberg, T. van der Ouderaa, M. van der Wilk, Y. Gal (2024), "Variational inference failures under model
        symmetries: permutation invariant posteriors for Bayesian neural networks", arXiv 2408.05496; A. van den Oord,
        Y. Li, O. Vinyals (2018), arXiv 1807.03748 (the lower bound).
    """
    if not isinstance(posterior, AbstractLogDensity):
        message = f"a {posterior.kind!r} posterior has no density; expected a Gaussian"
        raise InvalidInputError(message)
    if num_samples < 2 or num_elements < 1:
        message = f"expected two samples and one element at least, got {num_samples!r} and {num_elements!r}"
        raise InvalidInputError(message)
    layout = spec.layout
    layout.check({**posterior.mean, **posterior.buffers}, "the posterior")
    generator = generator or torch.Generator().manual_seed(0)
    order = layout.log10_order * math.log(10)
    exchanges = _exchanges(layout, num_elements, generator)
    lower: list[float] = []
    upper: list[float] = []
    for _ in range(num_samples):
        sample = posterior.sample(generator=generator)
        uniform = [Permutation.random(layout, generator=generator) for _ in range(num_elements)]
        log_ratios = _log_ratios(posterior, sample, uniform)
        lower.append(symmetrization_bound(log_ratios[0], log_ratios[1:]).item())
        upper.append(order - _log_ratios(posterior, sample, exchanges).logsumexp(0).item())
    low, low_stderr = _mean(lower, order)
    high, high_stderr = _mean(upper, order)
    return PermutationInformation(low, low_stderr, high, high_stderr, order)


def _log_ratios(posterior: AbstractLogDensity, sample: dict[str, Tensor], elements: list[Permutation]) -> Tensor:
    r"""Return $\log q(g\theta) / q(\theta)$ for the identity and the given elements, in float64."""
    log_density = posterior.log_prob(sample)
    permuted = [posterior.log_prob(element.apply(sample)) - log_density for element in elements]
    return torch.stack([torch.zeros_like(log_density), *permuted]).double()


def _mean(values: list[float], order: float) -> tuple[float, float]:
    r"""Return mean and standard error of bounds, the mean clipped to the range of the information."""
    bounds = torch.tensor(values, dtype=torch.float64)
    return min(max(bounds.mean().item(), 0.0), order), mean_stderr(bounds).item()


def _exchanges(layout: Layout, count: int, generator: torch.Generator) -> list[Permutation]:
    """Return different exchanges of two units, at most ``count``, drawn at random."""
    pairs = [
        (name, i, j)
        for name, group in layout.groups.items()
        if group.within is None
        for i in range(min(group.size, count + 1))
        for j in range(i + 1, min(group.size, count + 1))
    ]
    found: list[Permutation] = []
    for place in torch.randperm(len(pairs), generator=generator)[:count].tolist():
        name, i, j = pairs[place]
        indices = {n: index.clone() for n, index in Permutation.identity(layout).indices.items()}
        indices[name][[i, j]] = indices[name][[j, i]]
        found.append(Permutation(layout, indices))
    return found
