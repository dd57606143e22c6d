"""Snapshot ensembles: one network, caught at the end of every cycle of its learning rate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.inference.collected import Collected
from rebasin_core.inference.gradient import AbstractGradientInference, AbstractObjective
from rebasin_core.inference.prior import PriorScale, check_scale
from rebasin_core.inference.stacked import AbstractStackedObjective

if TYPE_CHECKING:
    import torch

    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.inference.base import FitProblem
    from rebasin_core.inference.optimizer import OptimizerSpec
    from rebasin_core.posteriors.base import Posterior


@final
class SnapshotEnsemble(AbstractGradientInference):
    r"""Trains one network with a learning rate that falls and starts again M times, and keeps it after each fall.

    $$ \alpha_t = \frac{\alpha_0}{2} \left(1 + \cos \frac{\pi \, (t \bmod C)}{C}\right), \qquad C = T / M $$

    Args:
        members: The number M of cycles, at least 2.
        epochs: Passes over the data, a multiple of M.
        optimizer: Any optimiser of torch; its rate is $\alpha_0$. Adam with rate 1e-3 if not given.
        prior_scale: $\sigma$ of the prior, for all parameters or by pattern of their names; infinity for a flat one.

    Raises:
        InvalidInputError: If an option is out of range.

    References:
        G. Huang et al. (2017), "Snapshot ensembles: train 1, get M for free", ICLR, arXiv 1704.00109, equation 2.

    Example:
        >>> import torch
        >>> data = [(torch.ones(8, 1), torch.zeros(8, dtype=torch.int64))]
        >>> SnapshotEnsemble(members=2, epochs=4).fit(torch.nn.Linear(1, 2), data).posterior.num_samples
        2
    """

    def __init__(
        self,
        *,
        members: int = 5,
        epochs: int = 50,
        optimizer: OptimizerSpec | None = None,
        prior_scale: PriorScale = 1.0,
    ) -> None:
        super().__init__(epochs=epochs, optimizer=optimizer)
        if members < 2 or epochs % members:  # ruff: ignore[magic-value-comparison] - one network is no ensemble
            message = f"expected `members` of at least 2 that divide `epochs`, got {members!r} and {epochs!r}"
            raise InvalidInputError(message)
        check_scale(prior_scale)
        self._members, self._prior_scale = members, prior_scale

    @override
    def _options(self) -> tuple[object, ...]:
        return self._members, self._prior_scale

    @override
    def _objective(self, problem: FitProblem, model: FunctionalModel) -> AbstractObjective:
        return _Objective(problem, model, self._prior_scale, cycles=self._members, length=self._epochs // self._members)


@final
class _Objective(AbstractStackedObjective):
    def __init__(
        self, problem: FitProblem, model: FunctionalModel, prior_scale: PriorScale, *, cycles: int, length: int
    ) -> None:
        super().__init__(problem, model, members=1, prior_scale=prior_scale)
        self._length, self._collected = length, Collected(self, cycles)

    @override
    def begin_step(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        steps = self._length * self.problem.num_batches
        for group in optimizer.param_groups:
            top = group.setdefault("initial_lr", group["lr"])
            group["lr"] = 0.5 * top * (1 + math.cos(math.pi * (step % steps) / steps))

    @override
    def end_epoch(self, epoch: int) -> None:
        if (epoch + 1) % self._length == 0:
            self._collected.add()

    @override
    def posterior(self) -> Posterior:
        return self._collected.posterior()
