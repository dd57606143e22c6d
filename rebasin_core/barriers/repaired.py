"""Estimators that recompute normalization statistics, or repair activations, along the path of another estimator."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Literal, final

from typing_extensions import override

from rebasin_core.barriers.adjustment import PathAdjustment, in_turn
from rebasin_core.barriers.base import BarrierEstimator, BarrierProblem
from rebasin_core.barriers.wrapper import AbstractWrapperBarrier
from rebasin_core.evaluation.normalization import BatchStatistics
from rebasin_core.evaluation.repair import ActivationMoments, ActivationRepair

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from rebasin_core.barriers.adjustment import Endpoints
    from rebasin_core.barriers.curve import LossCurve
    from rebasin_core.evaluation.networks import Adjust
    from rebasin_core.posteriors.base import Posterior


class AbstractAdjustedBarrier(AbstractWrapperBarrier):
    """Estimator that adjusts the networks at interior points before another estimator evaluates them."""

    per_sample: bool = False
    """Whether each sampled network is adjusted by its own statistics; if not, all by those of the mean network."""

    @abstractmethod
    def _adjustment(self, problem: BarrierProblem) -> PathAdjustment:
        """Return the adjustment of the networks on the path.

        Args:
            problem: Two posteriors, the task, and the calibration data.

        Returns:
            The adjustment; its method ``at`` returns the change at t.
        """

    @final
    @override
    def of_means(self) -> BarrierEstimator | None:
        inner = self.estimator.of_means()
        return None if inner is None else BarrierEstimator.with_options(self, estimator=inner, per_sample=False)

    @final
    @override
    def _estimate(self, problem: BarrierProblem) -> LossCurve:
        return self.estimator.solve(problem.adjusted(_Both(problem.adjustment, self._adjustment(problem))))


@final
class ResetBarrier(AbstractAdjustedBarrier):
    """Loss along a path with batch-normalization statistics recomputed at each interior point, on the calibration data.

    Interpolated statistics are not the statistics of interpolated networks. Without the reset, the barrier of networks
    with batch normalization reflects the statistics more than the weights. Models without batch normalization are
    evaluated without changes.

    References:
        P. Izmailov et al. (2018), arXiv 1803.05407, section 3.2; S. Ainsworth et al. (2023), arXiv 2209.04836,
        appendix A.

    Examples:
        >>> import torch
        >>> from rebasin_core.barriers import PointwiseBarrier
        >>> from rebasin_core.posteriors import PointPosterior
        >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.BatchNorm1d(2))
        >>> data = [(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([0, 1, 1]))]
        >>> q = PointPosterior.from_module(model)
        >>> reset = ResetBarrier(estimator=PointwiseBarrier(num_points=3))
        >>> from rebasin_core.evaluation import Task
        >>> reset.estimate(q, q, task=Task(model, data)).t
        (0.0, 0.5, 1.0)
    """

    name: Literal["reset"] = "reset"

    @override
    def _adjustment(self, problem: BarrierProblem) -> PathAdjustment:
        return _Reset(problem, per_sample=self.per_sample)


@final
class RepairBarrier(AbstractAdjustedBarrier):
    r"""Loss along a path with REPAIR: mean and standard deviation of each unit interpolate between the endpoints.

    The activations of interpolated networks have too small a variance. At $t$, the output of each unit, in all layers
    but the last, is mapped affinely. On the calibration data its mean is then $(1-t)\mu_0 + t\mu_1$ and its standard
    deviation $(1-t)\sigma_0 + t\sigma_1$. Batch-normalization statistics, if any, are recomputed afterwards. With
    ``per_sample``, the targets for each sampled network are the moments of the two endpoint networks that it
    interpolates.

    References:
        K. Jordan et al. (2023), "REPAIR: renormalizing permuted activations for interpolation repair", ICLR, arXiv
        2211.08403, equations 1 to 3.

    Examples:
        >>> import torch
        >>> from rebasin_core.barriers import PointwiseBarrier
        >>> from rebasin_core.posteriors import PointPosterior
        >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
        >>> data = [(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1]))]
        >>> q = PointPosterior.from_module(model)
        >>> repair = RepairBarrier(estimator=PointwiseBarrier(num_points=3))
        >>> from rebasin_core.evaluation import Task
        >>> repair.estimate(q, q, task=Task(model, data)).height < 1e-6
        True
    """

    name: Literal["repair"] = "repair"

    @override
    def _adjustment(self, problem: BarrierProblem) -> PathAdjustment:
        return _Repair(problem, per_sample=self.per_sample)


@final
class _Both(PathAdjustment):
    def __init__(self, first: PathAdjustment | None, second: PathAdjustment) -> None:
        self._first = first
        self._second = second

    @override
    def at(self, t: float, point: Posterior, endpoints: Endpoints) -> Adjust | None:
        first = None if self._first is None else self._first.at(t, point, endpoints)
        return in_turn(first, self._second.at(t, point, endpoints))


@final
class _Reset(PathAdjustment):
    def __init__(self, problem: BarrierProblem, *, per_sample: bool) -> None:
        like = problem.reference
        self._statistics = BatchStatistics(problem.task.model.module, device=like.device, dtype=like.dtype)
        self._data = problem.calibration
        self._per_sample = per_sample

    @property
    def is_needed(self) -> bool:
        """Whether the model has batch-normalization statistics."""
        return bool(self._statistics)

    def statistics(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the recomputed buffers of a network."""
        return self._statistics.at(tensors, self._data)

    @override
    def at(self, t: float, point: Posterior, endpoints: Endpoints) -> Adjust | None:
        if t in {0.0, 1.0} or not self._statistics:
            return None
        own = None if self._per_sample else self.statistics(point.mean)
        return lambda tensors, _: {**tensors, **(own or self.statistics(tensors))}


