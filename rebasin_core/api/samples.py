"""Many modes made one: samples aligned with each other, and summarised in one compact posterior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, final, get_args

import torch
from tqdm import tqdm

from rebasin_core.api.many import match_many
from rebasin_core.api.matching import as_matcher
from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.diagonal_gaussian import DiagonalGaussianPosterior
from rebasin_core.posteriors.full_gaussian import FullGaussianPosterior
from rebasin_core.posteriors.low_rank_gaussian import LowRankGaussianPosterior
from rebasin_core.posteriors.mixture import MixturePosterior
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.posteriors.samples import SamplesPosterior

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from rebasin_core.evaluation.predictive import Batches
    from rebasin_core.matchers.base import Matcher
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.posteriors.companions import CompanionOptions
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.permutation import Permutation

SummaryKind: TypeAlias = Literal["diagonal_gaussian", "low_rank_gaussian", "full_gaussian"]


@final
@dataclass(frozen=True, slots=True)
class AlignedSamples:
    r"""Samples moved onto each other.

    Attributes:
        samples: The moved samples: of the same function each, and so of the same predictive distribution.
        permutations: How each was moved, into one common order: from sample $a$ to sample $b$ it is the first's
            permutation and then the inverse of the second's, and around any circle these compose to the identity.
        spread: The mean squared distance of samples from their mean, before the first round and after each.
    """

    samples: SamplesPosterior
    permutations: tuple[Permutation, ...]
    spread: tuple[float, ...]


@final
@dataclass(frozen=True, slots=True)
class Summary:
    """A compact posterior in the place of many samples.

    Attributes:
        posterior: The posterior, with the mean and the marginal standard deviations of the aligned samples.
        aligned: The samples it summarises.
    """

    posterior: Posterior
    aligned: AlignedSamples


def align_samples(  # ruff: ignore[too-many-arguments] - the problem's parts, keyword-only after the second
    samples: SamplesPosterior | MixturePosterior | Sequence[Mapping[str, Tensor]],
    spec: PermutationSpec,
    *,
    reference: int | None = None,
    matcher: Matcher | str | Mapping[str, object] = "weight",
    max_rounds: int = 10,
    model: nn.Module | None = None,
    data: Batches | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> AlignedSamples:
    """Move the members of an ensemble, or the draws of chains, onto each other.

    With a ``reference``, every sample is matched with that one. Without, all find a common order, as by `match_many`.
    Samples that symmetries may permute (of a posterior under an exchangeable prior) are as good afterwards as before.

    Args:
        samples: Samples, points as components of a mixture, or parameters of several networks.
        spec: The symmetries of the network.
        reference: The number of the sample that all are matched with; None for a common order.
        matcher: A registered name, a mapping with ``name`` and options, or an instance.
        max_rounds: Most rounds of matching with the mean of the others.
        model: The network, for matchers that run it.
        data: Batches ``(inputs, targets)``, for matchers that need data.
        generator: Source of randomness; a fixed seed if not given.
        progress: Whether to show a progress bar.

    Returns:
        The aligned samples.

    Raises:
        InvalidInputError: If the samples do not fit the specification, or there is no such reference.

    Example:
        >>> from rebasin_core import table_spec
        >>> a = {"in": torch.tensor([[1.0], [2.0]]), "out": torch.tensor([[1.0, 2.0]])}
        >>> b = {"in": torch.tensor([[2.0], [1.0]]), "out": torch.tensor([[2.0, 1.0]])}
        >>> found = align_samples([a, b], table_spec({"in": "hidden, -", "out": "-, hidden"}, a))
        >>> found.spread[0], found.spread[-1]
        (1.0, 0.0)
    """
    given = _as_samples(samples)
    if reference is not None and not 0 <= reference < given.num_samples:
        message = f"expected a reference from 0 to {given.num_samples - 1}, got {reference!r}"
        raise InvalidInputError(message)
    generator = generator or torch.Generator().manual_seed(0)
    if reference is None:
        found = match_many(
            given,
            spec,
            matcher=matcher,
            max_rounds=max_rounds,
            model=model,
            data=data,
            generator=generator,
            progress=progress,
        )
        return AlignedSamples(given.permute_each(found.permutations), found.permutations, found.trace)
    strategy, target = as_matcher(matcher), given.member(reference)
    permutations = tuple(
        strategy.match(target, given.member(k), spec, model=model, data=data, generator=generator).permutation.to("cpu")
        for k in tqdm(range(given.num_samples), desc="align samples", leave=False, disable=not progress)
    )
    aligned = given.permute_each(permutations)
    return AlignedSamples(aligned, permutations, (_spread(given), _spread(aligned)))


def summarise(  # ruff: ignore[too-many-arguments] - the problem's parts, keyword-only after the second
    samples: SamplesPosterior | MixturePosterior | Sequence[Mapping[str, Tensor]],
    spec: PermutationSpec,
    *,
    kind: SummaryKind = "diagonal_gaussian",
    rank: int = 10,
    reference: int | None = None,
    matcher: Matcher | str | Mapping[str, object] = "weight",
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Summary:
    r"""Return one compact posterior for an ensemble or for chains, after aligning them.

    The mean and the marginal standard deviations are those of the aligned samples. ``low_rank_gaussian`` keeps the
    first principal directions of the deviations as factor, and puts what they leave of the marginal variances into the
    diagonal; ``full_gaussian`` keeps all deviations (its covariance has the rank of the samples).

    Args:
        samples: Samples, points as components of a mixture, or parameters of several networks.
        spec: The symmetries of the network.
        kind: Of the summary.
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
    given = _as_samples(samples)
    if kind not in get_args(SummaryKind) or given.num_samples < 2 or rank < 1:  # ruff: ignore[magic-value-comparison] - a spread needs two
        message = (
            f"expected at least two samples, a rank of at least 1 and a kind among {get_args(SummaryKind)}, got "
            f"{given.num_samples}, {rank!r} and {kind!r}"
        )
        raise InvalidInputError(message)
    aligned = align_samples(given, spec, reference=reference, matcher=matcher, generator=generator, progress=progress)
    return Summary(_gaussian(aligned.samples, kind, rank), aligned)


