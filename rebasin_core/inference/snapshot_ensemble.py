"""Snapshot ensembles: one training run with a cyclical learning rate, and a sample after each cycle."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, Self, final

from pydantic import Field, PositiveInt, model_validator
from typing_extensions import override

from rebasin_core.inference.collected import Collected
from rebasin_core.inference.gradient import AbstractGradientInference
from rebasin_core.inference.optimizer import OptimizerSpec
from rebasin_core.inference.options import PriorScale
from rebasin_core.inference.stacked import AbstractStackedObjective
from rebasin_core.inference.training import Optimization

if TYPE_CHECKING:
    import torch

    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.inference.base import FitProblem
    from rebasin_core.inference.objective import AbstractObjective
    from rebasin_core.posteriors.base import Posterior


@final
class SnapshotEnsemble(AbstractGradientInference):
    r"""Snapshot ensemble: train one network with M cosine cycles of the learning rate, and keep it after each cycle.

    $$ \alpha_t = \frac{\alpha_0}{2} \left(1 + \cos \frac{\pi \, (t \bmod C)}{C}\right), \qquad C = T / M $$

    with the learning rate $\alpha_t$ at step $t$, and the total number $T$ of steps.

    Raises:
        ConfigError: If an option is invalid.

    References:
        G. Huang et al. (2017), "Snapshot ensembles: train 1, get M for free", ICLR, arXiv 1704.00109, equation 2.

    Examples:
        >>> import torch
        >>> data = [(torch.ones(8, 1), torch.zeros(8, dtype=torch.int64))]
        >>> SnapshotEnsemble(members=2, epochs=4).fit(torch.nn.Linear(1, 2), data).posterior.num_samples
        2
    """

    name: Literal["snapshot_ensemble"] = "snapshot_ensemble"

    members: Annotated[int, Field(ge=2)] = 5
    """Number M of cycles and of samples, at least 2."""

    epochs: PositiveInt = 50
    """Number of passes over the data, a multiple of ``members``."""

    optimizer: OptimizerSpec = OptimizerSpec()
    r"""Optimizer of ``torch.optim`` with its options; its learning rate is $\alpha_0$."""

    prior_scale: PriorScale = 1.0
    r"""Standard deviation $\sigma$ of the prior, positive; a number, or a mapping from name patterns. Infinity is a
    flat prior."""

    @model_validator(mode="after")
    def _check_cycles(self) -> Self:
        if self.epochs % self.members:
            message = f"expected `epochs` to be a multiple of `members`, got {self.epochs} and {self.members}"
            raise ValueError(message)
        return self

    @property
    def cycle_length(self) -> int:
        """Number of epochs in a cycle."""
        return self.epochs // self.members

    @property
    @override
    def uses_spec(self) -> bool:
        return False

    @override
    def _objective(self, problem: FitProblem, model: FunctionalModel) -> AbstractObjective:
        return _Objective(problem, model, self)

    @override
    def _optimization(self, objective: AbstractObjective) -> Optimization:
        return Optimization(self.optimizer.build(objective.parameters.values()))


@final
class _Objective(AbstractStackedObjective):
    def __init__(self, problem: FitProblem, model: FunctionalModel, method: SnapshotEnsemble) -> None:
        super().__init__(problem, model, members=1, prior_scale=method.prior_scale)
        self._length = method.cycle_length
        self._collected = Collected(self, method.members)

    @override
    def begin_step(self, optimizer: torch.optim.Optimizer, step: int, *, weight: float) -> None:
        steps = self._length * self.problem.num_batches
        for group in optimizer.param_groups:
            initial = group.setdefault("initial_lr", group["lr"])
            group["lr"] = 0.5 * initial * (1 + math.cos(math.pi * (step % steps) / steps))

    @override
    def end_epoch(self, epoch: int) -> None:
        if (epoch + 1) % self._length == 0:
            self._collected.add()

    @override
    def posterior(self) -> Posterior:
        return self._collected.posterior()