@final
class _Repair(PathAdjustment):
    def __init__(self, problem: BarrierProblem, *, per_sample: bool) -> None:
        like = problem.reference
        self._problem = problem
        self._per_sample = per_sample
        inputs = problem.calibration[0][0][:2]
        self._repair = ActivationRepair(problem.task.model.module, inputs, device=like.device, dtype=like.dtype)
        self._reset = _Reset(problem, per_sample=per_sample)
        self._pairs: Iterator[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]] | None = None
        self._sampled: list[tuple[ActivationMoments, ActivationMoments]] = []

    @cached_property
    def _mean_endpoints(self) -> tuple[ActivationMoments, ActivationMoments]:
        """Activation moments of the mean network of each endpoint."""
        reference = self._problem.reference
        candidate = self._problem.candidate
        return (
            self._moments({**reference.mean, **reference.buffers}),
            self._moments({**candidate.mean, **candidate.buffers}),
        )

    def _moments(self, tensors: Mapping[str, Tensor]) -> ActivationMoments:
        return self._repair.moments(tensors, self._problem.calibration)

    def _sampled_endpoints(self, index: int) -> tuple[ActivationMoments, ActivationMoments]:
        """Return the activation moments of a sample's two endpoint networks, computed once for all points."""
        while self._pairs is not None and index >= len(self._sampled):
            first, second = next(self._pairs)
            self._sampled.append((self._moments(first), self._moments(second)))
        return self._sampled[index]

    @override
    def at(self, t: float, point: Posterior, endpoints: Endpoints) -> Adjust | None:
        if t in {0.0, 1.0}:
            return None
        if not self._repair:
            return self._reset.at(t, point, endpoints)
        data = self._problem.calibration
        if self._per_sample:
            self._pairs = self._pairs or zip(*endpoints, strict=True)

            def repaired(tensors: Mapping[str, Tensor], index: int) -> Mapping[str, Tensor]:
                first, second = self._sampled_endpoints(index)
                return self._repair.maps(tensors, data, first.blend(second, t)).folded(tensors)

            return in_turn(repaired, self._reset.at(t, point, endpoints))
        mean = {**point.mean, **point.buffers}
        first, second = self._mean_endpoints
        maps = self._repair.maps(mean, data, first.blend(second, t))
        if not self._reset.is_needed:
            return lambda tensors, _: maps.folded(tensors)
        buffers = self._reset.statistics(maps.folded(mean))
        return lambda tensors, _: {**maps.folded(tensors), **buffers}
