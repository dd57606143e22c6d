"""Metrics of predictive distributions over classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rebasin_core.errors import InvalidInputError

if TYPE_CHECKING:
    from torch import Tensor


def brier_score(probabilities: Tensor, targets: Tensor) -> float:
    r"""Return the mean over examples of $\sum_k (p_k - 1[y = k])^2$, from 0 to 2.

    Args:
        probabilities: ``[N, K]``, rows summing to 1.
        targets: ``[N]`` class numbers.

    Returns:
        The score; lower is better.

    Raises:
        InvalidInputError: If the two do not fit each other.

    References:
        G. Brier (1950), "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78.

    Example:
        >>> brier_score(torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
        0.5
    """
    _require_probabilities(probabilities, targets)
    truth = torch.nn.functional.one_hot(targets, probabilities.shape[1]).to(probabilities)
    return (probabilities - truth).square().sum(-1).mean().item()


def expected_calibration_error(probabilities: Tensor, targets: Tensor, *, bins: int = 15) -> float:
    r"""Return $\sum_b \frac{n_b}{N} \lvert \mathrm{acc}_b - \mathrm{conf}_b \rvert$ over bins of equal width.

    Args:
        probabilities: ``[N, K]``, rows summing to 1.
        targets: ``[N]`` class numbers.
        bins: Number of bins of the confidence (the largest probability), at least 1; figures with other numbers of bins
            cannot be compared.

    Returns:
        The error, in [0, 1].

    Raises:
        InvalidInputError: If the two do not fit each other, or there are no bins.

    References:
        M. Naeini, G. Cooper, M. Hauskrecht (2015), AAAI; C. Guo et al. (2017), "On calibration of modern neural
        networks", ICML, arXiv 1706.04599, equation 3.

    Example:
        >>> round(expected_calibration_error(torch.tensor([[0.75, 0.25]]), torch.tensor([0])), 4)
        0.25
    """
    _require_probabilities(probabilities, targets)
    if bins < 1:
        message = f"expected at least one bin, got {bins!r}"
        raise InvalidInputError(message)
    confidence, predicted = (t.double() if t.is_floating_point() else t for t in probabilities.max(-1))
    # Bins are closed above, as in the papers: 0 alone falls into the first from below.
    place = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    gap = (predicted == targets).double() - confidence
    sums = torch.zeros(bins, dtype=torch.float64, device=gap.device).index_add_(0, place, gap)
    return (sums.abs().sum() / len(targets)).item()


def _require_probabilities(probabilities: Tensor, targets: Tensor) -> None:
    if probabilities.dim() != 2 or targets.shape != probabilities.shape[:1] or not len(targets):  # ruff: ignore[magic-value-comparison] - [N, K]
        message = (
            f"expected probabilities [N, K] and class numbers [N], got {list(probabilities.shape)} and "
            f"{list(targets.shape)}"
        )
        raise InvalidInputError(message)
    worst = (probabilities.sum(-1) - 1).abs().max().item()
    if not worst < 1e-2 or bool((probabilities < 0).any()):  # ruff: ignore[magic-value-comparison] - half precision
        message = f"expected rows of probabilities, got sums that are off by {worst:.2g}; apply softmax first"
        raise InvalidInputError(message)
