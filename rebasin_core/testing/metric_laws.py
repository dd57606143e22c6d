"""The laws of metrics."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import torch
from torch.nn.functional import one_hot

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.evaluation.likelihoods import CategoricalLikelihood, GaussianLikelihood
from rebasin_core.evaluation.networks import EvaluationOptions, Sampling
from rebasin_core.evaluation.predictive import HeldTask, held_batches, predict
from rebasin_core.tensors.statistics import mean_stderr
from rebasin_core.testing.cases import OUTPUTS, gaussian, network
from rebasin_core.testing.law import device_under_test, expect, expect_equal, law

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from rebasin_core.evaluation.likelihood import Likelihood
    from rebasin_core.evaluation.metric import Metric, MetricValues
    from rebasin_core.evaluation.networks import MethodName
    from rebasin_core.evaluation.predictive import Predictions
    from rebasin_core.posteriors.base import Posterior

_Task: TypeAlias = Literal["classes", "numbers"]

_SAMPLES, _REPETITIONS = 64, 60
# Four standard errors of the standard deviation of 60 numbers, and as much again for 16 groups.
_RATIO = 0.5
_ERRORS, _ROUNDING = 4.0, 1e-9


def _predictions(metric: Metric, task: _Task, *, seed: int = 0, method: MethodName = "vectorized") -> Predictions:
    """Return predictions of a posterior over a small network; metrics that change them do not affect other laws."""
    return deepcopy(_drawn(metric.num_groups, task, seed, method, device_under_test()))


# All metrics are tested on the same predictions: without this, drawing them is nearly all of the time.
@lru_cache(maxsize=1024)
def _drawn(groups: int, task: _Task, seed: int, method: MethodName, device: torch.device) -> Predictions:
    del device  # of the posterior
    posterior, held = _held(task, device_under_test())
    return predict(posterior, held, Sampling(_SAMPLES, seed, EvaluationOptions(method=method)), groups=groups)


@lru_cache
def _held(task: _Task, device: torch.device) -> tuple[Posterior, HeldTask]:
    """Return a posterior over the small network, and a task."""
    del device  # of both
    case = network()
    posterior = gaussian(0)
    data = case.data
    likelihood = cast("Likelihood", CategoricalLikelihood())
    if task == "numbers":
        data = [(x, one_hot(y, OUTPUTS).double()) for x, y in data]
        likelihood = GaussianLikelihood(scale=1.0)
    model = FunctionalModel(case.model, device=posterior.device, dtype=posterior.dtype)
    return posterior, HeldTask(model, held_batches(model, data), likelihood)


def _tasks(metric: Metric) -> list[_Task]:
    """Return the tasks that a metric supports: those for which it does not raise."""
    found: list[_Task] = []
    tasks: tuple[_Task, ...] = ("classes", "numbers")
    for task in tasks:
        predictions = _predictions(metric, task)
        try:
            metric.estimate(predictions)
        except InvalidInputError:
            continue
        found.append(task)
    expect(found, f"the metric {metric.name!r} supports neither classes nor numbers")
    return found


def _values(estimated: MetricValues) -> dict[str, Tensor]:
    return {"examples": estimated.examples}


def _rows(predictions: Predictions, rows: slice) -> Predictions:
    """Return the predictions of some examples."""
    targets = predictions.targets
    groups = predictions.groups
    entropy = predictions.entropy
    return replace(
        predictions,
        log_prob=predictions.log_prob[:, rows],
        prediction=predictions.prediction[rows],
        score=predictions.score[rows],
        targets=None if targets is None else targets[rows],
        entropy=None if entropy is None else entropy[rows],
        groups=None if groups is None else groups[:, rows],
    )


@law("metric")
def per_example(example: object, folder: Path) -> None:
    """There is one finite value for each example, independent of the other examples."""
    del folder
    metric = cast("Metric", example)
    for task in _tasks(metric):
        predictions = _predictions(metric, task)
        whole = metric.estimate(predictions).examples
        expect(
            whole.shape == predictions.score.shape, f"expected one value per example, got shape {tuple(whole.shape)}"
        )
        expect(bool(whole.isfinite().all()), f"values are not finite: {whole}")
        for rows in (slice(0, 1), slice(5, 20)):
            few = metric.estimate(_rows(predictions, rows))
            expect_equal(_values(few), {"examples": whole[rows]}, f"examples {rows}", tolerance=1e-12)


@law("metric")
def exchangeable(example: object, folder: Path) -> None:
    """The values do not change if the samples are reordered, or all repeated."""
    del folder
    metric = cast("Metric", example)
    for task in _tasks(metric):
        predictions = _predictions(metric, task)
        whole = metric.estimate(predictions)
        groups = predictions.groups
        for description, change in (("reordered", lambda t: t.flip(0)), ("repeated", lambda t: torch.cat([t, t]))):
            changed = replace(
                predictions,
                log_prob=change(predictions.log_prob),
                groups=None if groups is None else change(groups),
            )
            expect_equal(_values(metric.estimate(changed)), _values(whole), f"samples {description}", tolerance=1e-9)


@law("metric")
def errors_stated(example: object, folder: Path) -> None:
    """The stated Monte Carlo standard error is the standard deviation over independent repetitions."""
    del folder
    metric = cast("Metric", example)
    methods: tuple[MethodName, ...] = ("vectorized", "local")
    for task in _tasks(metric):
        for method in methods:
            found = [
                metric.estimate(_predictions(metric, task, seed=seed, method=method)) for seed in range(_REPETITIONS)
            ]
            stated = torch.stack([mean_stderr(one.influence) for one in found]).mean().item()
            observed = torch.stack([one.examples.mean() for one in found]).std().item()
            expect(
                abs(stated - observed) <= _RATIO * observed,
                f"{task}, method {method!r}: the stated error is {stated:.3e}, the observed one {observed:.3e}",
            )


@law("metric")
def bias_stated(example: object, folder: Path) -> None:
    """The stated bias is twice the decrease of the metric from S to 2S samples, since a bias decreases as 1 / S."""
    del folder
    metric = cast("Metric", example)
    for task in _tasks(metric):
        few = [_predictions(metric, task, seed=seed) for seed in range(2 * _REPETITIONS)]
        found = [metric.estimate(one) for one in few]
        pairs = list(zip(few[::2], few[1::2], strict=True))
        joint = torch.stack([metric.estimate(_joined(*pair)).examples.mean() for pair in pairs])
        values = torch.stack([one.examples.mean() for one in found])
        observed = 2 * (values.unflatten(0, (-1, 2)).mean(1) - joint)
        stated = torch.tensor([one.bias for one in found], dtype=values.dtype).unflatten(0, (-1, 2)).mean(1)
        residual = [one.bias_errors.mean().item() for one in found if one.bias_errors is not None]
        allowed = _ERRORS * mean_stderr(observed - stated).item() + sum(residual) / len(found) + _ROUNDING
        expect(
            abs((observed - stated).mean().item()) <= allowed,
            f"{task}: stated bias {stated.mean():.3e} and observed bias {observed.mean():.3e} differ by more than "
            f"{allowed:.1e}",
        )


def _joined(first: Predictions, second: Predictions) -> Predictions:
    """Return the predictions of the samples of both."""
    groups = None if first.groups is None or second.groups is None else torch.cat([first.groups, second.groups])
    return replace(
        first,
        log_prob=torch.cat([first.log_prob, second.log_prob]),
        prediction=(first.prediction + second.prediction) / 2,
        groups=groups,
    )


@law("metric")
def no_side_effects(example: object, folder: Path) -> None:
    """Predictions are not changed."""
    del folder
    metric = cast("Metric", example)
    for task in _tasks(metric):
        predictions = _predictions(metric, task)
        before = {"log_prob": predictions.log_prob.clone(), "prediction": predictions.prediction.clone()}
        metric.estimate(predictions)
        after = {"log_prob": predictions.log_prob, "prediction": predictions.prediction}
        expect_equal(after, before, "after estimating")
