"""Many networks, or posteriors, made one: aligned, averaged, repaired, saved as an ordinary checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, final, get_args

from safetensors.torch import save

from rebasin_core.api.alignment import judged
from rebasin_core.api.conversion import PosteriorLike, as_posterior, as_posteriors
from rebasin_core.api.matching import as_matcher
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.evaluator import Evaluator
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.evaluation.normalization import BatchStatistics
from rebasin_core.evaluation.predictive import held_batches
from rebasin_core.evaluation.repair import ActivationMoments, ActivationRepair
from rebasin_core.evaluation.task import model_of, require_task
from rebasin_core.posteriors.barycenters import barycenter, barycenter_or_moments
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.specs.base import require_spec
from rebasin_core.tensors.files import write_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch
    from torch import nn

    from rebasin_core.evaluation.effect import AlignmentEffect, Keep
    from rebasin_core.evaluation.metric import Metric
    from rebasin_core.evaluation.task import Task
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
        effects: For each network, what the permutation that was found for it does to the loss at the midpoint between
            it and the reference; None for the reference, and where no data were given or the data cannot tell.
    """

    posterior: Posterior
    permutations: tuple[Permutation, ...]
    members: tuple[int, ...]
    is_barycenter: bool = True
    effects: tuple[AlignmentEffect | None, ...] = ()


def merge(  # ruff: ignore[too-many-arguments] - the problem's parts, keyword-only after the second
    networks: Sequence[PosteriorLike],
    spec: PermutationSpec,
    *,
    matcher: Matcher | str | Mapping[str, object] | None = "wasserstein",
    reference: int = 0,
    weights: Weights | None = None,
    repair: RepairName | None = None,
    task: Task | None = None,
    keep: Keep = "best",
    generator: torch.Generator | None = None,
) -> Merged:
    """Align networks or posteriors with one of them, and return their 2-Wasserstein barycenter: of points, the mean.

    Where no barycenter is registered for these kinds of posteriors, their means and standard deviations are averaged
    (`moment_barycenter`); the result says so.

    Args:
        networks: At least one; each a posterior, or anything that `as_posterior` takes.
        spec: The symmetries of the network. They are trusted: `check_spec` checks them.
        matcher: A registered name, a mapping with ``name`` and options, an instance; None averages them as they are.
        reference: The number of the one that stays.
        weights: One a network, or such by pattern of the tensors' names (layer-wise); equal if not given.
        repair: ``reset`` takes batch-normalisation statistics anew, ``repair`` gives every unit the averaged mean and
            standard deviation of its activations (REPAIR) and then does so. For single networks; needs a ``task``.
        task: Network module and data, for the repair and for matchers that run the network. Statistics are computed
            from its calibration data.
        keep: With a task, ``best`` takes a network as it is, with an `AlignmentWarning`, where its alignment raises the
            loss at the midpoint; ``aligned`` takes the permutation that was found, with the warning. As for `align`.
        generator: Source of randomness; a fixed seed if not given.

    Returns:
        The merged posterior, and how each was moved.

    Raises:
        InvalidInputError: If networks do not fit each other or the specification, or something needed is missing.

    References:
        S. Ainsworth et al. (2023), "Git Re-Basin", ICLR, arXiv 2209.04836; M. Wortsman et al. (2022), "Model soups",
        ICML, arXiv 2203.05482 (averages of many).

    Examples:
        >>> import torch
        >>> from rebasin_core import table_spec
        >>> a = {"in": torch.tensor([[1.0], [2.0]]), "out": torch.tensor([[1.0, 2.0]])}
        >>> b = {"in": torch.tensor([[4.0], [1.0]]), "out": torch.tensor([[4.0, 1.0]])}
        >>> merged = merge([a, b], table_spec({"in": "hidden, -", "out": "-, hidden"}, a))
        >>> merged.posterior.mean["in"].flatten().tolist()
        [1.0, 3.0]
    """
    require_spec(spec)
    model = model_of(task)
    posteriors = as_posteriors(networks, model=model, spec=spec)
    if not 0 <= reference < len(posteriors):
        message = f"expected at least one network and a reference among them, got {len(posteriors)} and {reference}"
        raise InvalidInputError(message)
    held = None if task is None else task.held()
    aligned = list(posteriors)
    permutations = [spec.identity()] * len(posteriors)
    effects: list[AlignmentEffect | None] = [None] * len(posteriors)
    if matcher is not None:
        strategy = as_matcher(matcher)
        for number, posterior in enumerate(posteriors):
            if number != reference:
                found = strategy.match(posteriors[reference], posterior, spec, task=held, generator=generator)
                if held is not None:
                    found, effects[number] = judged(found, posteriors[reference], posterior, held, keep)
                permutations[number] = found.permutation
                aligned[number] = found.apply(posterior)
    result, is_barycenter = barycenter_or_moments(aligned, weights)
    if repair is not None:
        result = _repaired(aligned, result, repair, weights, held)
    return Merged(result, tuple(permutations), tuple(range(len(posteriors))), is_barycenter, tuple(effects))


