"""Beyond one pair: barriers between all pairs, and from the middle to each."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, final

import torch
from tqdm import tqdm

from rebasin_core.api.conversion import PosteriorLike, as_posteriors
from rebasin_core.api.evaluation import barrier
from rebasin_core.api.matching import match
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.task import require_task
from rebasin_core.posteriors.barycenters import barycenter_or_moments

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.barriers.base import BarrierEstimator
    from rebasin_core.barriers.curve import LossCurve
    from rebasin_core.evaluation.task import Task
    from rebasin_core.matchers.base import Matcher
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import PermutationSpec


@final
@dataclass(frozen=True, slots=True)
class BarrierMatrix:
    """The barriers between all pairs of several networks or posteriors.

    Attributes:
        unaligned: ``[K, K]``: heights as they are; zero on the diagonal.
        unaligned_stderr: ``[K, K]``: their Monte Carlo standard errors.
        aligned: ``[K, K]``: heights after the second of each pair was matched with the first; None without a matcher.
        aligned_stderr: ``[K, K]``.
    """

    unaligned: Tensor
    unaligned_stderr: Tensor
    aligned: Tensor | None
    aligned_stderr: Tensor | None


def barrier_matrix(
    networks: Sequence[PosteriorLike],
    task: Task,
    *,
    spec: PermutationSpec | None = None,
    matcher: Matcher | str | Mapping[str, object] = "wasserstein",
    estimator: BarrierEstimator | str | Mapping[str, object] | None = None,
    progress: bool = False,
    **options: Any,  # ruff: ignore[any-type] - those of `barrier`
) -> BarrierMatrix:
    """Return the barriers between all pairs, unaligned and, with a specification, aligned.

    Args:
        networks: At least two networks or posteriors.
        task: The model, data and likelihood; matchers that need data use its calibration data.
        spec: Permutation symmetries; None for unaligned barriers only.
        matcher: Aligns the second of each pair with the first.
        estimator: As for `barrier`.
        progress: Whether to show a progress bar.
        **options: Further arguments of `barrier`: ``num_points``, ``num_samples``, ``path``, ``metric``.

    Returns:
        The matrices.

    Raises:
        InvalidInputError: If there are fewer than two networks, or they do not fit each other.
    """
    require_task(task)
    posteriors = as_posteriors(networks, model=task.model)
    if len(posteriors) < 2:
        message = f"expected at least two networks, got {len(posteriors)}"
        raise InvalidInputError(message)
    held = task.held()
    count = len(posteriors)
    found = {kind: torch.zeros((2, count, count), dtype=torch.float64) for kind in ("unaligned", "aligned")}

    def note(kind: str, i: int, j: int, curve: LossCurve) -> None:
        values = torch.tensor([curve.height, curve.height_stderr], dtype=torch.float64)
        found[kind][:, i, j] = found[kind][:, j, i] = values

    pairs = list(combinations(range(count), 2))
    for i, j in tqdm(pairs, desc="pairs", leave=False, disable=not progress):
        first = posteriors[i]
        second = posteriors[j]
        note("unaligned", i, j, barrier(first, second, held, estimator=estimator, **options))
        if spec is not None:
            aligned = match(first, second, spec, matcher, task=held).apply(second)
            note("aligned", i, j, barrier(first, aligned, held, estimator=estimator, **options))
    heights = found["aligned"] if spec is not None else (None, None)
    return BarrierMatrix(found["unaligned"][0], found["unaligned"][1], heights[0], heights[1])


@final
@dataclass(frozen=True, slots=True)
class Star:
    """The barriers from the barycenter of several posteriors to each of them.

    Attributes:
        center: The barycenter.
        curves: The loss from the center to each.
        is_barycenter: Whether `center` is the 2-Wasserstein barycenter. False where none is registered for these kinds
            of posteriors: then it is their `moment_barycenter`.
    """

    center: Posterior
    curves: tuple[LossCurve, ...]
    is_barycenter: bool = True


def star(
    networks: Sequence[PosteriorLike],
    task: Task,
    *,
    estimator: BarrierEstimator | str | Mapping[str, object] | None = None,
    **options: Any,  # ruff: ignore[any-type] - those of `barrier`
) -> Star:
    """Return the loss on the paths from the barycenter of (aligned) posteriors to each of them.

    Args:
        networks: At least one, already aligned.
        task: The model, data and likelihood.
        estimator: As for `barrier`.
        **options: Further arguments of `barrier`.

    Returns:
        The center and the curves.

    Raises:
        InvalidInputError: If the networks do not fit each other, the model or the data.
    """
    require_task(task)
    posteriors = as_posteriors(networks, model=task.model)
    center, is_barycenter = barycenter_or_moments(posteriors)
    held = task.held()
    curves = [barrier(center, q, held, estimator=estimator, **options) for q in posteriors]
    return Star(center, tuple(curves), is_barycenter)
