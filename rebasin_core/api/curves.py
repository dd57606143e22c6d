"""Curves of low loss between two networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.api.conversion import PosteriorLike, as_posterior
from rebasin_core.barriers.base import BarrierEstimator
from rebasin_core.barriers.curved import AbstractCurveBarrier
from rebasin_core.errors import ConfigError
from rebasin_core.evaluation.task import require_task

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from rebasin_core.evaluation.task import Task
    from rebasin_core.landscapes.curve import Curve


def fit_curve(
    reference: PosteriorLike,
    candidate: PosteriorLike,
    task: Task,
    *,
    method: AbstractCurveBarrier | str | Mapping[str, object] = "curved",
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Curve:
    """Train a curve of low loss between two networks, or between the means of two posteriors.

    The networks should be aligned first. Estimate the loss along the curve by `barrier` with ``path``, on test data.

    Args:
        reference: Network at t = 0; anything that `as_posterior` accepts.
        candidate: Network at t = 1; anything that `as_posterior` accepts.
        task: Model, data and likelihood. The curve is trained on its calibration data, which should be training data.
        method: ``curved`` (Bezier curve or polygonal chain), ``elastic_band`` (nudged elastic band), a mapping with
            ``name`` and options, or an instance.
        generator: Random number generator; seeded with 0 if None.
        progress: Whether to show a progress bar.

    Returns:
        The curve.

    Raises:
        InvalidInputError: If the networks, the model and the data do not fit each other.
        DivergenceError: If training diverges.
        UnknownNameError: If no method has that name.
        ConfigError: If options are invalid, or the method is not one that trains a curve.

    Examples:
        >>> import torch
        >>> from rebasin_core import Task, barrier, fit_curve
        >>> first, second = torch.nn.Linear(1, 2), torch.nn.Linear(1, 2)
        >>> task = Task(first, [(torch.ones(4, 1), torch.tensor([0, 1, 0, 1]))])
        >>> curve = fit_curve(first, second, task, method={"name": "curved", "num_bends": 2, "epochs": 1})
        >>> len(curve.points), len(barrier(first, second, task, path=curve, num_points=5).loss)
        (4, 5)
    """
    require_task(task)
    chosen = BarrierEstimator.of(method)
    if not isinstance(chosen, AbstractCurveBarrier):
        message = (
            f"expected a method that trains a curve, such as 'curved' or 'elastic_band', got {chosen.name!r}; "
            "`barrier` estimates losses along other paths"
        )
        raise ConfigError(message)
    first = as_posterior(reference, model=task.model)
    second = as_posterior(candidate, model=task.model)
    return chosen.fit(first, second, task, generator=generator, progress=progress)