def _repaired(
    aligned: Sequence[Posterior], merged: Posterior, repair: RepairName, weights: Weights | None, task: Task | None
) -> Posterior:
    """Return a merged network with recomputed statistics, of its units and of batch normalizations."""
    if repair not in get_args(RepairName) or task is None or not merged.is_point:
        message = (
            f"expected a repair among {get_args(RepairName)} of single networks, and a `task`; got {repair!r} for a "
            f"{merged.kind!r} posterior and {'no' if task is None else 'a'} task"
        )
        raise InvalidInputError(message)
    model = task.model
    device = merged.device
    dtype = merged.dtype
    batches = held_batches(FunctionalModel(model, device=device, dtype=dtype), task.fitting_data)
    parameters = merged.mean
    buffers = merged.buffers
    if repair == "repair":
        activations = ActivationRepair(model, batches[0][0][:2], device=device, dtype=dtype)
        moments = [activations.moments({**q.mean, **q.buffers}, batches) for q in aligned]
        mean = barycenter([PointPosterior(dict(m.mean)) for m in moments], _plain(weights)).mean
        stddev = barycenter([PointPosterior(dict(m.stddev)) for m in moments], _plain(weights)).mean
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


def greedy_soup(  # ruff: ignore[too-many-arguments] - all but three have defaults
    networks: Sequence[PosteriorLike],
    spec: PermutationSpec,
    task: Task,
    *,
    matcher: Matcher | str | Mapping[str, object] | None = "wasserstein",
    metric: Metric | str = "nll",
    num_samples: int = 16,
    generator: torch.Generator | None = None,
) -> Merged:
    """Average networks greedily: from the best on, each is taken if the average does not get worse on held-out data.

    Args:
        networks: At least one.
        spec: The symmetries of the network.
        task: Network module and held-out data, on which none of the networks was trained.
        matcher: Moves each onto the best one; None averages them as they are.
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
    require_task(task)
    posteriors = as_posteriors(networks, model=task.model, spec=spec)
    if not posteriors:
        message = "expected at least one network, got none"
        raise InvalidInputError(message)
    held = task.held()
    evaluator = Evaluator(held, posteriors[0], num_samples=num_samples)

    def loss(posterior: Posterior) -> float:
        return evaluator.loss(posterior, metric=metric, groups=1).loss

    losses = [loss(posterior) for posterior in posteriors]
    order = sorted(range(len(posteriors)), key=losses.__getitem__)
    merged = merge(posteriors, spec, matcher=matcher, reference=order[0], task=held, generator=generator)
    aligned = [p.apply(q) for p, q in zip(merged.permutations, posteriors, strict=True)]
    members = [order[0]]
    best = losses[order[0]]
    for number in order[1:]:
        attempt = loss(barycenter_or_moments([aligned[k] for k in (*members, number)])[0])
        if attempt <= best:
            members.append(number)
            best = attempt
    average, is_barycenter = barycenter_or_moments([aligned[k] for k in members])
    return Merged(average, tuple(merged.permutations[k] for k in members), tuple(members), is_barycenter)


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
