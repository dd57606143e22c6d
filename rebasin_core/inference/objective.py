"""The interface of training objectives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch

from rebasin_core.tensors.modules import copied

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.inference.base import FitProblem
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.tensors.inputs import AnyInputs


class AbstractObjective(ABC):
    """Objective of one problem, minimized on minibatches.

    Attributes:
        problem: The problem to fit.
        model: Private copy of the network.
        members: Number of networks whose losses are summed.
        buffers: Buffers of the network, updated by training.
        parameters: Leaf tensors that are optimized.
        memory: State that persists between epochs, such as collected samples; included in checkpoints.
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
    def loss(self, inputs: AnyInputs, targets: Tensor) -> Tensor:
        """Return the objective on a batch, a scalar in nats per example, summed over members.

        Data terms are means over the batch; terms without data are divided by the number N of examples. The training
        loop multiplies the result by `FitProblem.batch_weight`. The mean gradient over a pass is therefore that of the
        objective on all data, for any split into batches.

        Args:
            inputs: Inputs ``[b, ...]``.
            targets: Targets ``[b]`` or ``[b, K]``.

        Returns:
            A differentiable scalar.
        """

    @abstractmethod
    def posterior(self) -> Posterior:
        """Return the posterior defined by the current parameters and the collected samples."""

    @abstractmethod
    def points(self) -> list[dict[str, Tensor]]:
        """Return the current parameters and buffers of every network, for the validation loss."""

    def groups(self) -> list[dict[str, Any]]:
        """Return the parameters in groups for the optimizer, each with options that differ, such as ``lr``."""
        return [{"params": list(self.parameters.values())}]

    def adjust_gradients(self, *, weight: float) -> None:  # ruff: ignore[no-self-use] - a hook
        """Change the gradients of the parameters between their computation and the step of the optimizer.

        Args:
            weight: Number of examples in the batch divided by the mean number per batch. The gradients are weighted by
                it.
        """
        del weight

    def clip_gradients(self, max_norm: float | None) -> None:
        r"""Scale the gradient $g$ of each network to the norm $c$ if it is larger: $g \min(1, c / \lVert g \rVert)$.

        Args:
            max_norm: The norm $c$; None for no limit.
        """
        if max_norm is None:
            return
        if self.members == 1:
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), max_norm)
            return
        gradients = [tensor.grad for tensor in self.parameters.values() if tensor.grad is not None]
        # Stacked networks must not influence each other: one norm for each.
        squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients])
        factors = (max_norm / squares.sum(0).sqrt()).clamp(max=1)
        for gradient in gradients:
            gradient.mul_(factors.reshape(-1, *[1] * (gradient.dim() - 1)))

    def begin_step(  # ruff: ignore[no-self-use] - a hook
        self, optimizer: torch.optim.Optimizer, step: int, *, weight: float
    ) -> None:
        """Prepare an optimization step; methods that define their own schedule set the learning rate here.

        Args:
            optimizer: The optimizer.
            step: Index of the step since the start of training, from 0.
            weight: Number of examples in the batch divided by the mean number per batch.
        """
        del optimizer, step, weight

    def end_epoch(self, epoch: int) -> None:  # ruff: ignore[no-self-use] - a hook
        """Finish an epoch; methods that collect samples do so here.

        Args:
            epoch: Index of the epoch, from 0.
        """
        del epoch
