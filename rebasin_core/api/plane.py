"""Losses on the plane through three networks, and in the convex hull of several networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from tqdm import tqdm

from rebasin_core.api.conversion import PosteriorLike, as_posteriors
from rebasin_core.barriers.drawing import new_axes
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.evaluator import Evaluator
from rebasin_core.evaluation.task import require_task
from rebasin_core.landscapes.points import weighted_point, weighted_sum
from rebasin_core.landscapes.simplex import uniform_weights
from rebasin_core.posteriors.barycenters import barycenter_or_moments
from rebasin_core.posteriors.checks import require_same_tensors
from rebasin_core.posteriors.paths import coupled_samples
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.posteriors.samples import SamplesPosterior
from rebasin_core.report.drawing import draw_loss_plane
from rebasin_core.tensors.frames import data_frame
from rebasin_core.tensors.noise import random_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from torch import Tensor

    from rebasin_core.evaluation.loss import LossEstimate
    from rebasin_core.evaluation.task import Task
    from rebasin_core.posteriors.base import Posterior


@final
@dataclass(frozen=True, slots=True)
class LossPlane:
    """Loss on the plane through three networks or posteriors.

    Attributes:
        u: ``[A]``: coordinates along the direction from the first network to the second (Euclidean distance in
            parameter space).
        v: ``[B]``: coordinates along the orthogonal direction, positive toward the third network.
        loss: ``[B, A]``: loss in nats per example.
        points: ``[3, 2]``: coordinates (u, v) of the three networks.
        stderr: ``[B, A]``: Monte Carlo standard error of ``loss``; zero for single networks.
    """

    u: Tensor
    v: Tensor
    loss: Tensor
    points: Tensor
    stderr: Tensor

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas data frame with a row for each point of the grid: u, v and loss.

        Raises:
            PluginError: If pandas is not installed.
        """
        v, u = torch.meshgrid(self.v, self.u, indexing="ij")
        return data_frame({"u": u.flatten().tolist(), "v": v.flatten().tolist(), "loss": self.loss.flatten().tolist()})

    def plot(self, axes: Axes | None = None) -> Axes:
        """Plot the loss as filled contours, and mark the three networks.

        Args:
            axes: Matplotlib axes; those of a new figure if None.

        Returns:
            The axes.

        Raises:
            PluginError: If matplotlib is not installed.
        """
        axes = new_axes() if axes is None else axes
        draw_loss_plane(axes, self.u, self.v, self.loss, self.points)
        return axes


