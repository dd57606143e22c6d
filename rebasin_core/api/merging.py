"""Merging of networks or posteriors: align, average, repair, and save as an ordinary checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, final, get_args

from safetensors.torch import save

from rebasin_core.api.alignment import select_alignment
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
    """Average of several networks or posteriors.

    Attributes:
        posterior: The merged network or posterior.
        permutations: Permutation that was applied to each member; the identity for the reference.
        members: Indices of the averaged networks in the input, in the order in which they were added.
        is_barycenter: Whether `posterior` is the 2-Wasserstein barycenter. If none is registered for these classes of
            posteriors, it is false and `posterior` is their `moment_barycenter`.
        effects: For each network, the loss at the midpoint between it and the reference, before and after the matcher's
            alignment. None for the reference, without data, and if the loss could not be evaluated.
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
    """Merge two or more networks or posteriors: align them with one of them, and average.

    The average is the 2-Wasserstein barycenter: for single networks, the mean of the parameters. If no barycenter is
    registered for these classes of posteriors, it is their `moment_barycenter`, and `Merged.is_barycenter` is false.

    Args:
        networks: At least one network or posterior; anything that `as_posterior` accepts.
        spec: Permutation symmetries of the network. They are not checked here; see `check_spec`.
        matcher: A registered name, a mapping with ``name`` and options, or an instance; None to average without
            alignment.
        reference: Index of the network that all others are aligned with.
        weights: Weight of each network, or a mapping from patterns of tensor names to such weights (layer-wise); equal
            if None.
        repair: ``reset`` recomputes batch-normalization statistics. ``repair`` (REPAIR) first rescales each unit to the
            average of the networks' activation means and standard deviations. For single networks; needs ``task``.
        task: Network module and data, for the repair and for matchers that run the network. Statistics are computed
            from its calibration data.
        keep: With a ``task``, as for `align`: ``best`` averages the unpermuted network, with an `AlignmentWarning`, if
            its alignment raises the loss at the midpoint; ``aligned`` always averages the aligned network.
        generator: Random number generator of the matcher; seeded with 0 if None.

    Returns:
        The merged posterior, and the permutations.

    Raises:
        InvalidInputError: If networks do not fit each other or the specification, or ``repair`` lacks a ``task``.

    References:
        S. Ainsworth et al. (2023), "Git Re-Basin", ICLR, arXiv 2209.04836. M. Wortsman et al. (2022), "Model soups",
        ICML, arXiv 2203.05482 (averages of many networks). K. Jordan et al. (2023), "REPAIR: REnormalizing Permuted
        Activations for Interpolation Repair", ICLR, arXiv 2211.08403.

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
        message = (
            f"expected at least one network, and the index of one as `reference`; got {len(posteriors)} networks and "
            f"{reference!r}"
        )
        raise InvalidInputError(message)
    held = None if task is None else task.held()
    aligned = list(posteriors)
    permutations = [spec.identity()] * len(posteriors)
    effects: list[AlignmentEffect | None] = [None] * len(posteriors)
    if matcher is not None:
        strategy = as_matcher(matcher)
        for index, posterior in enumerate(posteriors):
            if index != reference:
                found = strategy.match(posteriors[reference], posterior, spec, task=held, generator=generator)
                if held is not None:
                    found, effects[index] = select_alignment(found, posteriors[reference], posterior, held, keep)
                permutations[index] = found.permutation
                aligned[index] = found.apply(posterior)
    result, is_barycenter = barycenter_or_moments(aligned, weights)
    if repair is not None:
        result = _repaired(aligned, result, repair, weights, held)
    return Merged(result, tuple(permutations), tuple(range(len(posteriors))), is_barycenter, tuple(effects))


def _repaired(
    aligned: Sequence[Posterior], merged: Posterior, repair: RepairName, weights: Weights | None, task: Task | None
) -> Posterior:
    """Return a merged network with corrected activation statistics (REPAIR) and batch-normalization statistics."""
    if repair not in get_args(RepairName) or task is None or not merged.is_point:
        message = (
            f"expected `repair` among {get_args(RepairName)}, single networks and a `task`; got {repair!r} for a "
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
    """Return the weights for averaging activation statistics: equal if those of the networks are layer-wise."""
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
    """Average networks greedily on held-out data (greedy soup).

    All networks are aligned with the best one. Starting from it, in order of increasing loss, a network is added if the
    average does not become worse.

    Args:
        networks: At least one network or posterior; anything that `as_posterior` accepts.
        spec: Permutation symmetries of the network.
        task: Network module and held-out data, on which none of the networks was trained.
        matcher: A registered name, a mapping with ``name`` and options, or an instance; None to average without
            alignment.
        metric: Metric that must not increase: an instance or a name, such as ``nll``, ``error`` or ``brier``.
        num_samples: Number of samples of each posterior, at least 1; a single network is run once.
        generator: Random number generator of the matcher; seeded with 0 if None.

    Returns:
        The average, with the indices of its members.

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
    for index in order[1:]:
        attempt = loss(barycenter_or_moments([aligned[k] for k in (*members, index)])[0])
        if attempt <= best:
            members.append(index)
            best = attempt
    average, is_barycenter = barycenter_or_moments([aligned[k] for k in members])
    return Merged(average, tuple(merged.permutations[k] for k in members), tuple(members), is_barycenter)


def save_checkpoint(network: PosteriorLike, path: Path | str, *, model: nn.Module | None = None) -> None:
    """Write the mean of a posterior and its buffers to an ordinary safetensors checkpoint, atomically.

    Tensors are named as in ``model.state_dict()``; read the file with ``safetensors.torch.load_file``.

    Args:
        network: Network or posterior; anything that `as_posterior` accepts.
        path: The file; replaced if it exists.
        model: The network, for inputs that need it in `as_posterior`.

    Raises:
        StorageError: If the file cannot be written.
    """
    posterior = as_posterior(network, model=model)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in {**posterior.mean, **posterior.buffers}.items()}
    write_bytes(path, save(tensors))
