"""An estimator with one softmax temperature for each point of the path."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, final

import torch
from typing_extensions import override

from rebasin_core.barriers.adjustment import PathCalibration
from rebasin_core.barriers.wrapper import AbstractWrapperBarrier
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.predictive import HeldTask, predict
from rebasin_core.evaluation.tempered import TemperedLikelihood

if TYPE_CHECKING:
    from rebasin_core.barriers.base import BarrierEstimator, BarrierProblem
    from rebasin_core.barriers.curve import LossCurve
    from rebasin_core.evaluation.likelihood import Likelihood
    from rebasin_core.evaluation.networks import Sampling
    from rebasin_core.evaluation.predictive import Predictions
    from rebasin_core.posteriors.base import Posterior

# Temperatures from 1/50 to 50.
_LARGEST_LOG = math.log(50)
_TOLERANCE = 1e-4


@final
class CalibratedBarrier(AbstractWrapperBarrier):
    r"""Loss along a path with the softmax temperature of each point fitted on the calibration data.

    Interpolated networks have small logits, and lose less accuracy than likelihood. At $t$, the logits of all sampled
    networks are divided by one temperature $T_t$, which minimizes the loss of the predictive on the calibration data:

    $$ T_t = \operatorname*{argmin}_T \; -\frac1N \sum_i \log \mathbb E_{\theta \sim q_t}
       \operatorname{softmax}\big(f_\theta(x_i) / T\big)_{y_i} $$

    The remaining barrier is that of the classification itself. This is a control: a scalar corrects a loss of
    confidence, but not a loss of features. For classification with the likelihood ``categorical`` only.

    Raises:
        ConfigError: If an option is invalid.
        InvalidInputError: On estimation, if the likelihood is not that of classes.

    References:
        C. Guo et al. (2017), "On calibration of modern neural networks", ICML, arXiv 1706.04599, section 4.2; A. Ito
        et al. (2025), "Do we really need permutations? Impact of width expansion on linear mode connectivity", arXiv
        2510.08023.

    Examples:
        >>> import torch
        >>> from rebasin_core.barriers import PointwiseBarrier
        >>> from rebasin_core.posteriors import PointPosterior
        >>> model = torch.nn.Linear(1, 2)
        >>> data = [(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1]))]
        >>> q = PointPosterior.from_module(model)
        >>> calibrated = CalibratedBarrier(estimator=PointwiseBarrier(num_points=3), endpoints=True)
        >>> from rebasin_core.evaluation import Task
        >>> calibrated.estimate(q, q, task=Task(model, data)).height < 1e-6
        True
    """

    exempt_laws: ClassVar[Mapping[str, str]] = {
        "equal_endpoints": "the temperature lowers the loss at interior points, also between equal networks",
        "closed_form_on_a_quadratic": "only classification has logits",
    }

    name: Literal["calibrated"] = "calibrated"

    endpoints: bool = False
    """Whether the two endpoints are calibrated too. If not, their losses are those of the posteriors, and a barrier can
    be smaller because the endpoints are not calibrated."""

    @override
    def of_means(self) -> BarrierEstimator | None:
        inner = self.estimator.of_means()
        return None if inner is None else self.replace(estimator=inner)

    @override
    def _estimate(self, problem: BarrierProblem) -> LossCurve:
        likelihood = problem.task.likelihood
        if likelihood.targets != "classes":
            message = (
                f"expected classification (a likelihood of class indices, such as 'categorical') for 'calibrated', got "
                f"{likelihood.name!r}, whose outputs are not logits; use the estimator without calibration"
            )
            raise InvalidInputError(message)
        return self.estimator.solve(problem.calibrated(_Temperatures(problem, endpoints=self.endpoints)))


@final
class _Temperatures(PathCalibration):
    def __init__(self, problem: BarrierProblem, *, endpoints: bool) -> None:
        task = problem.task
        self._task = HeldTask(task.model, problem.calibration, task.likelihood)
        self._endpoints = endpoints

    @override
    def at(self, t: float, posterior: Posterior, sampling: Sampling) -> Likelihood:
        likelihood = self._task.likelihood
        if t in {0.0, 1.0} and not self._endpoints:
            return likelihood
        predictions = predict(posterior, self._task, sampling, keep_outputs=True)
        return TemperedLikelihood(likelihood=likelihood, temperature=fitted_temperature(likelihood, predictions))


def fitted_temperature(likelihood: Likelihood, predictions: Predictions) -> float:
    """Return the softmax temperature that minimizes the loss of the predictive.

    Args:
        likelihood: A likelihood whose outputs are logits.
        predictions: Predictions with kept outputs, ``[S, N, K]`` logits of S networks, and targets.

    Returns:
        The temperature, from 1/50 to 50.

    Raises:
        InvalidInputError: If there are no outputs or no targets.
    """
    outputs = predictions.outputs
    targets = predictions.targets
    if outputs is None or targets is None:
        message = "expected predictions with outputs and targets, got none"
        raise InvalidInputError(message)

    from scipy.optimize import minimize_scalar  # ruff: ignore[import-outside-top-level] - half a second

    def loss(log_temperature: float) -> float:
        scaled = outputs.double() / math.exp(log_temperature)
        log_probs = torch.stack([likelihood.assess(rows, targets)[0] for rows in scaled])
        marginal = log_probs.logsumexp(0) - math.log(len(outputs))
        return -predictions.weighted(marginal).mean().item()

    found = minimize_scalar(loss, bounds=(-_LARGEST_LOG, _LARGEST_LOG), method="bounded", options={"xatol": _TOLERANCE})
    return math.exp(float(found.x))