def loss_plane(  # ruff: ignore[too-many-arguments] - the problem's parts, keyword-only after the third
    first: PosteriorLike,
    second: PosteriorLike,
    third: PosteriorLike,
    task: Task,
    *,
    num_points: int = 21,
    margin: float = 0.2,
    num_samples: int | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> LossPlane:
    r"""Evaluate the loss on the plane through three networks, or through three posteriors of any classes.

    $$ \theta(u, v) = \theta_0 + u\, e_u + v\, e_v, \qquad e_u \propto \theta_1 - \theta_0,\quad
       e_v \propto (\theta_2 - \theta_0) - \langle \theta_2 - \theta_0, e_u\rangle e_u $$

    For posteriors, the plane contains their means. With ``num_samples``, the loss is that of the predictive: samples of
    the three posteriors are coupled, and the posterior at (u, v) consists of their affine combinations, with the
    weights that give the mean $\theta(u, v)$. Gaussians of one class are coupled by common noise; for mean-field
    posteriors, the result inside of the triangle is their 2-Wasserstein barycenter. The samples of others are coupled
    by optimal transport.

    Args:
        first: Network at the origin; anything that `as_posterior` accepts. Without ``num_samples``, its buffers are
            used at all points.
        second: Network on the first axis.
        third: Network that spans the plane with the other two.
        task: Model, data and likelihood.
        num_points: Number of points along each axis, at least 2.
        margin: Margin around the three networks, as a fraction of their extent along each axis.
        num_samples: Number of samples of each posterior, with common random numbers at all points; None for the loss of
            the means.
        generator: Random number generator, for the samples; seeded with 0 if None.
        progress: Whether to show a progress bar.

    Returns:
        The losses, and the coordinates of the three networks.

    Raises:
        InvalidInputError: If the three networks are collinear, or do not fit each other, or ``num_samples`` is less
            than 1.

    References:
        T. Garipov et al. (2018), "Loss surfaces, mode connectivity, and fast ensembling of DNNs", NeurIPS, arXiv
        1802.10026, section 5.1 and appendix A.1.
    """
    require_task(task)
    networks = as_posteriors([first, second, third], model=task.model)
    for other in networks[1:]:
        require_same_tensors(networks[0].mean, other.mean, "a network")
    frame = _Frame([q.mean for q in networks])
    if num_points < 2 or not frame.is_plane:
        message = "expected three networks that are not collinear, and `num_points` of at least 2"
        raise InvalidInputError(message)
    u = _grid(frame.points[:, 0], num_points, margin)
    v = _grid(frame.points[:, 1], num_points, margin)
    seed = 0 if generator is None else random_seed(generator)
    point = _means(networks[0], frame) if num_samples is None else _coupled(networks, frame, num_samples, seed)
    evaluator = Evaluator(task, networks[0], num_samples=num_samples or 1, seed=seed)
    loss = torch.zeros((2, num_points, num_points), dtype=torch.float64)
    for row in tqdm(range(num_points), desc="plane", unit="row", leave=False, disable=not progress):
        for column in range(num_points):
            posterior = point(u[column].item(), v[row].item())
            estimate = evaluator.loss(posterior, where=f"point ({row}, {column}) of the plane")
            loss[0, row, column] = estimate.loss
            loss[1, row, column] = 0.0 if estimate.is_point or num_samples == 1 else estimate.stderr
    return LossPlane(u, v, loss[0], frame.points, loss[1])


def _means(origin: Posterior, frame: _Frame) -> Callable[[float, float], Posterior]:
    """Return the function of (u, v) to the single network there."""
    return lambda u, v: PointPosterior(frame.at(u, v, origin.dtype), buffers=origin.buffers)


def _coupled(
    networks: Sequence[Posterior], frame: _Frame, num_samples: int, seed: int
) -> Callable[[float, float], Posterior]:
    """Return the function of (u, v) to the affine combination of coupled samples there."""
    like = networks[0]
    posteriors = [q.to(device=like.device, dtype=like.dtype) for q in networks]
    if all(q.is_point for q in posteriors):
        return lambda u, v: weighted_point(
            [PointPosterior(q.mean, buffers=q.buffers) for q in posteriors], frame.weights(u, v)
        )
    sets = coupled_samples(posteriors, num_samples, seed=seed)
    samples = [{**q.samples, **{n: t.expand(num_samples, *t.shape) for n, t in q.fixed.items()}} for q in sets]
    buffers = [
        {**q.sample_buffers, **{n: t.expand(num_samples, *t.shape) for n, t in q.shared_buffers.items()}} for q in sets
    ]

    def at(u: float, v: float) -> SamplesPosterior:
        weights = frame.weights(u, v)
        return SamplesPosterior(weighted_sum(samples, weights), sample_buffers=weighted_sum(buffers, weights))

    return at


def _grid(coordinates: Tensor, num_points: int, margin: float) -> Tensor:
    """Return equally spaced coordinates that cover the given ones with a margin."""
    low = coordinates.min().item()
    high = coordinates.max().item()
    extra = margin * (high - low)
    return torch.linspace(low - extra, high + extra, num_points, dtype=torch.float64)


@final
class _Frame:
    """Two orthogonal directions through three networks."""

    def __init__(self, means: Sequence[Mapping[str, Tensor]]) -> None:
        origin, *others = [{name: tensor.double() for name, tensor in mean.items()} for mean in means]
        differences = [{name: t - origin[name] for name, t in other.items()} for other in others]
        first = differences[0]
        second = differences[1]
        self._origin = origin
        self._length = _inner(first, first) ** 0.5
        shift = _inner(second, first) / self._length if self._length else 0.0
        rest = {name: t - (shift / self._length if self._length else 0.0) * first[name] for name, t in second.items()}
        self._height = _inner(rest, rest) ** 0.5
        self._first = first
        self._rest = rest
        self.points = torch.tensor([[0.0, 0.0], [self._length, 0.0], [shift, self._height]], dtype=torch.float64)

    @property
    def is_plane(self) -> bool:
        """Whether the three networks are not collinear, up to a relative tolerance of 1e-9."""
        return bool(self._length > 0 and self._height > 1e-9 * self._length)

    def weights(self, u: float, v: float) -> list[float]:
        """Return the weights of the three networks, with sum 1, whose combination is at coordinates (u, v)."""
        b = v / self._height
        a = u / self._length - b * self.points[2, 0].item() / self._length
        return [1 - a - b, a, b]

    def at(self, u: float, v: float, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the parameters at coordinates (u, v)."""
        a = u / self._length
        b = v / self._height
        return {n: (t + a * self._first[n] + b * self._rest[n]).to(dtype) for n, t in self._origin.items()}


def _inner(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    return sum((tensor * second[name]).sum().item() for name, tensor in first.items())


@final
@dataclass(frozen=True, slots=True)
class HullLosses:
    """Losses at random points of the convex hull of K networks or posteriors.

    Attributes:
        weights: ``[M, K]``: barycentric coordinates of each point; the first K points are the vertices.
        loss: ``[M]``: loss in nats per example.
        excess: ``[M]``: loss minus the weighted mean of the losses at the vertices.
        stderr: ``[M]``: Monte Carlo standard error of ``loss``; zero for single networks.
        is_barycenter: Whether the points are 2-Wasserstein barycenters. If none is registered for these classes of
            posteriors, it is false and the points are their `moment_barycenter`, also at the vertices.
    """

    weights: Tensor
    loss: Tensor
    excess: Tensor
    stderr: Tensor
    is_barycenter: bool = True


def hull_losses(
    networks: Sequence[PosteriorLike],
    task: Task,
    *,
    num_points: int = 50,
    num_samples: int = 16,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> HullLosses:
    """Estimate the loss at points sampled uniformly from the simplex spanned by aligned networks or posteriors.

    Args:
        networks: The vertices, at least two, already aligned with each other.
        task: Model, data and likelihood.
        num_points: Number of points in addition to the vertices, at least 0. Each is the barycenter under weights from
            a flat Dirichlet distribution.
        num_samples: Number of posterior samples at each point, with common random numbers; a single network is run
            once.
        generator: Random number generator, for the points; seeded with 0 if None.
        progress: Whether to show a progress bar.

    Returns:
        The losses; the largest of ``excess`` is the barrier of the hull.

    Raises:
        InvalidInputError: If there are fewer than two networks, or they do not fit each other.

    References:
        G. Benton et al. (2021), "Loss surface simplexes for mode connecting volumes and fast ensembling", ICML, arXiv
        2102.13042, section 3.
    """
    require_task(task)
    posteriors = as_posteriors(networks, model=task.model)
    count = len(posteriors)
    if count < 2 or num_points < 0:
        message = f"expected at least two networks and `num_points` of at least 0, got {count} and {num_points!r}"
        raise InvalidInputError(message)
    generator = generator or torch.Generator().manual_seed(0)
    inner = uniform_weights(num_points, count, generator=generator)
    weights = torch.cat([torch.eye(count, dtype=torch.float64), inner])
    evaluator = Evaluator(task, posteriors[0], num_samples=num_samples)
    bar = tqdm(weights.tolist(), desc="hull", unit="point", leave=False, disable=not progress)
    estimates: list[LossEstimate] = []
    exact = True
    for row in bar:
        average, is_barycenter = barycenter_or_moments(posteriors, row)
        estimates.append(evaluator.loss(average, where=f"the point {row} of the hull"))
        exact = exact and is_barycenter
    loss = torch.tensor([estimate.loss for estimate in estimates], dtype=torch.float64)
    stderr = torch.tensor([estimate.stderr for estimate in estimates], dtype=torch.float64).nan_to_num(0.0)
    return HullLosses(weights, loss, loss - weights @ loss[:count], stderr, exact)
