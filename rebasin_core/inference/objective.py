"""The interface of objectives: what training minimizes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from rebasin_core.tensors.modules import copied

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.inference.base import FitProblem
    from rebasin_core.posteriors.base import Posterior


class AbstractObjective(ABC):
    """A function of parameters that training minimizes batch by batch, for one problem.

    Attributes:
        problem: The problem to fit.
        model: The network, a private copy.
        members: Number of networks whose losses are summed.
        buffers: Buffers of the network, updated by training.
        parameters: Leaf tensors that are optimized.
        memory: Tensors that the method keeps from epoch to epoch (collected samples); part of every checkpoint.
    """

    def __init__(
        self,
        problem: FitProblem,
        model: FunctionalModel,
        parameters: Mapping[str, Tensor],
        *,
        buffers: Mapping[str, Tensor] | None = None,
        members: int = 1,
    ) -> None:
        self.problem = problem
        self.model = model
        self.members = members
        given = dict(model.module.named_buffers()) if buffers is None else buffers
        self.buffers = copied(given)
        self.parameters = {name: tensor.detach().clone().requires_grad_() for name, tensor in parameters.items()}
        self.memory: dict[str, Tensor] = {}

    @abstractmethod
    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the objective on a batch, a scalar in nats per example, summed over members.

        Data terms are means over the batch, terms without data are divided by the number of all examples. Training
        multiplies the whole by the weight of the batch (`FitProblem.batch_weight`), so that every example counts the
        same, however the data are split: the mean gradient of a pass is that of the objective on all data.

        Args:
            inputs: ``[b, ...]``.
            targets: ``[b]`` or ``[b, K]``.

        Returns:
            A scalar.
        """

    @abstractmethod
    def posterior(self) -> Posterior:
        """Return the posterior that follows from the parameters and from the collected samples."""

    @abstractmethod
    def points(self) -> list[dict[str, Tensor]]:
        """Return parameters and buffers of every network in their present state, for the loss on validation data."""

    def begin_step(  # ruff: ignore[no-self-use] - a hook
        self, optimizer: torch.optim.Optimizer, step: int, *, weight: float
    ) -> None:
        """Prepare a step. Methods with a schedule of their own set the learning rate here.

        Args:
            optimizer: The optimizer.
            step: Index of the step since the start of training.
            weight: Weight of the batch: its number of examples, in units of the mean batch.
        """
        del optimizer, step, weight

    def end_epoch(self, epoch: int) -> None:  # ruff: ignore[no-self-use] - a hook
        """Finish an epoch. Methods that collect samples do it here.

        Args:
            epoch: Index of the epoch, from 0.
        """
        del epoch
