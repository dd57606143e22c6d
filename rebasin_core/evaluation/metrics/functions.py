"""Metrics of predictive distributions."""

from __future__ import annotations

import math
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

    Examples:
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

    Examples:
        >>> round(expected_calibration_error(torch.tensor([[0.75, 0.25]]), torch.tensor([0])), 4)
        0.25
    """
    counts, confidence, accuracy = reliability(probabilities, targets, bins=bins)
    return ((counts * (confidence - accuracy)).abs().sum() / len(targets)).item()


def reliability(probabilities: Tensor, targets: Tensor, *, bins: int = 15) -> tuple[Tensor, Tensor, Tensor]:
    """Return how many examples, with what confidence and what accuracy, lie in every bin of the confidence.

    Args:
        probabilities: ``[N, K]``, rows summing to 1.
        targets: ``[N]`` class numbers.
        bins: Number of bins of equal width, at least 1; closed above, as in the papers: 0 falls into the first.

    Returns:
        Counts, mean confidences and accuracies, each ``[bins]``; zeros where a bin is empty.

    Raises:
        InvalidInputError: If the two do not fit each other, or there are no bins.

    References:
        M. DeGroot, S. Fienberg (1983), "The comparison and evaluation of forecasters", The Statistician 32.

    Examples:
        >>> counts, confidence, accuracy = reliability(torch.tensor([[0.75, 0.25]]), torch.tensor([0]), bins=2)
        >>> counts.tolist(), confidence.tolist(), accuracy.tolist()
        ([0.0, 1.0], [0.0, 0.75], [0.0, 1.0])
    """
    _require_probabilities(probabilities, targets)
    if bins < 1:
        message = f"expected at least one bin, got {bins!r}"
        raise InvalidInputError(message)
    largest = probabilities.max(-1)
    confidence = largest.values.double()
    predicted = largest.indices
    place = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    right = (predicted == targets).double()
    sums = [
        torch.zeros(bins, dtype=torch.float64, device=right.device).index_add_(0, place, values)
        for values in (torch.ones_like(right), confidence, right)
    ]
    counts = sums[0].clamp_min(1)
    return sums[0], sums[1] / counts, sums[2] / counts


def predictive_entropy(probabilities: Tensor) -> Tensor:
    r"""Return $-\sum_k p_k \log p_k$ of every prediction.

    Args:
        probabilities: ``[N, K]``, rows summing to 1.

    Returns:
        ``[N]``, in nats.

    Examples:
        >>> round(predictive_entropy(torch.tensor([[0.5, 0.5]])).item(), 4)
        0.6931
    """
    entropy: Tensor = torch.special.entr(probabilities.double()).sum(-1)
    return entropy


def auroc(inside: Tensor, outside: Tensor) -> float:
    r"""Return how well a score tells inputs of another kind: $P(u_{out} > u_{in}) + \tfrac12 P(u_{out} = u_{in})$.

    Args:
        inside: ``[N]``: scores (predictive entropies, say) of inputs like those of the training.
        outside: ``[M]``: scores of other inputs, meant to be larger.

    Returns:
        The area under the receiver operating characteristic: 1 is perfect, 0.5 is chance.

    Raises:
        InvalidInputError: If either is empty or not finite.

    References:
        D. Hendrycks, K. Gimpel (2017), "A baseline for detecting misclassified and out-of-distribution examples", ICLR,
        arXiv 1610.02136.

    Examples:
        >>> auroc(torch.tensor([0.1, 0.4]), torch.tensor([0.3, 0.9]))
        0.75
    """
    for scores in (inside, outside):
        if scores.dim() != 1 or not len(scores) or not bool(torch.isfinite(scores).all()):
            message = f"expected finite scores [N] of at least one input, got shape {list(scores.shape)}"
            raise InvalidInputError(message)
    values = inside.double().sort().values
    below = torch.searchsorted(values, outside.double(), right=False)
    up_to = torch.searchsorted(values, outside.double(), right=True)
    return ((below + up_to).double().mean() / (2 * len(inside))).item()


def agreement(first: Tensor, second: Tensor) -> float:
    """Return the share of examples for which two predictives prefer the same class.

    Args:
        first: ``[N, K]`` probabilities.
        second: The same shape.

    Returns:
        The share.

    Raises:
        InvalidInputError: If the two do not fit each other.

    Examples:
        >>> agreement(torch.tensor([[0.9, 0.1], [0.4, 0.6]]), torch.tensor([[0.6, 0.4], [0.7, 0.3]]))
        0.5
    """
    _require_same(first, second)
    return (first.argmax(-1) == second.argmax(-1)).double().mean().item()


def total_variation(first: Tensor, second: Tensor) -> float:
    r"""Return the mean over examples of $\tfrac12 \sum_k \lvert p_k - q_k \rvert$, from 0 to 1.

    Args:
        first: ``[N, K]`` probabilities.
        second: The same shape.

    Returns:
        The mean distance.

    Raises:
        InvalidInputError: If the two do not fit each other.

    Examples:
        >>> total_variation(torch.tensor([[0.75, 0.25]]), torch.tensor([[0.5, 0.5]]))
        0.25
    """
    _require_same(first, second)
    return (first.double() - second.double()).abs().sum(-1).mean().item() / 2


def gaussian_mixture_crps(means: Tensor, stddevs: Tensor, targets: Tensor) -> Tensor:
    r"""Return the continuous ranked probability score of equally weighted mixtures of Gaussians, in closed form.

    $$ \frac1S \sum_s A(y - \mu_s, \sigma_s^2)
       - \frac1{2S^2} \sum_{r, s} A(\mu_r - \mu_s, \sigma_r^2 + \sigma_s^2), \qquad
       A(m, v) = 2 \sqrt v\, \varphi(m / \sqrt v) + m\, (2 \Phi(m / \sqrt v) - 1) $$

    Args:
        means: ``[S, N, K]``.
        stddevs: The same shape, positive.
        targets: ``[N, K]``.

    Returns:
        ``[N, K]``, in units of the targets; lower is better.

    Raises:
        InvalidInputError: If shapes do not fit.

    References:
        E. Grimit et al. (2006), "The continuous ranked probability score for circular variables and its application to
        mesoscale forecast ensemble verification", QJRMS 132, equation 5 (Gaussian mixtures on the line).

    Examples:
        >>> one, zero = torch.ones(1, 1, 1), torch.zeros(1, 1)
        >>> round(gaussian_mixture_crps(0 * one, one, zero).item(), 4)
        0.2337
    """
    if means.shape != stddevs.shape or means.shape[1:] != targets.shape:
        message = (
            f"expected means and standard deviations [S, N, K] and targets [N, K], got {list(means.shape)}, "
            f"{list(stddevs.shape)} and {list(targets.shape)}"
        )
        raise InvalidInputError(message)
    means = means.double()
    variances = stddevs.double().square()
    score = _expected_absolute(targets - means, variances).mean(0)
    for mean, variance in zip(means, variances, strict=True):  # one row at a time: S^2 N numbers would be many
        score -= _expected_absolute(mean - means, variance + variances).mean(0) / (2 * len(means))
    return score


def _expected_absolute(mean: Tensor, variance: Tensor) -> Tensor:
    """Return the expected absolute value of Gaussian numbers."""
    scale = variance.sqrt()
    standard = mean / scale
    density = torch.exp(-0.5 * standard.square()) / math.sqrt(2 * math.pi)
    absolute: Tensor = 2 * scale * density + mean * (2 * torch.special.ndtr(standard) - 1)
    return absolute


def _require_same(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape or first.dim() != 2 or not len(first):
        message = f"expected two predictives [N, K] of one shape, got {list(first.shape)} and {list(second.shape)}"
        raise InvalidInputError(message)


def _require_probabilities(probabilities: Tensor, targets: Tensor) -> None:
    if probabilities.dim() != 2 or targets.shape != probabilities.shape[:1] or not len(targets):
        message = (
            f"expected probabilities [N, K] and class numbers [N], got {list(probabilities.shape)} and "
            f"{list(targets.shape)}"
        )
        raise InvalidInputError(message)
    worst = (probabilities.sum(-1) - 1).abs().max().item()
    if not worst < 1e-2 or bool((probabilities < 0).any()):
        message = f"expected rows of probabilities, got sums that are off by {worst:.2g}; apply softmax first"
        raise InvalidInputError(message)
