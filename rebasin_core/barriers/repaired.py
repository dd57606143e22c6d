"""Estimators around estimators: normalisation statistics taken anew, and activations repaired, along the path."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, final

from typing_extensions import override

from rebasin_core.barriers.adjustment import PathAdjustment, in_turn
from rebasin_core.barriers.base import BarrierEstimator, BarrierProblem
from rebasin_core.evaluation.normalization import BatchStatistics
from rebasin_core.evaluation.repair import ActivationMoments, ActivationRepair

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from rebasin_core.barriers.adjustment import Ends
    from rebasin_core.barriers.curve import LossCurve
    from rebasin_core.evaluation.networks import Adjust
    from rebasin_core.posteriors.base import Posterior


class AbstractAdjustedBarrier(BarrierEstimator):
    """Estimates what another estimator does, on networks that are adjusted between the ends.

    Args:
        estimator: The other one.
        per_sample: Whether every drawn network is adjusted by its own statistics, instead of all by those of the mean.
    """

    def __init__(self, estimator: BarrierEstimator, *, per_sample: bool = False) -> None:
        self._estimator, self._per_sample = estimator, per_sample

    @abstractmethod
    def _adjustment(self, problem: BarrierProblem) -> PathAdjustment:
        """Return what is done along the path."""

    @final
    @override
    def _estimate(self, problem: BarrierProblem) -> LossCurve:
        return self._estimator.solve(problem.adjusted(_Both(problem.adjustment, self._adjustment(problem))))


@final
class ResetBarrier(AbstractAdjustedBarrier):
    """Takes batch-normalisation statistics anew at every place between the ends, from the calibration data.

    Interpolated statistics are not those of interpolated networks; without the reset, barriers of networks with batch
    normalisation say more about the statistics than about the weights. A model without any is measured as it is.

    Args:
        estimator: The estimator that is wrapped.
        per_sample: Whether every drawn network gets its own statistics, instead of those of the mean network.

    References:
        P. Izmailov et al. (2018), arXiv 1803.05407, section 3.2; S. Ainsworth et al. (2023), arXiv 2209.04836,
        appendix A.

    Example:
        >>> import torch
        >>> from rebasin_core.barriers import PointwiseBarrier
        >>> from rebasin_core.posteriors import PointPosterior
        >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.BatchNorm1d(2))
        >>> data = [(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([0, 1, 1]))]
        >>> q = PointPosterior.from_module(model)
        >>> len(ResetBarrier(PointwiseBarrier(num_points=3)).estimate(q, q, model=model, data=data).loss)
        3
    """

    @override
    def _adjustment(self, problem: BarrierProblem) -> PathAdjustment:
        return _Reset(problem, per_sample=self._per_sample)


@final
class RepairBarrier(AbstractAdjustedBarrier):
    r"""REPAIR: gives every unit, at every place, the mean and standard deviation between those of the ends.

    Interpolated networks have activations of too small a variance. At $t$, the output of each unit of every layer but
    the last is mapped affinely so that its mean is $(1-t)\mu_0 + t\mu_1$ and its standard deviation
    $(1-t)\sigma_0 + t\sigma_1$ on the calibration data. Batch-normalisation statistics, if there are any, are taken
    anew afterwards.

    Args:
        estimator: The estimator that is wrapped.
        per_sample: Whether every drawn network is repaired towards the activations of the two ends that it lies
            between, instead of all by the maps of the mean network.

    References:
        K. Jordan et al. (2023), "REPAIR: renormalizing permuted activations for interpolation repair", ICLR, arXiv
        2211.08403, equations 1 to 3.

    Example:
        >>> import torch
        >>> from rebasin_core.barriers import PointwiseBarrier
        >>> from rebasin_core.posteriors import PointPosterior
        >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
        >>> data = [(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1]))]
        >>> q = PointPosterior.from_module(model)
        >>> curve = RepairBarrier(PointwiseBarrier(num_points=3)).estimate(q, q, model=model, data=data)
        >>> curve.height < 1e-6
        True
    """

    @override
    def _adjustment(self, problem: BarrierProblem) -> PathAdjustment:
        return _Repair(problem, per_sample=self._per_sample)


@final
class _Both(PathAdjustment):
    def __init__(self, first: PathAdjustment | None, second: PathAdjustment) -> None:
        self._first, self._second = first, second

    @override
    def at(self, t: float, point: Posterior, ends: Ends) -> Adjust | None:
        first = None if self._first is None else self._first.at(t, point, ends)
        return in_turn(first, self._second.at(t, point, ends))


@final
class _Reset(PathAdjustment):
    def __init__(self, problem: BarrierProblem, *, per_sample: bool) -> None:
        like = problem.reference
        self._statistics = BatchStatistics(problem.model.module, device=like.device, dtype=like.dtype)
        self._data, self._per_sample = problem.calibration, per_sample

    @property
    def is_needed(self) -> bool:
        """Whether the model has statistics."""
        return bool(self._statistics)

    def statistics(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the buffers of a network, taken anew."""
        return self._statistics.at(tensors, self._data)

    @override
    def at(self, t: float, point: Posterior, ends: Ends) -> Adjust | None:
        if t in {0.0, 1.0} or not self._statistics:
            return None
        own = None if self._per_sample else self.statistics(point.mean)
        return lambda tensors, _: {**tensors, **(own or self.statistics(tensors))}


@final
class _Repair(PathAdjustment):
    def __init__(self, problem: BarrierProblem, *, per_sample: bool) -> None:
        self._problem, self._per_sample, like = problem, per_sample, problem.reference
        inputs = problem.calibration[0][0][:2]
        self._repair = ActivationRepair(problem.model.module, inputs, device=like.device, dtype=like.dtype)
        self._reset = _Reset(problem, per_sample=per_sample)
        self._pairs: Iterator[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]] | None = None
        self._drawn: list[tuple[ActivationMoments, ActivationMoments]] = []

    @cached_property
    def _ends(self) -> tuple[ActivationMoments, ActivationMoments]:
        ends = self._problem.reference, self._problem.candidate
        first, second = (self._moments({**end.mean, **end.buffers}) for end in ends)
        return first, second

    def _moments(self, tensors: Mapping[str, Tensor]) -> ActivationMoments:
        return self._repair.moments(tensors, self._problem.calibration)

    def _drawn_ends(self, index: int) -> tuple[ActivationMoments, ActivationMoments]:
        """Return the moments of the ends of a number, found once for all places."""
        while self._pairs is not None and index >= len(self._drawn):
            first, second = next(self._pairs)
            self._drawn.append((self._moments(first), self._moments(second)))
        return self._drawn[index]

    @override
    def at(self, t: float, point: Posterior, ends: Ends) -> Adjust | None:
        if t in {0.0, 1.0}:
            return None
        if not self._repair:
            return self._reset.at(t, point, ends)
        data = self._problem.calibration
        if self._per_sample:
            self._pairs = self._pairs or zip(*ends, strict=True)

            def repaired(tensors: Mapping[str, Tensor], index: int) -> Mapping[str, Tensor]:
                first, second = self._drawn_ends(index)
                return self._repair.maps(tensors, data, first.blend(second, t)).folded(tensors)

            return in_turn(repaired, self._reset.at(t, point, ends))
        mean = {**point.mean, **point.buffers}
        maps = self._repair.maps(mean, data, self._ends[0].blend(self._ends[1], t))
        if not self._reset.is_needed:
            return lambda tensors, _: maps.folded(tensors)
        buffers = self._reset.statistics(maps.folded(mean))
        return lambda tensors, _: {**maps.folded(tensors), **buffers}
