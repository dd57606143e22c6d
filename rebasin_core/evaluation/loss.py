"""The loss of a distribution over networks, with its standard errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.statistics import log_mean_exp, mean_stderr

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.evaluation.predictive import Predictions


@final
@dataclass(frozen=True, slots=True)
class LossEstimate:
    r"""The loss of a distribution $q$ on a data set, estimated from S samples.

    $$ L(q) = -\frac1N \sum_i \log \frac1S \sum_s p(y_i \mid x_i, \theta_s), \qquad
       G(q) = -\frac1{NS} \sum_{i,s} \log p(y_i \mid x_i, \theta_s) $$

    Attributes:
        loss: The predictive loss $L$, nats per example. Biased upward by about `bias`.
        gibbs: The Gibbs loss $G \ge L$, unbiased; the difference is the Jensen gap.
        score: The mean score of the averaged prediction (accuracy, or mean squared error).
        score_name: Its name.
        bias: First-order estimate of the upward bias of `loss`: the mean over examples of the relative variance of the
            likelihood, divided by 2S. Zero for a single sample, where it cannot be seen.
        example_losses: ``[N]``: the terms of $L$; their spread is the error from the data.
        sample_influence: ``[S]``: how far each sample moves $L$; its spread is the Monte Carlo error.
    """

    loss: float
    gibbs: float
    score: float
    score_name: str
    bias: float
    example_losses: Tensor
    sample_influence: Tensor

    @classmethod
    def of(cls, predictions: Predictions, *, where: str = "the posterior") -> LossEstimate:
        """Return the estimate from predictions.

        Args:
            predictions: As from `evaluation.predict`.
            where: What was evaluated, for messages.

        Returns:
            The estimate.

        Raises:
            InvalidInputError: If a loss is not finite.
        """
        log_prob = predictions.log_prob
        losses = -log_mean_exp(log_prob, dim=0)
        bad = int((~torch.isfinite(losses)).sum().item())
        if bad:
            message = (
                f"the loss at {where} is not finite on {bad} of {losses.numel()} examples; look for weights that "
                "diverged, or inputs that are not numbers"
            )
            raise InvalidInputError(message)
        samples = log_prob.shape[0]
        # p_s / mean(p): with mean 1 over samples; the derivative of -log mean(p) in the direction of sample s.
        relative = torch.exp(log_prob + losses)
        bias = 0.0 if samples == 1 else (relative.var(dim=0, correction=1).mean() / (2 * samples)).item()
        return cls(
            loss=losses.mean().item(),
            gibbs=-log_prob.mean().item(),
            score=predictions.score.mean().item(),
            score_name=predictions.score_name,
            bias=bias,
            example_losses=losses.cpu(),
            sample_influence=(1.0 - relative).mean(dim=1).cpu(),
        )

    @property
    def stderr(self) -> float:
        """The Monte Carlo standard error of `loss` (delta method); NaN for a single sample."""
        return mean_stderr(self.sample_influence).item()

    @property
    def data_stderr(self) -> float:
        """The standard error of `loss` from the finite number of examples; NaN for a single example."""
        return mean_stderr(self.example_losses).item()
