"""Training of the connecting vertices of a simplicial complex, and of the center of a star."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from rebasin_core.landscapes.fitting import FitSettings, fit_points
from rebasin_core.landscapes.points import weighted_point
from rebasin_core.landscapes.simplex import SimplicialComplex, log_volume, uniform_weights
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.strategy import Options
from rebasin_core.tensors.noise import random_seed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.evaluation.predictive import HeldTask
    from rebasin_core.landscapes.fitting import FittedPoints


class FitOptions(Options):
    """Options of training points in weight space.

    Raises:
        ConfigError: If an option is invalid.
    """

    epochs: NonNegativeInt = 10
    """Number of passes over the training data for each point."""

    learning_rate: PositiveFloat = 1e-3
    """Initial learning rate of Adam; it decreases to zero along a half cosine."""


@final
class ComplexOptions(FitOptions):
    """Options of training a simplicial complex.

    Raises:
        ConfigError: If an option is invalid.
    """

    num_connectors: PositiveInt = 1
    """Number of connecting vertices."""

    regularization: NonNegativeFloat = 1e-3
    """Weight of the log volume, in nats per example."""

    perturbation: PositiveFloat = 0.1
    """Norm of the random perturbation of a new vertex, as a fraction of the norm of each tensor."""


def grow_complex(
    task: HeldTask,
    networks: Sequence[PointPosterior],
    options: ComplexOptions,
    *,
    generator: torch.Generator,
    progress: bool = False,
) -> SimplicialComplex:
    r"""Train connecting vertices sequentially.

    Each new vertex is initialized at the mean of the vertices so far plus noise, and minimizes

    $$ \mathbb E_{\theta \sim \mathcal K}\, L(\theta) - \lambda \log V(\mathcal K) $$

    Args:
        task: Model, training data and likelihood, as from `fitting_task`.
        networks: The networks to connect, at least one; not trained.
        options: Numbers of vertices and epochs, learning rate, weight $\lambda$ of the volume.
        generator: Random number generator.
        progress: Whether to show a progress bar.

    Returns:
        The complex.
    """
    count = len(networks)
    connectors: list[PointPosterior] = []
    history: list[float] = []
    for index in range(options.num_connectors):
        label = f"vertex {count + index}"
        settings = FitSettings(options.epochs, options.learning_rate, random_seed(generator), progress, label)
        fixed = [*networks, *connectors]
        start = _perturbed(weighted_point(fixed, [1 / len(fixed)] * len(fixed)), options.perturbation, generator)

        def draw(own: torch.Generator, num_connectors: int = index + 1) -> list[float]:
            inner = uniform_weights(1, num_connectors + 1, generator=own)[0].tolist()
            chosen = int(torch.randint(count, (), generator=own))
            return [*(inner[0] if index == chosen else 0.0 for index in range(count)), *inner[1:]]

        def penalty(means: Sequence[Mapping[str, Tensor]]) -> Tensor:
            volumes = torch.stack([log_volume([network, *means[count:]]) for network in means[:count]])
            return -options.regularization * torch.logsumexp(volumes, 0)

        fitted = fit_points(task, fixed, [start], draw, settings, penalty=penalty if options.regularization else None)
        connectors += fitted.points
        history += fitted.history
    return SimplicialComplex(tuple(networks), tuple(connectors), tuple(history))


def fit_star_center(
    task: HeldTask, networks: Sequence[PointPosterior], options: FitOptions, *, seed: int, progress: bool = False
) -> FittedPoints:
    r"""Train a network that minimizes the loss on the segments to several networks.

    $$ \min_\theta \; \frac1K \sum_k \mathbb E_{t \sim U(0, 1)}\, L\big((1 - t)\, \theta + t\, \theta_k\big) $$

    Args:
        task: Model, training data and likelihood, as from `fitting_task`.
        networks: The networks $\theta_k$, at least one; their mean is the initialization.
        options: Number of epochs and learning rate.
        seed: Seed of the random points.
        progress: Whether to show a progress bar.

    Returns:
        The center as the only point, and the history.
    """
    count = len(networks)

    def draw(generator: torch.Generator) -> list[float]:
        chosen = int(torch.randint(count, (), generator=generator))
        t = torch.rand((), generator=generator).item()
        return [*(t if index == chosen else 0.0 for index in range(count)), 1 - t]

    settings = FitSettings(options.epochs, options.learning_rate, seed, progress, "center")
    return fit_points(task, networks, [weighted_point(networks, [1 / count] * count)], draw, settings)


def _perturbed(point: PointPosterior, scale: float, generator: torch.Generator) -> PointPosterior:
    """Return a network with Gaussian noise, whose norm is a fraction of the norm of each tensor."""
    mean: dict[str, Tensor] = {}
    for name, tensor in point.mean.items():
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
        norm = tensor.norm()
        # A tensor of zeros, such as a new bias, gets noise of norm `scale`.
        size = torch.where(norm > 0, norm, torch.ones_like(norm))
        mean[name] = tensor + scale * size * noise / noise.norm().clamp_min(1e-12)
    return PointPosterior(mean, buffers=point.buffers)
