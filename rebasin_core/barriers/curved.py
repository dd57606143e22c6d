"""Trained curves between two networks (mode connectivity)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, final

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from typing_extensions import override

from rebasin_core.barriers.path_barrier import AbstractNetworkBarrier
from rebasin_core.landscapes.curve import Curve, CurveKind, curve_weights
from rebasin_core.landscapes.fitting import FitSettings, fit_points, fitting_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from rebasin_core.barriers.base import BarrierProblem
    from rebasin_core.evaluation.predictive import HeldTask
    from rebasin_core.evaluation.task import Task
    from rebasin_core.posteriors.base import Posterior

_REASON = "the curve is trained and not a straight line"


class AbstractCurveBarrier(AbstractNetworkBarrier):
    """Loss along a trained curve between the means of two posteriors.

    Laws:
        - *Endpoints*: the curve connects the mean of the reference (t = 0) with the mean of the candidate (t = 1).
    """

    exempt_laws: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("equal_endpoints", "closed_form_on_a_quadratic", "reversal"), _REASON
    )

    @final
    def fit(
        self,
        reference: Posterior,
        candidate: Posterior,
        task: Task,
        *,
        generator: torch.Generator | None = None,
        progress: bool = False,
    ) -> Curve:
        """Return the trained curve; `estimate` returns the loss along it.

        Args:
            reference: The posterior whose mean is at t = 0; sets device and dtype.
            candidate: The posterior whose mean is at t = 1.
            task: Model, data and likelihood. The curve is trained on its calibration data, which should be training
                data.
            generator: Random number generator; seeded with 0 if None.
            progress: Whether to show a progress bar.

        Returns:
            The curve.

        Raises:
            InvalidInputError: If the posteriors, the model and the data do not match.
            DivergenceError: If training diverges.
        """
        problem = self._problem(reference, candidate, task, generator=generator, progress=progress)
        with torch.no_grad():
            return self._curve(problem)

    @abstractmethod
    def _curve(self, problem: BarrierProblem) -> Curve:
        """Train the curve.

        Args:
            problem: Two posteriors, the task, and the options of the call; gradients are disabled.

        Returns:
            The curve, from the mean of the reference to that of the candidate.
        """

    @final
    @override
    def _path(self, problem: BarrierProblem) -> Callable[[float], Posterior]:
        return self._curve(problem).at


@final
class CurvedBarrier(AbstractCurveBarrier):
    r"""Loss along a trained curve between the means of two posteriors, with one or several bends.

    The points $\theta_1 \dots \theta_{n-1}$ are initialized on ``path`` at $t = k / n$ and trained:

    $$ \text{bezier: } \theta(t) = \sum_{k=0}^n \binom{n}{k} t^k (1-t)^{n-k}\, \theta_k, \qquad
       \text{polygon: } \theta_0 \to \theta_1 \to \dots \to \theta_n \text{ on straight lines} $$

    They minimize the expected loss at uniform $t$ on the calibration data, which should be training data. A low barrier
    along the curve shows that the networks are connected, not that they are equivalent up to symmetries. In training,
    batch-normalization layers use the statistics of the batch; combine with `ResetBarrier` for such networks.

    Raises:
        ConfigError: If an option is invalid.
        DivergenceError: On estimation, if training diverges.

    References:
        T. Garipov et al. (2018), "Loss surfaces, mode connectivity, and fast ensembling of DNNs", NeurIPS, arXiv
        1802.10026, equations 1 to 4.

    Examples:
        >>> import torch
        >>> from rebasin_core.posteriors import PointPosterior
        >>> model = torch.nn.Linear(1, 2, bias=False)
        >>> a, b = (PointPosterior({"weight": torch.tensor([[v], [0.0]])}) for v in (-1.0, 1.0))
        >>> data = [(torch.ones(1, 1), torch.tensor([0]))]
        >>> from rebasin_core.evaluation import Task
        >>> CurvedBarrier(epochs=1, num_points=3).estimate(a, b, task=Task(model, data)).height
        0.0
    """

    name: Literal["curved"] = "curved"

    kind: CurveKind = "bezier"
    """Form of the curve: ``bezier`` (of degree ``num_bends + 1``), or ``polygon``."""

    num_bends: PositiveInt = 1
    """Number of trained points between the endpoints."""

    epochs: NonNegativeInt = 10
    """Number of passes over the calibration data."""

    learning_rate: PositiveFloat = 1e-3
    """Initial learning rate of Adam; it decreases to zero along a half cosine."""

    @override
    def _curve(self, problem: BarrierProblem) -> Curve:
        line = self._networks(problem)
        count = self.num_bends + 2
        start = [line(index / (count - 1)) for index in range(1, count - 1)]
        endpoints = line(0.0), line(1.0)

        def draw(generator: torch.Generator) -> list[float]:
            weights = curve_weights(self.kind, count, torch.rand((), generator=generator).item())
            return [weights[0], weights[-1], *weights[1:-1]]

        settings = FitSettings(self.epochs, self.learning_rate, problem.seed, problem.progress, "bends")
        fitted = fit_points(training_task(problem), endpoints, start, draw, settings)
        return Curve(self.kind, (endpoints[0], *fitted.points, endpoints[1]), fitted.history)


def training_task(problem: BarrierProblem) -> HeldTask:
    """Return the task of training on the calibration data of a problem.

    Args:
        problem: The problem.

    Returns:
        The task, with batch-normalization layers that use the statistics of the batch.
    """
    return fitting_task(problem.task.model.module, problem.calibration, problem.task.likelihood, like=problem.reference)
