"""Training of points in weight space: they minimize the expected loss at random combinations of networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from tqdm import tqdm

from rebasin_core.errors import DivergenceError
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.evaluation.likelihood import Likelihood
from rebasin_core.evaluation.normalization import BatchStatistics, use_batch_statistics
from rebasin_core.evaluation.predictive import HeldTask, batch_weights
from rebasin_core.landscapes.points import weighted_sum
from rebasin_core.posteriors.point import PointPosterior

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from rebasin_core.evaluation.batches import Batch
    from rebasin_core.posteriors.base import Posterior


@final
@dataclass(frozen=True, slots=True)
class FitSettings:
    """How points are trained.

    Attributes:
        epochs: Number of passes over the data, at least 0.
        learning_rate: Initial learning rate of Adam, positive. It decreases to zero along a half cosine.
        seed: Seed of the random combinations.
        progress: Whether to show a progress bar.
        label: Text in front of the progress bar.
    """

    epochs: int
    learning_rate: float
    seed: int = 0
    progress: bool = False
    label: str = "points"


@final
@dataclass(frozen=True, slots=True)
class FittedPoints:
    """Trained points.

    Attributes:
        points: The trained points, with recomputed batch-normalization statistics.
        history: Mean training loss of each epoch, without the penalty, in nats per example.
    """

    points: tuple[PointPosterior, ...]
    history: tuple[float, ...]


def fitting_task(
    module: nn.Module,
    batches: Sequence[Batch],
    likelihood: Likelihood | str,
    like: Posterior,
) -> HeldTask:
    """Return a task for training: batch-normalization layers use the statistics of the batch, and do not update others.

    Args:
        module: The network; not changed.
        batches: Batches ``(inputs, targets)`` on the device of ``like``.
        likelihood: Likelihood of the targets.
        like: A posterior on the device and in the dtype of the training.

    Returns:
        The task.
    """
    model = FunctionalModel(module, device=like.device, dtype=like.dtype)
    use_batch_statistics(model)
    return HeldTask(model, batches, Likelihood.of(likelihood))


def batch_loss(task: HeldTask, tensors: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Return the mean loss of a network on a batch, in nats per example; differentiable.

    Args:
        task: The task.
        tensors: Parameters and buffers of the network.
        batch: Inputs and targets.

    Returns:
        The loss, a scalar.

    Raises:
        InvalidInputError: If the outputs of the network do not fit the targets.
    """
    inputs, targets = batch
    outputs = task.model(tensors, inputs)
    task.likelihood.check(outputs, targets)
    return -task.likelihood.log_prob(outputs, targets).mean()


def weighted_batches(task: HeldTask) -> Iterator[tuple[Batch, float]]:
    """Yield the batches of one pass, each with the weight that gives every example the same weight.

    Args:
        task: The task.

    Yields:
        A batch, and its size divided by the mean size.
    """
    yield from zip(task.batches, batch_weights(task.batches), strict=True)


def refreshed(task: HeldTask, mean: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> PointPosterior:
    """Return a trained network, with batch-normalization statistics recomputed on the data of the task.

    Args:
        task: The task.
        mean: Trained parameters; copied.
        buffers: Buffers of the network.

    Returns:
        The network.
    """
    parameters = {name: tensor.detach().clone() for name, tensor in mean.items()}
    point = PointPosterior(parameters, buffers=buffers)
    statistics = BatchStatistics(task.model.module, device=point.device, dtype=point.dtype)
    if not statistics:
        return point
    return PointPosterior(parameters, buffers={**buffers, **statistics.at(parameters, task.batches)})


def fit_points(
    task: HeldTask,
    fixed: Sequence[PointPosterior],
    trained: Sequence[PointPosterior],
    draw: Callable[[torch.Generator], Sequence[float]],
    settings: FitSettings,
    *,
    penalty: Callable[[Sequence[Mapping[str, Tensor]]], Tensor] | None = None,
) -> FittedPoints:
    r"""Train points to minimize the expected loss at random weighted sums of all points.

    $$ \min_{\theta_1 \dots \theta_m} \; \mathbb E_w\, L\Big(\sum_k w_k \theta_k\Big) + R(\theta_1, \dots, \theta_m) $$

    One vector of weights is drawn for each batch.

    Args:
        task: Model, training data and likelihood, as from `fitting_task`.
        fixed: Networks that are not trained.
        trained: Initialization of the points to train, at least one; not changed.
        draw: Returns random weights of the fixed and then of the trained points.
        settings: Number of epochs, learning rate, seed.
        penalty: Returns $R$, given the tensors of the fixed and of the trained points; None for no penalty.

    Returns:
        The trained points and the history.

    Raises:
        DivergenceError: If the objective becomes NaN or infinite.
        InvalidInputError: If the outputs of the model do not fit the targets.
    """
    own = [{name: tensor.requires_grad_() for name, tensor in point.mean.items()} for point in trained]
    means = [*(point.mean for point in fixed), *own]
    buffers = [point.buffers for point in (*fixed, *trained)]
    optimizer = torch.optim.Adam([tensor for mean in own for tensor in mean.values()], lr=settings.learning_rate)
    steps = max(1, settings.epochs * len(task.batches))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(settings.seed)
    history: list[float] = []
    bar = tqdm(range(settings.epochs), desc=settings.label, unit="epoch", leave=False, disable=not settings.progress)
    for _ in bar:
        total = 0.0
        for batch, batch_weight in weighted_batches(task):
            weights = draw(generator)
            with torch.enable_grad():
                tensors = {**weighted_sum(means, weights), **weighted_sum(buffers, weights)}
                loss = batch_weight * batch_loss(task, tensors, batch)
                objective = loss if penalty is None else loss + penalty(means)
                optimizer.zero_grad()
                objective.backward()
            require_finite_loss(objective.item(), settings.label)
            optimizer.step()
            schedule.step()
            total += loss.item()
        history.append(total / len(task.batches))
    points = [refreshed(task, mean, point.buffers) for mean, point in zip(own, trained, strict=True)]
    return FittedPoints(tuple(points), tuple(history))


def require_finite_loss(loss: float, label: str) -> None:
    """Raise if a training loss is not finite.

    Args:
        loss: The loss.
        label: Name of the trained points.

    Raises:
        DivergenceError: If it is NaN or infinite.
    """
    if loss - loss != 0:
        message = f"training the {label} diverged (loss {loss}); lower the learning rate"
        raise DivergenceError(message)
