"""The update direction of Stein variational gradient descent."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from rebasin_core.tensors.precision import working_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

# Positive in single precision, with an inverse that is finite.
_TINY = 1e-30


def squared_particle_distances(particles: Mapping[str, Tensor]) -> Tensor:
    r"""Return the squared distances $\lVert \theta_i - \theta_j \rVert^2$ between all particles.

    Args:
        particles: Stacked tensors by name, each ``[K, *s]``.

    Returns:
        ``[K, K]``, in at least single precision; zero on the diagonal.
    """
    total: Tensor | None = None
    for tensor in particles.values():
        rows = _rows(tensor)
        # Centered: the difference of large numbers loses precision.
        centered = rows - rows.mean(0)
        squares = centered.square().sum(1)
        distances = squares[:, None] + squares - 2 * centered @ centered.T
        total = distances if total is None else total + distances
    if total is None:
        return torch.zeros((0, 0))
    return total.clamp_min(0).fill_diagonal_(0)


def squared_median_bandwidth(squared_distances: Tensor) -> Tensor:
    r"""Return the bandwidth $h = \mathrm{med}^2 / \log K$ of the RBF kernel $\exp(-\lVert x - y \rVert^2 / h)$.

    Here $\mathrm{med}$ is the median distance between two different particles. With this bandwidth, the kernel values
    of a particle and all others sum to about 1.

    Args:
        squared_distances: ``[K, K]``.

    Returns:
        A nonnegative scalar; 0 with one particle.
    """
    count = len(squared_distances)
    if count <= 1:
        return squared_distances.new_zeros(())
    above = torch.triu_indices(count, count, 1, device=squared_distances.device)
    # Interpolated between the two middle values: `torch.median` returns the lower one.
    median = squared_distances[above[0], above[1]].sqrt().quantile(0.5)
    return median.square() / math.log(count)


def stein_direction(
    particles: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    *,
    repulsion: float,
    bandwidth: float | None = None,
) -> dict[str, Tensor]:
    r"""Return the direction in which SVGD decreases each particle, for gradients of a loss $\tilde U$.

    $$ d_i = \frac1K \sum_{j=1}^K \Big( k(\theta_j, \theta_i) \nabla \tilde U(\theta_j)
       - \rho\, \nabla_{\theta_j} k(\theta_j, \theta_i) \Big), \qquad
       k(\theta, \theta') = \exp\!\big(-\lVert \theta - \theta' \rVert^2 / h\big) $$

    Args:
        particles: The particles $\theta_j$ by name, each ``[K, *s]``.
        gradients: The gradients $\nabla \tilde U(\theta_j)$ by name, of the same shapes.
        repulsion: The weight $\rho$ of the repulsion, at least 0; $1 / N$ if $\tilde U$ is the negative log posterior
            divided by $N$.
        bandwidth: The bandwidth as a length $\ell$, with $h = \ell^2$; the median heuristic if None.

    Returns:
        The directions by name, of the shapes and dtypes of the gradients.
    """
    distances = squared_particle_distances(particles)
    if bandwidth is None:
        # Below this bound, distances are rounding errors, and repulsion would be proportional to their inverse.
        squared = squared_median_bandwidth(distances).clamp_min(_least_bandwidth(particles))
    else:
        squared = distances.new_tensor(bandwidth**2)
    kernel = torch.exp(-distances / squared)
    sums = kernel.sum(1, keepdim=True)
    count = len(kernel)
    directions: dict[str, Tensor] = {}
    for name, gradient in gradients.items():
        rows = _rows(gradient)
        # The sum over j of k_ij (x_j - x_i), in which a common shift of all particles cancels.
        points = _rows(particles[name])
        centered = points - points.mean(0)
        attraction = (kernel @ centered - sums * centered) / squared
        direction = (kernel @ rows + 2 * repulsion * attraction) / count
        directions[name] = direction.to(gradient.dtype).reshape(gradient.shape)
    return directions


def _least_bandwidth(particles: Mapping[str, Tensor]) -> float:
    """Return the mean squared norm of the particles times the rounding error of their dtype; positive."""
    rows = [_rows(tensor) for tensor in particles.values()]
    norm = sum(float(each.square().sum(1).mean()) for each in rows)
    return max(max(torch.finfo(each.dtype).eps for each in rows) * norm, _TINY)


def _rows(stacked: Tensor) -> Tensor:
    """Return a stack as a matrix with one row for each particle, in at least single precision."""
    return stacked.detach().reshape(len(stacked), -1).to(working_dtype(stacked.dtype))
