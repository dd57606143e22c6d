"""The nudged elastic band between two networks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, final

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from tqdm import tqdm
from typing_extensions import override

from rebasin_core.barriers.curved import AbstractCurveBarrier, training_task
from rebasin_core.landscapes.curve import Curve
from rebasin_core.landscapes.elastic_band import BandSettings, ElasticBand
from rebasin_core.landscapes.fitting import batch_loss, refreshed, require_finite_loss, weighted_batches
from rebasin_core.posteriors.interpolation import interpolate_buffers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.barriers.base import BarrierProblem
    from rebasin_core.evaluation.batches import Batch
    from rebasin_core.evaluation.predictive import HeldTask


@final
class ElasticBandBarrier(AbstractCurveBarrier):
    r"""Loss along a nudged elastic band between the means of two posteriors.

    A chain of networks (pivots), initialized on ``path``, relaxes to a path of minimum loss. The gradient of the loss
    acts perpendicularly to the chain, and springs between neighbors act along it, with the tangent toward the neighbor
    of higher loss. After each cycle but the last, pivots are inserted in the segments in which the loss exceeds the
    linear interpolation between its pivots (automated band). The highest loss approximates that of the saddle point
    between the two networks. The band is trained on the calibration data, which should be training data. In training,
    batch-normalization layers use the statistics of the batch; combine with `ResetBarrier` for such networks.

    Raises:
        ConfigError: If an option is invalid.
        DivergenceError: On estimation, if training diverges.

    References:
        F. Draxler et al. (2018), "Essentially no barriers in neural network energy landscape", ICML, arXiv 1803.00885;
        E. Kolsbjerg et al. (2016), "An automated nudged elastic band method", J. Chem. Phys. 145, 094107.

    Examples:
        >>> import torch
        >>> from rebasin_core.posteriors import PointPosterior
        >>> model = torch.nn.Linear(1, 2, bias=False)
        >>> a = PointPosterior({"weight": torch.tensor([[-1.0], [0.0]])})
        >>> b = PointPosterior({"weight": torch.tensor([[1.0], [0.0]])})
        >>> data = [(torch.ones(1, 1), torch.tensor([0]))]
        >>> from rebasin_core.evaluation import Task
        >>> ElasticBandBarrier(epochs=1, num_points=3).estimate(a, b, task=Task(model, data)).height
        0.0
    """

    name: Literal["elastic_band"] = "elastic_band"

    num_pivots: PositiveInt = 3
    """Number of pivots between the endpoints in the first cycle."""

    cycles: PositiveInt = 3
    """Number of cycles of relaxation; pivots are inserted between them."""

    epochs: NonNegativeInt = 10
    """Number of passes over the calibration data in each cycle."""

    learning_rate: PositiveFloat = 0.01
    """Initial step size of gradient descent; in each cycle it decreases to zero along a half cosine. Steps that are too
    large lead to networks of high loss, also close to the endpoints."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of gradient descent, in [0, 1)."""

    stiffness: NonNegativeFloat = 0.1
    """Spring constant. Steps are unstable for values above ``(1 + momentum) / (2 * learning_rate)``."""

    insertion: PositiveFloat = 0.2
    """Smallest excess of a segment for which a pivot is inserted, as a fraction of the difference between the highest
    and the lowest loss of the chain. Infinity inserts none."""

    @override
    def _curve(self, problem: BarrierProblem) -> Curve:
        line = self._networks(problem)
        count = self.num_pivots + 1
        endpoints = line(0.0), line(1.0)
        chain = [line(index / count).mean for index in range(count + 1)]
        relaxation = _Relaxation(self, training_task(problem), endpoints[0].buffers, endpoints[1].buffers)
        settings = BandSettings(self.learning_rate, self.momentum, self.stiffness)
        band, history = relaxation.run(ElasticBand(chain, settings), progress=problem.progress)
        last = len(band.chain) - 1
        pivots = [
            refreshed(relaxation.task, pivot, relaxation.buffers(index / last))
            for index, pivot in enumerate(band.chain[1:-1], 1)
        ]
        return Curve("polygon", (endpoints[0], *pivots, endpoints[1]), tuple(history))


@final
class _Relaxation:
    """Relaxation of a band on minibatches.

    Args:
        options: The numbers of cycles and epochs, and the step size.
        task: The task of training.
        first: Buffers of the network at t = 0.
        last: Buffers of the network at t = 1.
    """

    def __init__(
        self, options: ElasticBandBarrier, task: HeldTask, first: Mapping[str, Tensor], last: Mapping[str, Tensor]
    ) -> None:
        self.task = task
        self._options = options
        self._endpoint_buffers = first, last

    def buffers(self, t: float) -> dict[str, Tensor]:
        """Return the interpolated buffers at t."""
        return interpolate_buffers(*self._endpoint_buffers, t)

    def run(self, band: ElasticBand, *, progress: bool) -> tuple[ElasticBand, list[float]]:
        """Return the relaxed band, and the mean loss of its networks in each epoch."""
        options = self._options
        history: list[float] = []
        with tqdm(
            total=options.cycles * options.epochs, desc="band", unit="epoch", leave=False, disable=not progress
        ) as bar:
            for cycle in range(options.cycles):
                if cycle and not math.isinf(options.insertion):
                    band = band.with_inserted_pivots(self._loss, options.insertion)
                for epoch in range(options.epochs):
                    history.append(self._epoch(band, epoch))
                    bar.update()
        return band, history

    def _epoch(self, band: ElasticBand, epoch: int) -> float:
        batches = list(weighted_batches(self.task))
        steps = self._options.epochs * len(batches)
        total = 0.0
        for index, (batch, weight) in enumerate(batches):
            part = (epoch * len(batches) + index) / steps

            def energy(
                network: Mapping[str, Tensor],
                t: float,
                batch: Batch = batch,
                weight: float = weight,
            ) -> Tensor:
                return weight * batch_loss(self.task, {**network, **self.buffers(t)}, batch)

            losses = band.step(energy, self._options.learning_rate * (1 + math.cos(math.pi * part)) / 2)
            require_finite_loss(sum(losses), "band")
            total += sum(losses) / len(losses)
        return total / len(batches)

    def _loss(self, network: Mapping[str, Tensor], t: float) -> Tensor:
        """Return the loss on all data."""
        tensors = {**network, **self.buffers(t)}
        losses = [weight * batch_loss(self.task, tensors, batch) for batch, weight in weighted_batches(self.task)]
        return sum(losses[1:], losses[0]) / len(losses)
