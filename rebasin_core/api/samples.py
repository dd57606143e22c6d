"""Alignment of posterior samples with each other, and their summary by one compact posterior."""

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
    from rebasin_core.matchers.map_search import SymmetryOption
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.permutation import GroupElement

SamplesLike: TypeAlias = AbstractMixture | Sequence[PosteriorLike]
"""Samples, a mixture, or a sequence of networks or posteriors."""


@final
@dataclass(frozen=True, slots=True)
class AlignedSamples:
    r"""Aligned samples.

    Attributes:
        samples: The permuted samples, with an unchanged predictive distribution: a `SamplesPosterior` if all are single
            networks, a mixture otherwise.
        permutations: $P_k$, the permutation of sample $k$. The pairwise permutations $P_b^{-1} P_a$ are
            cycle-consistent. With a matcher that also finds linear maps, they are `SymmetryElement` values.
        mean_squared_distances: Mean squared distance to the barycenter before alignment and after each round (after
            the alignment, with a ``reference``): of the parameters for single networks, of means and standard
            deviations for posteriors.
    """

    samples: AbstractMixture
    permutations: tuple[GroupElement, ...]
    mean_squared_distances: tuple[float, ...]


@final
@dataclass(frozen=True, slots=True)
class Summary:
    """Compact posterior that summarizes aligned samples.

    Attributes:
        posterior: The posterior, with the mean and the marginal standard deviations of the aligned samples.
        aligned: The aligned samples.
    """

    posterior: Posterior
    aligned: AlignedSamples


