"""Trained landscapes: volumes of low loss, and centers of stars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from tqdm import tqdm

from rebasin_core.api.conversion import PosteriorLike, as_posteriors
from rebasin_core.api.plane import HullLosses
from rebasin_core.evaluation.evaluator import Evaluator
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.evaluation.losses import as_likelihood
from rebasin_core.evaluation.predictive import held_batches
from rebasin_core.evaluation.task import require_task
from rebasin_core.landscapes.fitting import fitting_task
from rebasin_core.landscapes.growth import ComplexOptions, FitOptions, fit_star_center, grow_complex
from rebasin_core.landscapes.points import require_points
from rebasin_core.landscapes.simplex import SimplicialComplex
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.tensors.arguments import raise_wrong_type
from rebasin_core.tensors.noise import random_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.evaluation.predictive import HeldTask
    from rebasin_core.evaluation.task import Task


def fit_simplex(  # ruff: ignore[too-many-arguments] - options of the training, keyword-only after the second
    networks: Sequence[PosteriorLike],
    task: Task,
    *,
    num_connectors: int = 1,
    epochs: int = 10,
    learning_rate: float = 1e-3,
    regularization: float = 1e-3,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> SimplicialComplex:
    r"""Train a volume of low loss: vertices that span a simplex with each of several networks.

    The connecting vertices are trained sequentially. Each minimizes the expected loss at uniform points of the
    simplexes, minus the weighted log volume of the complex:

    $$ \mathbb E_{\theta \sim \mathcal K}\, L(\theta) - \lambda \log V(\mathcal K) $$

    With one network, the result is a simplex around it, for a fast ensemble (`SimplicialComplex.posterior`). With
    several aligned networks, it is a volume that connects them.

    Args:
        networks: Networks, at least one, already aligned with each other; of posteriors, the means. They stay vertices.
        task: Model, data and likelihood. The vertices are trained on its calibration data, which should be training
            data.
        num_connectors: Number of connecting vertices, at least 1.
        epochs: Number of passes over the training data for each vertex.
        learning_rate: Initial learning rate of Adam; it decreases to zero along a half cosine.
        regularization: Weight $\lambda$ of the log volume, in nats per example, nonnegative.
        generator: Random number generator; seeded with 0 if None.
        progress: Whether to show a progress bar.

    Returns:
        The complex of simplexes, with its volume.

    Raises:
        InvalidInputError: If the networks, the model and the data do not fit each other.
        ConfigError: If an option is out of range.
        DivergenceError: If training diverges.

    References:
        G. Benton et al. (2021), "Loss surface simplexes for mode connecting volumes and fast ensembling", ICML, arXiv
        2102.13042, sections 4 and 5.

    Examples:
        >>> import torch
        >>> from rebasin_core import Task, fit_simplex, score
        >>> model = torch.nn.Linear(1, 2)
        >>> task = Task(model, [(torch.ones(4, 1), torch.tensor([0, 1, 0, 1]))])
        >>> simplex = fit_simplex([model], task, num_connectors=2, epochs=1)
        >>> simplex.dimension, simplex.posterior(4).num_samples
        (2, 4)
    """
    options = ComplexOptions(
        num_connectors=num_connectors, epochs=epochs, learning_rate=learning_rate, regularization=regularization
    )
    points, held = training_of(networks, task)
    generator = generator or torch.Generator().manual_seed(0)
    with torch.no_grad():
        return grow_complex(held, points, options, generator=generator, progress=progress)


def simplex_losses(
    simplex: SimplicialComplex,
    task: Task,
    *,
    num_points: int = 50,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> HullLosses:
    """Evaluate the loss at points that are uniformly distributed over a simplicial complex.

    Args:
        simplex: A simplicial complex, as from `fit_simplex`.
        task: Model, data and likelihood; losses are those on its data.
        num_points: Number of points in addition to the vertices, at least 1.
        generator: Random number generator, for the points; seeded with 0 if None.
        progress: Whether to show a progress bar.

    Returns:
        The losses, first at the vertices (networks, then connecting vertices), then at the points. The largest of
        ``excess`` is the barrier of the complex.

    Raises:
        InvalidInputError: If the complex and the model do not fit each other, or ``num_points`` is less than 1.
    """
    require_task(task)
    if not isinstance(simplex, SimplicialComplex):
        raise_wrong_type(simplex, "a `SimplicialComplex`", "fit one with `rebasin_core.fit_simplex`")
    generator = generator or torch.Generator().manual_seed(0)
    drawn = simplex.draw_weights(num_points, generator=generator)
    weights = torch.cat([torch.eye(drawn.shape[1], dtype=torch.float64), drawn])
    evaluator = Evaluator(task, simplex.vertices[0])
    bar = tqdm(weights.tolist(), desc="simplex", unit="point", leave=False, disable=not progress)
    losses = [evaluator.loss(simplex.at(row), where=f"the point {row} of the complex").loss for row in bar]
    loss = torch.tensor(losses, dtype=torch.float64)
    return HullLosses(weights, loss, loss - weights @ loss[: weights.shape[1]], torch.zeros_like(loss))


@final
@dataclass(frozen=True, slots=True, eq=False)
class StarCenter:
    """Trained center of a star.

    Attributes:
        center: The network, for `star` with ``center``.
        history: Mean training loss on the segments of each epoch, in nats per example.
    """

    center: PointPosterior
    history: tuple[float, ...]


def fit_center(
    networks: Sequence[PosteriorLike],
    task: Task,
    *,
    epochs: int = 10,
    learning_rate: float = 1e-3,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> StarCenter:
    r"""Train a network that is linearly connected with several aligned networks: the center of a star.

    $$ \min_\theta \; \frac1K \sum_k \mathbb E_{t \sim U(0, 1)}\, L\big((1 - t)\, \theta + t\, \theta_k\big) $$

    It is initialized at the mean of the networks. Estimate the loss on the segments by `star` with ``center``, on test
    data.

    Args:
        networks: Networks, at least one, already aligned with each other; of posteriors, the means.
        task: Model, data and likelihood. The center is trained on its calibration data, which should be training data.
        epochs: Number of passes over the training data.
        learning_rate: Initial learning rate of Adam; it decreases to zero along a half cosine.
        generator: Random number generator; seeded with 0 if None.
        progress: Whether to show a progress bar.

    Returns:
        The center and the history of its training.

    Raises:
        InvalidInputError: If the networks, the model and the data do not fit each other.
        ConfigError: If an option is out of range.
        DivergenceError: If training diverges.

    References:
        A. Sonthalia et al. (2024), "Do deep neural network solutions form a star domain?", arXiv 2403.07968.

    Examples:
        >>> import torch
        >>> from rebasin_core import Task, fit_center, star
        >>> models = [torch.nn.Linear(1, 2) for _ in range(3)]
        >>> task = Task(models[0], [(torch.ones(4, 1), torch.tensor([0, 1, 0, 1]))])
        >>> found = fit_center(models, task, epochs=1)
        >>> len(star(models, task, center=found.center, num_points=3).curves)
        3
    """
    options = FitOptions(epochs=epochs, learning_rate=learning_rate)
    points, held = training_of(networks, task)
    seed = 0 if generator is None else random_seed(generator)
    with torch.no_grad():
        fitted = fit_star_center(held, points, options, seed=seed, progress=progress)
    return StarCenter(fitted.points[0], fitted.history)


def training_of(networks: Sequence[PosteriorLike], task: Task) -> tuple[list[PointPosterior], HeldTask]:
    """Return networks on one device, and the task of training on the calibration data.

    Args:
        networks: Networks or posteriors, of which the means are used.
        task: Model, data and likelihood.

    Returns:
        The networks, and the task on their device.

    Raises:
        InvalidInputError: If there is no network, or the networks, the model and the data do not fit each other.
    """
    require_task(task)
    posteriors = as_posteriors(networks, model=task.model)
    points = [PointPosterior(q.mean, buffers=q.buffers) for q in posteriors]
    require_points(points, 1, "networks")
    like = points[0]
    points = [point.to(device=like.device, dtype=like.dtype) for point in points]
    model = FunctionalModel(task.model, device=like.device, dtype=like.dtype)
    model.check({**like.mean, **like.buffers}, "the first network")
    batches = held_batches(model, task.fitting_data)
    return points, fitting_task(task.model, batches, as_likelihood(task.likelihood), like)
