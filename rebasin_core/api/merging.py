"""Many networks, or posteriors, made one: aligned, averaged, repaired, saved as an ordinary checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, final, get_args

from safetensors.torch import save

from rebasin_core.api.conversion import PosteriorLike, as_posterior
from rebasin_core.api.matching import as_matcher
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.evaluator import Evaluator
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.evaluation.normalization import BatchStatistics
from rebasin_core.evaluation.predictive import held_batches
from rebasin_core.evaluation.repair import ActivationMoments, ActivationRepair
from rebasin_core.posteriors.barycenter import barycenter, barycenter_or_moments
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.tensors.files import write_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from rebasin_core.evaluation.likelihood import Likelihood
    from rebasin_core.evaluation.metric import Metric
    from rebasin_core.evaluation.predictive import Batches
    from rebasin_core.matchers.base import Matcher
    from rebasin_core.posteriors.averaging import Weights
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.permutation import Permutation

RepairName: TypeAlias = Literal["reset", "repair"]


@final
@dataclass(frozen=True, slots=True)
class Merged:
    """Several networks or posteriors made one.

    Attributes:
        posterior: The merged one.
        permutations: How each was moved before; the reference by the identity.
        members: Their numbers among those given, in the order in which they were taken.
        is_barycenter: Whether the members were averaged by their 2-Wasserstein barycenter. False where none is
            registered for these kinds of posteriors: then `posterior` is their `moment_barycenter`.
    """

    posterior: Posterior
    permutations: tuple[Permutation, ...]
    members: tuple[int, ...]
    is_barycenter: bool = True


def merge(  # ruff: ignore[too-many-arguments] - the problem's parts, keyword-only after the second
    networks: Sequence[PosteriorLike],
    spec: PermutationSpec,
    *,
    matcher: Matcher | str | Mapping[str, object] | None = "weight",
    reference: int = 0,
    weights: Weights | None = None,
    repair: RepairName | None = None,
    model: nn.Module | None = None,
    data: Batches | None = None,
    generator: torch.Generator | None = None,
) -> Merged:
    """Align networks or posteriors with one of them, and return their 2-Wasserstein barycenter: of points, the mean.

    Where no barycenter is registered for these kinds of posteriors, their means and standard deviations are averaged
    (`moment_barycenter`); the result says so.

    Args:
        networks: At least one; each a posterior, or anything that `as_posterior` takes.
        spec: The symmetries of the network.
        matcher: A registered name, a mapping with ``name`` and options, an instance; None averages them as they are.
        reference: The number of the one that stays.
        weights: One a network, or such by pattern of the tensors' names (layer-wise); equal if not given.
        repair: ``reset`` takes batch-normalisation statistics anew, ``repair`` gives every unit the averaged mean and
            standard deviation of its activations (REPAIR) and then does so. For points; needs ``model`` and ``data``.
        model: The network.
        data: Batches ``(inputs, targets)``, for the repair and for matchers that need data.
        generator: Source of randomness; a fixed seed if not given.

    Returns:
        The merged posterior, and how each was moved.

    Raises:
        InvalidInputError: If networks do not fit each other or the specification, or something needed is missing.

    References:
        S. Ainsworth et al. (2023), "Git Re-Basin", ICLR, arXiv 2209.04836; M. Wortsman et al. (2022), "Model soups",
        ICML, arXiv 2203.05482 (averages of many).

    Example:
        >>> import torch
        >>> from rebasin_core import table_spec
        >>> a = {"in": torch.tensor([[1.0], [2.0]]), "out": torch.tensor([[1.0, 2.0]])}
        >>> b = {"in": torch.tensor([[4.0], [1.0]]), "out": torch.tensor([[4.0, 1.0]])}
        >>> merged = merge([a, b], table_spec({"in": "hidden, -", "out": "-, hidden"}, a))
        >>> merged.posterior.mean["in"].flatten().tolist()
        [1.0, 3.0]
    """
    posteriors = [as_posterior(network, model=model) for network in networks]
    if not 0 <= reference < len(posteriors):
        message = f"expected at least one network and a reference among them, got {len(posteriors)} and {reference}"
        raise InvalidInputError(message)
    held = None if data is None else list(data)
    moved, permutations = list(posteriors), [spec.identity()] * len(posteriors)
    if matcher is not None:
        strategy = as_matcher(matcher)
        for number, posterior in enumerate(posteriors):
            if number != reference:
                found = strategy.match(
                    posteriors[reference], posterior, spec, model=model, data=held, generator=generator
                )
                permutations[number], moved[number] = found.permutation, found.apply(posterior)
    result, is_barycenter = barycenter_or_moments(moved, weights)
    if repair is not None:
        result = _repaired(moved, result, repair, weights, model, held)
    return Merged(result, tuple(permutations), tuple(range(len(posteriors))), is_barycenter)


def _repaired(  # ruff: ignore[too-many-positional-arguments] - private, called once
    moved: Sequence[Posterior],
    merged: Posterior,
    repair: RepairName,
    weights: Weights | None,
    model: nn.Module | None,
    data: Sequence[tuple[Tensor, Tensor]] | None,
) -> Posterior:
    if repair not in get_args(RepairName) or model is None or not data or not merged.is_point:
        message = (
            f"a repair among {get_args(RepairName)} needs points, `model` and `data`; got {repair!r} for a "
            f"{merged.kind!r} posterior"
        )
        raise InvalidInputError(message)
    device, dtype = merged.device, merged.dtype
    batches = held_batches(FunctionalModel(model, device=device, dtype=dtype), data)
    parameters, buffers = merged.mean, merged.buffers
    if repair == "repair":
        activations = ActivationRepair(model, batches[0][0][:2], device=device, dtype=dtype)
        moments = [activations.moments({**q.mean, **q.buffers}, batches) for q in moved]
        mean, stddev = (
            barycenter([PointPosterior(dict(getattr(m, part))) for m in moments], _plain(weights)).mean
            for part in ("mean", "stddev")
        )
        every = {**parameters, **buffers}
        folded = activations.maps(every, batches, ActivationMoments(mean, stddev)).folded(every)
        parameters = {name: folded[name] for name in parameters}
    statistics = BatchStatistics(model, device=device, dtype=dtype)
    if statistics:
        buffers = statistics.at(parameters, batches)
    return PointPosterior(parameters, buffers=buffers)


def _plain(weights: Weights | None) -> Sequence[float] | None:
    """Return weights for activations: those of the networks, if they are not layer-wise."""
    return None if weights is None or hasattr(weights, "keys") else list(weights)


def greedy_soup(  # ruff: ignore[too-many-arguments] - the problem's parts, keyword-only after the second
    networks: Sequence[PosteriorLike],
    spec: PermutationSpec,
    *,
    model: nn.Module,
    validation: Batches,
    matcher: Matcher | str | Mapping[str, object] | None = "weight",
    likelihood: Likelihood | str = "categorical",
    metric: Metric | str = "nll",
    num_samples: int = 16,
    generator: torch.Generator | None = None,
) -> Merged:
    """Average networks greedily: from the best on, each is taken if the average does not get worse on held-out data.

    Args:
        networks: At least one.
        spec: The symmetries of the network.
        model: The network.
        validation: Batches ``(inputs, targets)`` that none of them was trained on.
        matcher: Moves each onto the best one; None averages them as they are.
        likelihood: An instance or a name.
        metric: The metric that must not get worse: an instance or a name, such as ``nll``, ``error`` or ``brier``.
        num_samples: Networks drawn of each posterior; points need one.
        generator: Source of randomness; a fixed seed if not given.

    Returns:
        The average, and the members that are in it.

    Raises:
        InvalidInputError: If networks do not fit each other, the specification or the data.

    References:
        M. Wortsman et al. (2022), "Model soups", ICML, arXiv 2203.05482, recipe 1.
    """
    posteriors = [as_posterior(network, model=model) for network in networks]
    if not posteriors:
        message = "expected at least one network, got none"
        raise InvalidInputError(message)
    held = list(validation)
    evaluator = Evaluator(model, held, posteriors[0], likelihood=likelihood, num_samples=num_samples)

    def loss(posterior: Posterior) -> float:
        return evaluator.loss(posterior, metric=metric, groups=1).loss

    losses = [loss(posterior) for posterior in posteriors]
    order = sorted(range(len(posteriors)), key=losses.__getitem__)
    aligned = merge(posteriors, spec, matcher=matcher, reference=order[0], model=model, data=held, generator=generator)
    moved = [p.apply(q) for p, q in zip(aligned.permutations, posteriors, strict=True)]
    members, best = [order[0]], losses[order[0]]
    for number in order[1:]:
        attempt = loss(barycenter_or_moments([moved[k] for k in (*members, number)])[0])
        if attempt <= best:
            members.append(number)
            best = attempt
    average, is_barycenter = barycenter_or_moments([moved[k] for k in members])
    return Merged(average, tuple(aligned.permutations[k] for k in members), tuple(members), is_barycenter)


def save_checkpoint(network: PosteriorLike, path: Path | str, *, model: nn.Module | None = None) -> None:
    """Write the mean of a posterior and its buffers as an ordinary safetensors checkpoint, atomically.

    The names are those of ``model.state_dict()``; ``safetensors.torch.load_file`` reads it.

    Args:
        network: A posterior, or anything that `as_posterior` takes.
        path: The file; replaced if it exists.
        model: The network, for objects that do not know the names of its parameters.

    Raises:
        StorageError: If it cannot be written.
    """
    posterior = as_posterior(network, model=model)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in {**posterior.mean, **posterior.buffers}.items()}
    write_bytes(path, save(tensors))