def align_samples(  # ruff: ignore[too-many-arguments] - the problem's parts, keyword-only after the second
    samples: SamplesLike,
    spec: PermutationSpec,
    *,
    reference: int | None = None,
    matcher: Matcher | str | Mapping[str, object] = "wasserstein",
    symmetry: SymmetryOption | None = None,
    max_rounds: int = 10,
    task: Task | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> AlignedSamples:
    """Align the members of an ensemble, the draws of chains, or the components of a mixture with each other.

    With a ``reference``, every sample is matched with that sample. Without, all samples are jointly aligned
    (`match_many` with ``start="best"``). Under a permutation-invariant prior the exact posterior is invariant as well,
    and the permuted samples have the same posterior density.

    Args:
        samples: A set of samples, a mixture, or a sequence of at least one network or posterior (anything that
            `as_posterior` accepts).
        spec: Permutation symmetries of the network.
        reference: Index of the sample that all others are matched with; None for joint alignment.
        matcher: A registered name, a mapping with ``name`` and options, or an instance.
        symmetry: The symmetries to align modulo, for matchers with the option ``symmetry``: ``permutation``, ``full``,
            or a tuple of kinds. The matcher's own option if None.
        max_rounds: Maximum number of rounds of joint alignment, at least 0; see `match_many`.
        task: Network module and data, for matchers that run the network, and for inputs that need the module in
            `as_posterior`.
        generator: Random number generator; seeded with 0 if None.
        progress: Whether to show a progress bar.

    Returns:
        The aligned samples.

    Raises:
        InvalidInputError: If the samples do not fit the specification, or ``reference`` is out of range.

    Examples:
        >>> from rebasin_core import table_spec
        >>> a = {"in": torch.tensor([[1.0], [2.0]]), "out": torch.tensor([[1.0, 2.0]])}
        >>> b = {"in": torch.tensor([[2.0], [1.0]]), "out": torch.tensor([[2.0, 1.0]])}
        >>> aligned = align_samples([a, b], table_spec({"in": "hidden, -", "out": "-, hidden"}, a))
        >>> aligned.mean_squared_distances[0], aligned.mean_squared_distances[-1]
        (1.0, 0.0)
    """
    require_spec(spec)
    given = as_mixture(samples, spec, task)
    components = given.components
    if reference is not None and not 0 <= reference < len(components):
        message = f"expected `reference` from 0 to {len(components) - 1}, got {reference!r}"
        raise InvalidInputError(message)
    generator = generator or torch.Generator().manual_seed(0)
    task = None if task is None else task.held()
    if reference is None:
        found = match_many(
            given,
            spec,
            matcher=matcher,
            symmetry=symmetry,
            start="best",
            max_rounds=max_rounds,
            task=task,
            generator=generator,
            progress=progress,
        )
        return AlignedSamples(given.transform_each(found.permutations), found.permutations, found.trace)
    strategy = as_matcher(matcher, symmetry)
    permutations = tuple(
        strategy.match(components[reference], q, spec, task=task, generator=generator).group_element.to("cpu")
        for q in tqdm(components, desc="align samples", leave=False, disable=not progress)
    )
    aligned = given.transform_each(permutations)
    return AlignedSamples(aligned, permutations, (_mean_squared_distance(given), _mean_squared_distance(aligned)))


def summarize(  # ruff: ignore[too-many-arguments] - the problem's parts, keyword-only after the second
    samples: SamplesLike,
    spec: PermutationSpec,
    *,
    kind: SummaryKind = "diagonal_gaussian",
    rank: int = 10,
    reference: int | None = None,
    matcher: Matcher | str | Mapping[str, object] = "wasserstein",
    symmetry: SymmetryOption | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Summary:
    r"""Align an ensemble, chains or a mixture, and summarize it by one compact posterior.

    The posterior has the mean and the marginal standard deviations of the aligned samples. The factor of a
    ``low_rank_gaussian`` has the first principal components of the deviations from the mean; its diagonal has the
    remaining marginal variances. ``full_gaussian`` has the covariance matrix of the samples (for S single networks, of
    rank at most S - 1).

    Args:
        samples: As for `align_samples`; at least two.
        spec: Permutation symmetries of the network.
        kind: Representation of the summary: ``diagonal_gaussian``, ``low_rank_gaussian`` or ``full_gaussian``.
        rank: Number of rows of the factor of a ``low_rank_gaussian``, at least 1; at most the number of samples minus
            1 is used.
        reference: Index of the sample that all others are matched with; None for joint alignment.
        matcher: A registered name, a mapping with ``name`` and options, or an instance.
        symmetry: The symmetries to align modulo, for matchers with the option ``symmetry``: ``permutation``, ``full``,
            or a tuple of kinds. The matcher's own option if None.
        generator: Random number generator; seeded with 0 if None.
        progress: Whether to show a progress bar.

    Returns:
        The posterior and the aligned samples.

    Raises:
        InvalidInputError: If there are fewer than two samples, ``rank`` is below 1, or ``kind`` is unknown.

    References:
        T. Xiao, W. Liu, R. Bamler (2024), "A compact representation for Bayesian neural networks by removing
        permutation symmetry", arXiv 2401.00611.
    """
    require_spec(spec)
    given = as_mixture(samples, spec, None)
    count = len(given.weights)
    if kind not in get_args(SummaryKind) or count < 2 or rank < 1:
        message = (
            f"expected at least two samples, `rank` of at least 1 and `kind` among {get_args(SummaryKind)}, got "
            f"{count}, {rank!r} and {kind!r}"
        )
        raise InvalidInputError(message)
    aligned = align_samples(
        given,
        spec,
        reference=reference,
        matcher=matcher,
        symmetry=symmetry,
        generator=generator,
        progress=progress,
    )
    return Summary(gaussian_summary(aligned.samples, kind, rank), aligned)


def as_mixture(samples: SamplesLike, spec: PermutationSpec | None, task: Task | None) -> AbstractMixture:
    """Return a collection of networks as one posterior.

    Args:
        samples: As for `align_samples`.
        spec: Permutation symmetries of the network, or None.
        task: Task with the network module, or None.

    Returns:
        A `SamplesPosterior` if all are single networks, else a mixture.

    Raises:
        InvalidInputError: If ``samples`` is one network, or empty.
    """
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
