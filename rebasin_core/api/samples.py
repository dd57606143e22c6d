"""Samples aligned with each other, and summarized in one compact posterior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, final, get_args

import torch
from tqdm import tqdm

from rebasin_core.api.conversion import PosteriorLike, as_posteriors
from rebasin_core.api.many import match_many, mean_squared_distance
from rebasin_core.api.matching import as_matcher
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.task import model_of
from rebasin_core.posteriors.capabilities import AbstractEmpirical, AbstractMixture
from rebasin_core.posteriors.mixture import MixturePosterior
from rebasin_core.posteriors.samples import SamplesPosterior
from rebasin_core.posteriors.summary import SummaryKind, gaussian_summary
from rebasin_core.specs.base import require_spec

if TYPE_CHECKING:
    from rebasin_core.evaluation.task import Task
    from rebasin_core.matchers.base import Matcher
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.permutation import Permutation

SamplesLike: TypeAlias = AbstractMixture | Sequence[PosteriorLike]
"""Samples, a mixture, or a sequence of networks or posteriors."""


@final
@dataclass(frozen=True, slots=True)
class AlignedSamples:
    r"""Samples aligned with each other.

    Attributes:
        samples: The permuted samples, of the same predictive distribution as before: a `SamplesPosterior` if all are
            single networks, a mixture otherwise.
        permutations: The permutation of each into one common order. Sample $a$ is aligned to sample $b$ by
            $P_b^{-1} P_a$; around a cycle these compose to the identity.
        mean_squared_distances: The mean squared distance to the barycenter, before the first round and after each. Of
            single networks it is that of their parameters to the mean; of others, that of means and standard
            deviations.
    """

    samples: AbstractMixture
    permutations: tuple[Permutation, ...]
    mean_squared_distances: tuple[float, ...]


@final
@dataclass(frozen=True, slots=True)
class Summary:
    """A compact posterior that stands for many samples.

    Attributes:
        posterior: The posterior, with the mean and the marginal standard deviations of the aligned samples.
        aligned: The samples it summarizes.
    """

    posterior: Posterior
    aligned: AlignedSamples


def align_samples(  # ruff: ignore[too-many-arguments] - the problem's parts, keyword-only after the second
    samples: SamplesLike,
    spec: PermutationSpec,
    *,
    reference: int | None = None,
    matcher: Matcher | str | Mapping[str, object] = "wasserstein",
    max_rounds: int = 10,
    task: Task | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> AlignedSamples:
    """Align the members of an ensemble, the draws of chains, or the components of a mixture with each other.

    With a ``reference``, every sample is matched with that one. Without, all find a common order, as by `match_many`.
    Under an exchangeable prior the posterior has these symmetries, and the permuted samples are as good as before.

    Args:
        samples: Samples, a mixture, or a sequence of at least one network or posterior: anything that `as_posterior`
            takes (points, modules, state dicts, ...).
        spec: The symmetries of the network.
        reference: The number of the sample that all are matched with; None for a common order.
        matcher: A registered name, a mapping with ``name`` and options, or an instance.
        max_rounds: Most rounds of matching with the mean of the others.
        task: Network module and data, for matchers that run the network, and for objects that do not know the names of
            their parameters.
        generator: Source of randomness; a fixed seed if not given.
        progress: Whether to show a progress bar.

    Returns:
        The aligned samples.

    Raises:
        InvalidInputError: If the samples do not fit the specification, or there is no such reference.

    Examples:
        >>> from rebasin_core import table_spec
        >>> a = {"in": torch.tensor([[1.0], [2.0]]), "out": torch.tensor([[1.0, 2.0]])}
        >>> b = {"in": torch.tensor([[2.0], [1.0]]), "out": torch.tensor([[2.0, 1.0]])}
        >>> found = align_samples([a, b], table_spec({"in": "hidden, -", "out": "-, hidden"}, a))
        >>> found.mean_squared_distances[0], found.mean_squared_distances[-1]
        (1.0, 0.0)
    """
    require_spec(spec)
    given = _as_mixture(samples, spec, task)
    components = given.components
    if reference is not None and not 0 <= reference < len(components):
        message = f"expected a reference from 0 to {len(components) - 1}, got {reference!r}"
        raise InvalidInputError(message)
    generator = generator or torch.Generator().manual_seed(0)
    task = None if task is None else task.held()
    if reference is None:
        found = match_many(
            given,
            spec,
            matcher=matcher,
            max_rounds=max_rounds,
            task=task,
            generator=generator,
            progress=progress,
        )
        return AlignedSamples(given.permute_each(found.permutations), found.permutations, found.trace)
    strategy = as_matcher(matcher)
    permutations = tuple(
        strategy.match(components[reference], q, spec, task=task, generator=generator).permutation.to("cpu")
        for q in tqdm(components, desc="align samples", leave=False, disable=not progress)
    )
    aligned = given.permute_each(permutations)
    return AlignedSamples(aligned, permutations, (_mean_squared_distance(given), _mean_squared_distance(aligned)))


def summarize(  # ruff: ignore[too-many-arguments] - the problem's parts, keyword-only after the second
    samples: SamplesLike,
    spec: PermutationSpec,
    *,
    kind: SummaryKind = "diagonal_gaussian",
    rank: int = 10,
    reference: int | None = None,
    matcher: Matcher | str | Mapping[str, object] = "wasserstein",
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Summary:
    r"""Return one compact posterior for an ensemble, for chains or for a mixture, after aligning them.

    The mean and the marginal standard deviations are those of the aligned samples. ``low_rank_gaussian`` keeps the
    first principal directions of the deviations from the mean as factor, and puts the rest of the marginal variances
    into the diagonal; ``full_gaussian`` keeps the covariance (of single networks it has at most their number as rank).

    Args:
        samples: As for `align_samples`.
        spec: The symmetries of the network.
        kind: The kind of the summary.
        rank: Rows of the factor of a ``low_rank_gaussian``; at most one less than there are samples.
        reference: The number of the sample that all are matched with; None for a common order.
        matcher: A registered name, a mapping with ``name`` and options, or an instance.
        generator: Source of randomness; a fixed seed if not given.
        progress: Whether to show a progress bar.

    Returns:
        The posterior and the aligned samples.

    Raises:
        InvalidInputError: If there are fewer than two samples, or the kind is unknown.

    References:
        T. Xiao, W. Liu, R. Bamler (2024), "A compact representation for Bayesian neural networks by removing
        permutation symmetry", arXiv 2401.00611.
    """
    require_spec(spec)
    given = _as_mixture(samples, spec, None)
    count = len(given.weights)
    if kind not in get_args(SummaryKind) or count < 2 or rank < 1:
        message = (
            f"expected at least two samples, a rank of at least 1 and a kind among {get_args(SummaryKind)}, got "
            f"{count}, {rank!r} and {kind!r}"
        )
        raise InvalidInputError(message)
    aligned = align_samples(given, spec, reference=reference, matcher=matcher, generator=generator, progress=progress)
    return Summary(gaussian_summary(aligned.samples, kind, rank), aligned)


def _as_mixture(samples: SamplesLike, spec: PermutationSpec, task: Task | None) -> AbstractMixture:
    """Return any collection of networks as one posterior: as samples if all are single networks."""
    if isinstance(samples, AbstractEmpirical):
        return samples
    if isinstance(samples, AbstractMixture):
        if not all(q.is_point for q in samples.components):
            return samples
        return SamplesPosterior.from_points(samples.components, weights=samples.weights)
    if isinstance(samples, Mapping) or not isinstance(samples, Sequence):
        message = (
            f"expected samples, a mixture or a sequence of networks, got one `{type(samples).__qualname__}`; put "
            "several networks into a list"
        )
        raise InvalidInputError(message)
    model = model_of(task)
    posteriors = as_posteriors(samples, model=model, spec=spec)
    if not posteriors:
        message = "expected at least one sample, got none"
        raise InvalidInputError(message)
    if all(q.is_point for q in posteriors):
        return SamplesPosterior.from_points(posteriors)
    return MixturePosterior(posteriors)


def _mean_squared_distance(samples: AbstractMixture) -> float:
    if all(q.is_point for q in samples.components):
        return sum(tensor.double().square().sum().item() for tensor in samples.stddev.values())
    return mean_squared_distance(samples.components, samples.weights.tolist())
