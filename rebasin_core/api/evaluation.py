"""Evaluation: the loss barrier between two posteriors, and the scores of one posterior."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.api.conversion import PosteriorLike, as_posterior
from rebasin_core.barriers.base import BarrierEstimator
from rebasin_core.barriers.notes import warn_of
from rebasin_core.barriers.paths.curve import GivenCurvePath
from rebasin_core.evaluation.evaluator import Evaluator
from rebasin_core.evaluation.scores import PredictiveScores
from rebasin_core.evaluation.task import require_task
from rebasin_core.evaluation.user_metrics import as_metric
from rebasin_core.landscapes.curve import Curve
from rebasin_core.tensors.noise import random_seed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from rebasin_core.barriers.curve import LossCurve
    from rebasin_core.barriers.paths.base import Path
    from rebasin_core.evaluation.networks import EvaluationOptions
    from rebasin_core.evaluation.task import Task
    from rebasin_core.evaluation.user_metrics import MetricLike


def barrier(  # ruff: ignore[too-many-arguments] - shorthands for the options that are set most often
    reference: PosteriorLike,
    candidate: PosteriorLike,
    task: Task,
    *,
    estimator: BarrierEstimator | str | Mapping[str, object] | None = None,
    num_points: int | None = None,
    num_samples: int | None = None,
    error: float | None = None,
    relative_error: float | None = None,
    path: Path | Curve | str | Mapping[str, object] | None = None,
    metric: MetricLike | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> LossCurve:
    """Estimate the loss along the path between two posteriors, and the loss barrier.

    Args:
        reference: Posterior at t = 0; anything that `as_posterior` accepts.
        candidate: Posterior at t = 1; anything that `as_posterior` accepts.
        task: Model, data and likelihood. Statistics for ``reset`` and ``repair`` are computed from its calibration
            data.
        estimator: A registered name, a mapping with ``name`` and options, or an instance. If None, ``pointwise`` for
            two single networks and ``marginalized`` otherwise.
        num_points: Number of points on the path, endpoints included; odd. Overrides the option of the estimator, or of
            the estimator that it wraps.
        num_samples: Number of posterior samples; overrides the option of the estimator. No effect on estimators of
            single networks.
        error: Requested error of the barrier, in units of the metric, instead of numbers of points and samples: they
            are added until the Monte Carlo error is at most this, or a quarter of the error from the finite dataset.
        relative_error: The same, divided by the barrier.
        path: Path between the posteriors, or the trained curve between two single networks (`fit_curve`); overrides the
            option of the estimator.
        metric: Metric in place of the negative log likelihood: a name, a `Metric`, a metric of torchmetrics, or a
            function (see `as_metric`); overrides the option of the estimator.
        generator: Random number generator; seeded with 0 if None.
        progress: Whether to show a progress bar.

    Returns:
        The loss curve. Its ``height`` is the barrier and ``height_stderr`` the Monte Carlo standard error.

    Raises:
        InvalidInputError: If the posteriors, the model and the data do not fit each other.
        UnknownNameError: If no estimator or metric has that name.
        ConfigError: If options are invalid.

    Examples:
        >>> import torch
        >>> from rebasin_core import Task, barrier
        >>> model = torch.nn.Linear(1, 2)
        >>> task = Task(model, [(torch.ones(4, 1), torch.tensor([0, 1, 0, 1]))])
        >>> barrier(model, model, task, num_points=3).height
        0.0
    """
    require_task(task)
    first = as_posterior(reference, model=task.model)
    second = as_posterior(candidate, model=task.model)
    default = "pointwise" if first.is_point and second.is_point else "marginalized"
    chosen = BarrierEstimator.of(default if estimator is None else estimator)
    shorthands = {
        "num_points": num_points,
        "num_samples": num_samples,
        "error": error,
        "relative_error": relative_error,
        "path": GivenCurvePath.through(path) if isinstance(path, Curve) else path,
        "metric": None if metric is None else as_metric(metric),
    }
    options = {name: value for name, value in shorthands.items() if value is not None}
    return chosen.with_options(**options).estimate(first, second, task, generator=generator, progress=progress)


def score(  # ruff: ignore[too-many-arguments] - options with defaults
    posterior: PosteriorLike,
    task: Task,
    *,
    num_samples: int = 64,
    target_scale: Sequence[float] = (),
    metrics: Sequence[MetricLike] = (),
    evaluation: EvaluationOptions | None = None,
    generator: torch.Generator | None = None,
) -> PredictiveScores:
    """Score the predictive distribution of a posterior on data.

    Args:
        posterior: A posterior; anything that `as_posterior` accepts.
        task: Model, data and likelihood.
        num_samples: Number of posterior samples, at least 1; a single network is run once.
        target_scale: Numbers by which the dimensions of the targets were divided (`Target.scale` of a dataset), for
            scores in the original units in addition.
        metrics: Further metrics to add to the scores, as for `barrier`.
        evaluation: How sampled networks are evaluated: method, precision, sample allocation.
        generator: Random number generator; seeded with 0 if None.

    Returns:
        Negative log likelihood (nats per example) with its standard errors, accuracy, Brier score, expected calibration
        error and more.

    Raises:
        InvalidInputError: If posterior, model and data do not fit each other, a loss is not finite, or the scale does
            not fit the targets.

    Examples:
        >>> import torch
        >>> from rebasin_core import Task
        >>> model = torch.nn.Linear(1, 2)
        >>> task = Task(model, [(torch.ones(4, 1), torch.tensor([0, 1, 0, 1]))])
        >>> sorted(score(model, task).values)
        ['accuracy', 'brier', 'ece', 'entropy', 'mutual_information']
    """
    require_task(task)
    distribution = as_posterior(posterior, model=task.model)
    seed = 0 if generator is None else random_seed(generator)
    evaluator = Evaluator(task, distribution, num_samples=num_samples, seed=seed, options=evaluation)
    scores = PredictiveScores.estimate(
        evaluator, distribution, target_scale=target_scale, metrics=[as_metric(metric) for metric in metrics]
    )
    warn_of(scores.notes, stacklevel=2)
    return scores
