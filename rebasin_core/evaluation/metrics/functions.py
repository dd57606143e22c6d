"""Metrics of predictive distributions, as functions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from rebasin_core.errors import InvalidInputError

if TYPE_CHECKING:
    from torch import Tensor


def brier_score(probabilities: Tensor, targets: Tensor) -> float:
    r"""Return the Brier score: the mean over examples of $\sum_k (p_k - 1[y = k])^2$, in [0, 2].

    Args:
        probabilities: ``[N, K]``, rows summing to 1.
        targets: ``[N]`` class indices.

    Returns:
        The score; lower is better.

    Raises:
        InvalidInputError: If the shapes do not match, or rows are not probabilities.

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
    r"""Return the ECE $\sum_b \frac{n_b}{N} \lvert \mathrm{acc}_b - \mathrm{conf}_b \rvert$ over bins of equal width.

    Args:
        probabilities: ``[N, K]``, rows summing to 1.
        targets: ``[N]`` class indices.
        bins: Number of bins of the confidence (the largest probability), at least 1. Values for different numbers of
            bins are not comparable.

    Returns:
        The error, in [0, 1].

    Raises:
        InvalidInputError: If the shapes do not match, rows are not probabilities, or `bins` is less than 1.

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
    """Return the number of examples, mean confidence and accuracy in each bin of a reliability diagram.

    Args:
        probabilities: ``[N, K]``, rows summing to 1.
        targets: ``[N]`` class indices.
        bins: Number of bins of equal width, at least 1. Bins are closed above, as in the papers; 0 is in the first.

    Returns:
        Counts, mean confidences and accuracies, each ``[bins]``; zero for empty bins.

    Raises:
        InvalidInputError: If the shapes do not match, rows are not probabilities, or `bins` is less than 1.

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
    return binned_reliability(largest.values.double(), (largest.indices == targets).double(), bins=bins)


def binned_reliability(confidence: Tensor, correct: Tensor, *, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the contents of a reliability diagram, as `reliability`, from confidences.

    Args:
        confidence: ``[N]``: the largest probability of each prediction, in float64.
        correct: ``[N]``: 1 for correct predictions and 0 for others, in float64.
        bins: Number of bins, at least 1.

    Returns:
        Counts, mean confidences and accuracies, each ``[bins]``.
    """
    index = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    sums = [
        torch.zeros(bins, dtype=torch.float64, device=correct.device).index_add_(0, index, values)
        for values in (torch.ones_like(correct), confidence, correct)
    ]
    counts = sums[0].clamp_min(1)
    return sums[0], sums[1] / counts, sums[2] / counts


def predictive_entropy(probabilities: Tensor) -> Tensor:
    r"""Return the entropy $-\sum_k p_k \log p_k$ of each prediction.

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
    r"""Return the AUROC of a score for OOD detection, $P(u_{out} > u_{in}) + \tfrac12 P(u_{out} = u_{in})$.

    Args:
        inside: ``[N]``: scores, such as predictive entropies, of in-distribution inputs.
        outside: ``[M]``: scores of out-of-distribution inputs, expected to be larger.

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
    """Return the fraction of examples for which two predictives have the same most probable class.

    Args:
        first: ``[N, K]`` probabilities.
        second: ``[N, K]`` probabilities.

    Returns:
        The fraction, in [0, 1].

    Raises:
        InvalidInputError: If the shapes do not match.

    Examples:
        >>> agreement(torch.tensor([[0.9, 0.1], [0.4, 0.6]]), torch.tensor([[0.6, 0.4], [0.7, 0.3]]))
        0.5
    """
    _require_same(first, second)
    return (first.argmax(-1) == second.argmax(-1)).double().mean().item()


def total_variation(first: Tensor, second: Tensor) -> float:
    r"""Return the mean total variation distance $\tfrac12 \sum_k \lvert p_k - q_k \rvert$ over examples.

    Args:
        first: ``[N, K]`` probabilities.
        second: ``[N, K]`` probabilities.

    Returns:
        The mean distance, in [0, 1].

    Raises:
        InvalidInputError: If the shapes do not match.

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
        means: Means of the S components, ``[S, N, K]``.
        stddevs: Standard deviations of the components, ``[S, N, K]``, positive.
        targets: ``[N, K]``.

    Returns:
        ``[N, K]``, in units of the targets; lower is better.

    Raises:
        InvalidInputError: If the shapes do not match.

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
    for mean, variance in zip(means, variances, strict=True):  # one component at a time: memory S N K, not S^2 N K
        score -= _expected_absolute(mean - means, variance + variances).mean(0) / (2 * len(means))
    return score


def _expected_absolute(mean: Tensor, variance: Tensor) -> Tensor:
    """Return the expected absolute value of Gaussian variables."""
    scale = variance.sqrt()
    standard = mean / scale
    density = torch.exp(-0.5 * standard.square()) / math.sqrt(2 * math.pi)
    absolute: Tensor = 2 * scale * density + mean * (2 * torch.special.ndtr(standard) - 1)
    return absolute


def _require_same(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape or first.dim() != 2 or not len(first):
        message = f"expected two predictives [N, K] of the same shape, got {list(first.shape)} and {list(second.shape)}"
        raise InvalidInputError(message)


def _require_probabilities(probabilities: Tensor, targets: Tensor) -> None:
    if probabilities.dim() != 2 or targets.shape != probabilities.shape[:1] or not len(targets):
        message = (
            f"expected probabilities [N, K] and class indices [N], got {list(probabilities.shape)} and "
            f"{list(targets.shape)}"
        )
        raise InvalidInputError(message)
    worst = (probabilities.sum(-1) - 1).abs().max().item()
    least = probabilities.min().item()
    if not worst < 1e-2 or least < 0:
        message = (
            f"expected non-negative rows that sum to 1, got sums off by up to {worst:.2g} and a minimum of "
            f"{least:.2g}; apply softmax first"
        )
        raise InvalidInputError(message)