def _gaussian(samples: SamplesPosterior, kind: SummaryKind, rank: int) -> Posterior:
    names = samples.random_names
    mean, stddev = ({n: part[n] for n in names} for part in (samples.mean, samples.stddev))
    fixed = {name: tensor for name, tensor in samples.mean.items() if name not in names}
    rest: CompanionOptions = {"fixed": fixed, "buffers": samples.buffers, "prior": None}
    if kind == "diagonal_gaussian":
        return DiagonalGaussianPosterior(mean, stddev, **rest)
    root = samples.weights.sqrt()
    rows = {
        name: root.to(tensor).reshape(-1, *[1] * mean[name].dim()) * (tensor - mean[name])
        for name, tensor in samples.samples.items()
    }
    if kind == "full_gaussian":
        return FullGaussianPosterior(mean, rows, **rest)
    gram = sum(t.reshape(len(t), -1).double() @ t.reshape(len(t), -1).double().T for t in rows.values())
    _, vectors = torch.linalg.eigh(torch.as_tensor(gram))
    keep = min(rank, samples.num_samples - 1)
    directions = vectors[:, -keep:].T.flip(0)  # of falling variance
    factor = {n: torch.tensordot(directions.to(t), t, dims=1) for n, t in rows.items()}
    diagonal = {n: (s.square() - factor[n].square().sum(0)).clamp_min(0).sqrt() for n, s in stddev.items()}
    return LowRankGaussianPosterior(mean, diagonal, factor, **rest)


def _as_samples(
    samples: SamplesPosterior | MixturePosterior | Sequence[Mapping[str, Tensor]],
) -> SamplesPosterior:
    """Return any collection of networks as samples."""
    if isinstance(samples, SamplesPosterior):
        return samples
    weights: Tensor | None = None
    if isinstance(samples, MixturePosterior):
        points, weights = list(samples.components), samples.weights
        strangers = sorted({q.kind for q in points if not isinstance(q, PointPosterior)})
        if strangers:
            message = f"expected points as components, got {strangers}; draw samples of them"
            raise InvalidInputError(message)
    else:
        points = [PointPosterior(dict(tensors)) for tensors in samples]
    if not points:
        message = "expected at least one sample, got none"
        raise InvalidInputError(message)
    means, buffers = [q.mean for q in points], [q.buffers for q in points]
    return SamplesPosterior(
        {name: torch.stack([mean[name] for mean in means]) for name in means[0]},
        sample_buffers={name: torch.stack([own[name] for own in buffers]) for name in buffers[0]},
        weights=weights,
    )


def _spread(samples: SamplesPosterior) -> float:
    return sum(tensor.double().square().sum().item() for tensor in samples.stddev.values())
