"""Bounds of the increase of the evidence lower bound (ELBO) by symmetrization over permutations."""

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
    r"""Bounds of the mutual information $I(G; \theta)$ between a uniform permutation and a symmetrized sample.

    Symmetrizing $q$ over the group $G$ lowers its KL divergence from an exchangeable prior by $I$. The evidence lower
    bound (ELBO) of the symmetrized posterior is therefore that of $q$ plus $I$, where
    $0 \le I \le \log \lvert G \rvert$.

    Attributes:
        lower: Estimate of a lower bound of $I$, in nats; at most $\log(M + 1)$ for $M$ random permutations.
        lower_stderr: Monte Carlo standard error of ``lower``.
        upper: Estimate of an upper bound of $I$, in nats.
        upper_stderr: Monte Carlo standard error of ``upper``.
        log_order: $\log \lvert G \rvert$, in nats.
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
    num_permutations: int = 64,
    generator: torch.Generator | None = None,
) -> PermutationInformation:
    r"""Return bounds of the increase of a posterior's evidence lower bound (ELBO) by symmetrization over permutations.

    $$ I = \mathbb E_{\theta \sim q} \Big[ \log q(\theta) - \log \tfrac{1}{\lvert G \rvert} \sum_g q(g\theta) \Big] $$

    With $M$ uniform permutations $g_m$, the expectation of
    $\log q(\theta) - \log \frac{1}{M+1} (q(\theta) + \sum_m q(g_m \theta))$ is a lower bound. The expectation of
    $\log \lvert G \rvert - \log \sum_{g \in T} q(g\theta) / q(\theta)$ is an upper bound for any subset $T$ of $G$,
    here the identity and transpositions. If the permuted modes do not overlap, $I$ is near $\log \lvert G \rvert$. If
    the posterior has collapsed to an exchangeable prior, $I = 0$.

    Args:
        posterior: Posterior with a density, over all tensors that are permuted.
        spec: Permutation symmetries of the network.
        num_samples: Number of samples of $\theta$, at least 2.
        num_permutations: Number $M$ of random permutations, and maximum number of transpositions in $T$; at least 1.
        generator: Random number generator; seeded with 0 if None.

    Returns:
        The bounds.

    Raises:
        InvalidInputError: If the posterior has no density, or does not fit the specification.

    References:
        Y. Gelberg, T. van der Ouderaa, M. van der Wilk, Y. Gal (2024), "Variational inference failures under model
        symmetries: permutation invariant posteriors for Bayesian neural networks", arXiv 2408.05496; A. van den Oord,
        Y. Li, O. Vinyals (2018), "Representation learning with contrastive predictive coding", arXiv 1807.03748 (lower
        bound).
    """
    if not isinstance(posterior, AbstractLogDensity):
        message = f"a {posterior.kind!r} posterior has no density; expected a Gaussian"
        raise InvalidInputError(message)
    if num_samples < 2:
        message = f"expected `num_samples` of at least 2, got {num_samples!r}"
        raise InvalidInputError(message)
    if num_permutations < 1:
        message = f"expected `num_permutations` of at least 1, got {num_permutations!r}"
        raise InvalidInputError(message)
    layout = spec.layout
    layout.check({**posterior.mean, **posterior.buffers}, "the posterior")
    generator = generator or torch.Generator().manual_seed(0)
    order = layout.log10_order * math.log(10)
    transpositions = _transpositions(layout, num_permutations, generator)
    lower: list[float] = []
    upper: list[float] = []
    for _ in range(num_samples):
        sample = posterior.sample(generator=generator)
        uniform = [Permutation.random(layout, generator=generator) for _ in range(num_permutations)]
        log_ratios = _log_ratios(posterior, sample, uniform)
        lower.append(symmetrization_bound(log_ratios[0], log_ratios[1:]).item())
        upper.append(order - _log_ratios(posterior, sample, transpositions).logsumexp(0).item())
    low, low_stderr = _mean(lower, order)
    high, high_stderr = _mean(upper, order)
    return PermutationInformation(low, low_stderr, high, high_stderr, order)


def _log_ratios(posterior: AbstractLogDensity, sample: dict[str, Tensor], permutations: list[Permutation]) -> Tensor:
    r"""Return $\log q(g\theta) / q(\theta)$ for the identity and the given permutations, in float64."""
    log_density = posterior.log_prob(sample)
    permuted = [posterior.log_prob(permutation.apply(sample)) - log_density for permutation in permutations]
    return torch.stack([torch.zeros_like(log_density), *permuted]).double()


def _mean(values: list[float], order: float) -> tuple[float, float]:
    r"""Return the mean and the standard error of bounds; the mean is clipped to $[0, \log \lvert G \rvert]$."""
    bounds = torch.tensor(values, dtype=torch.float64)
    return min(max(bounds.mean().item(), 0.0), order), mean_stderr(bounds).item()


def _transpositions(layout: Layout, count: int, generator: torch.Generator) -> list[Permutation]:
    """Return at most ``count`` different random transpositions of units in groups that are not nested."""
    pairs = [
        (name, i, j)
        for name, group in layout.groups.items()
        if group.within is None
        for i in range(min(group.size, count + 1))
        for j in range(i + 1, min(group.size, count + 1))
    ]
    found: list[Permutation] = []
    for index in torch.randperm(len(pairs), generator=generator)[:count].tolist():
        name, i, j = pairs[index]
        indices = {n: index.clone() for n, index in Permutation.identity(layout).indices.items()}
        indices[name][[i, j]] = indices[name][[j, i]]
        found.append(Permutation(layout, indices))
    return found
