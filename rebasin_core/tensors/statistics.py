"""Closed forms and Monte Carlo statistics used by posteriors and barriers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from typing_extensions import override

if TYPE_CHECKING:
    from torch import Tensor


def log_mean_exp(values: Tensor, dim: int = 0) -> Tensor:
    r"""Return $\log \frac{1}{S} \sum_s e^{v_s}$ along a dimension, without overflow.

    Args:
        values: Any shape.
        dim: The dimension averaged over.

    Returns:
        ``values`` without that dimension.
    """
    return torch.logsumexp(values, dim=dim) - math.log(values.shape[dim])


def gaussian_kl(mean: Tensor, stddev: Tensor, other_mean: Tensor, other_stddev: Tensor) -> Tensor:
    r"""Return the Kullback-Leibler divergence between independent Gaussians, summed over entries.

    $$ \mathrm{KL}(q \| p) = \sum_i \log\frac{s'_i}{s_i} + \frac{s_i^2 + (m_i - m'_i)^2}{2 s'^2_i} - \frac12 $$

    Args:
        mean: Means of $q$, any shape.
        stddev: Standard deviations of $q$, positive, same shape.
        other_mean: Means of $p$, broadcastable.
        other_stddev: Standard deviations of $p$, positive, broadcastable.

    Returns:
        A scalar, in nats: the true sum, not a mean over entries or layers.
    """
    ratio = (stddev / other_stddev) ** 2
    shift = ((mean - other_mean) / other_stddev) ** 2
    return 0.5 * (ratio + shift - 1.0 - torch.log(ratio)).sum()


def normal_log_density(standard: Tensor, stddev: Tensor) -> Tensor:
    r"""Return the log density of independent Gaussians, summed over the entries of the standard deviations.

    $$ \sum_i -\tfrac12 z_i^2 - \log s_i - \tfrac12 \log 2\pi, \qquad z_i = (x_i - m_i) / s_i $$

    Args:
        standard: $z$: ``[*lead, *s]``.
        stddev: $s$: ``[*s]``, positive.

    Returns:
        ``[*lead]``, in nats.
    """
    density = -0.5 * standard.square() - stddev.log() - 0.5 * math.log(2 * math.pi)
    return density.reshape((*density.shape[: density.dim() - stddev.dim()], -1)).sum(-1)


def symmetrization_bound(log_density: Tensor, permuted: Tensor) -> Tensor:
    r"""Return a one-sample estimate of a lower bound of the mutual information in `PermutationInformation`.

    $$ \log q(\theta) - \log \frac{1}{M + 1} \Big(q(\theta) + \sum_{m=1}^M q(g_m \theta)\Big) \le \log (M + 1) $$

    with $\theta \sim q$ and uniform permutations $g_m$. It does not change if a constant is added to all log densities.

    Args:
        log_density: $\log q(\theta)$, a scalar.
        permuted: $\log q(g_m \theta)$, ``[M]``.

    Returns:
        A scalar, in nats, differentiable.

    References:
        A. van den Oord, Y. Li, O. Vinyals (2018), "Representation learning with contrastive predictive coding", arXiv
        1807.03748 (the bound); Y. Gelberg et al. (2024), arXiv 2408.05496 (for permutations of units).
    """
    return log_density - log_mean_exp(torch.cat([log_density[None], permuted]))


def isotropic_kl(mean: Tensor, stddev: Tensor, scale: Tensor | float) -> Tensor:
    r"""Return `gaussian_kl` from a centered isotropic Gaussian, computed with fewer passes over the tensors.

    $$ \mathrm{KL} = \frac{\lVert m \rVert^2 + \lVert s \rVert^2}{2\sigma^2} - \sum_i \log s_i
       + n \left(\log\sigma - \tfrac12\right) $$

    Args:
        mean: Means, any shape.
        stddev: Standard deviations, positive, same shape.
        scale: Standard deviation $\sigma$ of the centered Gaussian, a positive scalar.

    Returns:
        A scalar, in nats.
    """
    m = mean.flatten()
    s = stddev.flatten()
    scale = torch.as_tensor(scale, dtype=m.dtype, device=m.device)
    found: tuple[Tensor, Tensor] = _SquaresAndLogs.apply(m, s)  # type: ignore[no-untyped-call]  # of torch
    squares, logs = found
    return squares / (2 * scale**2) - logs + m.numel() * (scale.log() - 0.5)


class _SquaresAndLogs(torch.autograd.Function):
    r"""$m^\top m + s^\top s$ and the sum of $\log s_i$, with one pass over each gradient instead of three."""

    generate_vmap_rule = True

    @staticmethod
    @override
    def forward(m: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return torch.dot(m, m) + torch.dot(s, s), s.log().sum()

    @staticmethod
    @override
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        del output
        ctx.save_for_backward(*inputs)

    @staticmethod
    @override
    def backward(ctx: Any, of_squares: Tensor, of_logs: Tensor) -> tuple[Tensor, Tensor]:
        m, s = ctx.saved_tensors
        return 2 * of_squares * m, torch.addcdiv(2 * of_squares * s, of_logs, s)


def mean_stderr(values: Tensor, dim: int = -1) -> Tensor:
    """Return the standard error of the mean of independent values.

    Args:
        values: Any shape.
        dim: The dimension averaged over.

    Returns:
        ``values`` without that dimension; NaN for a single value, whose standard deviation is undefined.
    """
    count = values.shape[dim]
    if count < 2:
        return torch.full_like(values.select(dim, 0), math.nan)
    return values.std(dim=dim, correction=1) / math.sqrt(count)
