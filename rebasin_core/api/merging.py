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
from rebasin_core.evaluation.user_metrics import as_metric
from rebasin_core.merging.base import MergeMethod
from rebasin_core.merging.mean import MeanMerge
from rebasin_core.merging.streaming import StreamingMerge
from rebasin_core.plugin.registry import default_registry
from rebasin_core.posteriors.barycenters import barycenter, barycenter_or_moments
from rebasin_core.posteriors.checks import require_same_tensors
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.specs.base import require_spec
from rebasin_core.tensors.arguments import require_sequence
from rebasin_core.tensors.files import write_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch
    from torch import nn

    from rebasin_core.evaluation.effect import AlignmentEffect, Keep
    from rebasin_core.evaluation.task import Task
    from rebasin_core.evaluation.user_metrics import MetricLike
    from rebasin_core.matchers.base import Matcher, MatchResult
    from rebasin_core.posteriors.averaging import Weights
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.permutation import GroupElement

RepairName: TypeAlias = Literal["reset", "repair"]


@final
@dataclass(frozen=True, slots=True)
class Merged:
    """Result of merging several networks or posteriors.

    Attributes:
        posterior: The merged network or posterior.
        permutations: Permutation that was applied to each member; the identity for the reference. With a matcher that
            also finds linear maps, it is a `SymmetryElement`.
        members: Indices of the merged networks in the input, in the order in which they were added.
        is_barycenter: Whether `posterior` is the 2-Wasserstein barycenter. It is false for methods other than ``mean``,
            and if no barycenter is registered for these classes of posteriors; then it is their `moment_barycenter`.
        effects: For each network, the loss at the midpoint between it and the reference (or the base), before and after
            the matcher's alignment. None for the reference, without data, and if the loss could not be evaluated.
    """

    posterior: Posterior
    permutations: tuple[GroupElement, ...]
    members: tuple[int, ...]
    is_barycenter: bool = True
    effects: tuple[AlignmentEffect | None, ...] = ()


def merge(  # ruff: ignore[too-many-arguments] - the problem's parts, keyword-only after the second
    networks: Sequence[PosteriorLike],
    spec: PermutationSpec,
    *,
    method: MergeMethod | str | Mapping[str, object] = "mean",
    base: PosteriorLike | None = None,
    matcher: Matcher | str | Mapping[str, object] | None = "wasserstein",
    reference: int = 0,
    weights: Weights | None = None,
    seed: int = 0,
    repair: RepairName | None = None,
    task: Task | None = None,
    keep: Keep = "best",
    generator: torch.Generator | None = None,
) -> Merged:
    """Merge two or more networks or posteriors: align them with one of them or with their base, and merge.

    The method ``mean`` is the 2-Wasserstein barycenter: for single networks, the mean of the parameters. If no
    barycenter is registered for these classes of posteriors, it is their `moment_barycenter`, and
    `Merged.is_barycenter` is false. The other methods merge single networks, tensor by tensor.

    Args:
        networks: At least one network or posterior; anything that `as_posterior` accepts.
        spec: Permutation symmetries of the network. They are not checked here; see `check_spec`.
        method: Merge method: a registered name (``mean``, ``task_arithmetic``, ``ties``, ``dare``, ``slerp``,
            ``karcher``, ``model_stock``, ...), a mapping with ``name`` and options, or an instance.
        base: Network from which the others were fine-tuned, for methods that merge differences from it. All networks
            are then aligned with the base.
        matcher: A registered name, a mapping with ``name`` and options, or an instance; None to merge without
            alignment.
        reference: Index of the network that all others are aligned with; 0 if there is a ``base``.
        weights: Weight of each network, or a mapping from patterns of tensor names to such weights (layer-wise). If
            None, 1 for each; most methods normalize weights to sum 1 (`MergeMethod.weighting`).
        seed: Seed of methods with random numbers (``dare``).
        repair: ``reset`` recomputes batch-normalization statistics. ``repair`` (REPAIR) first rescales each unit to the
            average of the networks' activation means and standard deviations (with ``weights``, unless they are
            coefficients). For single networks; needs ``task``.
        task: Network module and data, for the repair and for matchers that run the network. Statistics are computed
            from its calibration data.
        keep: With a ``task``, as for `align`: ``best`` merges the unpermuted network, with an `AlignmentWarning`, if
            its alignment raises the loss at the midpoint; ``aligned`` always merges the aligned network.
        generator: Random number generator of the matcher; seeded with 0 if None.

    Returns:
        The merged posterior, and the permutations.

    Raises:
        InvalidInputError: If networks do not fit each other, the specification or the method, the base is missing or
            superfluous, or ``repair`` lacks a ``task``.

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
    strategy = as_merge_method(method)
    model = model_of(task)
    require_sequence(networks, "several networks or posteriors")
    every = as_posteriors([*networks, *([] if base is None else [base])], model=model, spec=spec)
    posteriors = every if base is None else every[:-1]
    center = reference if base is None else len(posteriors)
    if not 0 <= reference < len(posteriors) or (base is not None and reference != 0):
        message = (
            f"expected at least one network, and the index of one as `reference` (0 with a base); got "
            f"{len(posteriors)} networks{'' if base is None else ', a base'} and {reference!r}"
        )
        raise InvalidInputError(message)
    strategy.require_inputs(len(posteriors), has_base=base is not None)
    held = None if task is None else task.held()
    aligned = [_Aligned(posterior, spec.identity()) for posterior in posteriors]
    if matcher is not None:
        for index, posterior in enumerate(posteriors):
            if index != center:
                found = as_matcher(matcher).match(every[center], posterior, spec, task=held, generator=generator)
                aligned[index] = _selected(found, every[center], posterior, held, keep)
    networks_to_merge = [own.posterior for own in aligned]
    if strategy == MeanMerge():
        result, is_barycenter = barycenter_or_moments(networks_to_merge, weights)
    else:
        result = _merged_points(strategy, networks_to_merge, weights, None if base is None else every[-1], seed)
        is_barycenter = False
    if repair is not None:
        shares = None if strategy.weighting == "coefficients" else weights
        result = with_repair(networks_to_merge, result, repair, shares, held)
    return Merged(
        result,
        tuple(own.permutation for own in aligned),
        tuple(range(len(posteriors))),
        is_barycenter,
        tuple(own.effect for own in aligned),
    )


@final
@dataclass(frozen=True, slots=True)
class _Aligned:
    """A network with the permutation that was applied to it, and the effect of the alignment if it was estimated."""

    posterior: Posterior
    permutation: GroupElement
    effect: AlignmentEffect | None = None


def as_merge_method(method: MergeMethod | str | Mapping[str, object]) -> MergeMethod:
    """Return a merge method.

    Args:
        method: A registered name, a mapping with ``name`` and options, or an instance.

    Returns:
        The method.

    Raises:
        UnknownNameError: If no method has that name.
        ConfigError: If options are invalid.
    """
    if isinstance(method, MergeMethod):
        return method
    built: MergeMethod = default_registry().build("merge_method", method)
    return built


def _selected(
    found: MatchResult, reference: Posterior, posterior: Posterior, task: Task | None, keep: Keep
) -> _Aligned:
    """Return the network with the permutation that ``keep`` selects."""
    effect = None
    if task is not None:
        found, effect = select_alignment(found, reference, posterior, task, keep)
    return _Aligned(found.apply(posterior), found.group_element, effect)


def _merged_points(
    method: MergeMethod, aligned: Sequence[Posterior], weights: Weights | None, base: Posterior | None, seed: int
) -> PointPosterior:
    """Merge single networks; raise if one is a posterior, or their tensors differ."""
    every = [*aligned, *([] if base is None else [base])]
    for posterior in every:
        if not posterior.is_point:
            message = (
                f"expected single networks for the merge method {method.name!r}, got a {posterior.kind!r} posterior; "
                "merge posteriors by the method 'mean', or pass their means"
            )
            raise InvalidInputError(message)
        require_same_tensors(every[0].shared_mean(), posterior.shared_mean(), "a network")
        require_same_tensors(every[0].buffers, posterior.buffers, "the buffers of a network")
    tensors = [{**posterior.shared_mean(), **posterior.buffers} for posterior in every]
    buffers = every[0].buffers
    merge_of = StreamingMerge(
        method,
        [own.__getitem__ for own in tensors[: len(aligned)]],
        weights=weights,
        base=None if base is None else tensors[-1].__getitem__,
        buffers=buffers,
        seed=seed,
    )
    return PointPosterior(dict(merge_of.tensors(every[0].shared_mean())), buffers=dict(merge_of.tensors(buffers)))


def with_repair(
    aligned: Sequence[Posterior], merged: Posterior, repair: RepairName, weights: Weights | None, task: Task | None
) -> PointPosterior:
    """Return a merged network with corrected activation statistics (REPAIR) and batch-normalization statistics.

    Args:
        aligned: The networks that were merged.
        merged: The merged network.
        repair: As for `merge`.
        weights: Weights of the networks; equal if None.
        task: Network module and data.

    Returns:
        The corrected network.

    Raises:
        InvalidInputError: If ``repair`` is unknown, there is no task, or the merged posterior is not a single network.
    """
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
    metric: MetricLike = "nll",
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
        metric: Metric that must not increase: a name, such as ``nll``, ``error`` or ``brier``, or any other value that
            `as_metric` accepts.
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
    measure = as_metric(metric)
    evaluator = Evaluator(held, posteriors[0], num_samples=num_samples)

    def loss(posterior: Posterior) -> float:
        return evaluator.loss(posterior, metric=measure, groups=1).loss

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
