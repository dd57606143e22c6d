"""The loss of a distribution over networks, with its standard errors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.metric import Metric
from rebasin_core.tensors.statistics import log_mean_exp, mean_stderr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
            likelihood, divided by 2S. Zero for a single sample, from which it cannot be estimated.
        example_losses: ``[N]``: the terms of $L$; their standard error is the error from the finite data set.
        sample_influence: Influence of each sample (or pair, or resample) on $L$; their standard error is the Monte
            Carlo error. If noise is independent across examples, these are contrasts of the samples of every example:
            ``[N]``, or several times as many for a few examples.
    """

    loss: float
    gibbs: float
    score: float
    score_name: str
    bias: float
    example_losses: Tensor
    sample_influence: Tensor

    @classmethod
    def of(
        cls,
        predictions: Predictions,
        *,
        where: str = "the posterior",
        metric: Metric | str | Mapping[str, object] = "nll",
        contrasts: int | None = None,
    ) -> LossEstimate:
        """Return the estimate from predictions.

        Args:
            predictions: As from `evaluation.predict`.
            where: The posterior that was evaluated, for messages.
            metric: The metric reported as the loss: an instance, a registered name, or a mapping with ``name`` and
                options. `predict` must have kept `Metric.num_groups` groups.
            contrasts: As for `Metric.estimate`.

        Returns:
            The estimate.

        Raises:
            InvalidInputError: If a loss is not finite, or the predictions do not have what the metric needs.
        """
        metric = Metric.of(metric)
        if predictions.parts:
            estimates = [cls.of(part, where=where, metric=metric, contrasts=1) for _, part in predictions.parts]
            return _joined([stratum.rows for stratum, _ in predictions.parts], estimates)
        log_prob = predictions.log_prob
        bad = int((~torch.isfinite(log_mean_exp(log_prob, dim=0))).sum().item())
        if bad:
            message = (
                f"the loss at {where} is not finite on {bad} of {log_prob.shape[1]} examples; look for weights that "
                "diverged, or non-finite inputs"
            )
            raise InvalidInputError(message)
        found = metric.estimate(predictions, contrasts=contrasts)
        return cls(
            loss=found.examples.mean().item(),
            gibbs=-log_prob.mean().item(),
            score=predictions.score.mean().item(),
            score_name=predictions.score_name,
            bias=found.bias,
            example_losses=found.examples.cpu(),
            sample_influence=found.influence.cpu(),
        )

    @property
    def stderr(self) -> float:
        """The Monte Carlo standard error of `loss` (delta method); NaN for a single sample."""
        return mean_stderr(self.sample_influence).item()

    @property
    def data_stderr(self) -> float:
        """The standard error of `loss` from the finite number of examples; NaN for a single example."""
        return mean_stderr(self.example_losses).item()


def _joined(rows: Sequence[Tensor], parts: Sequence[LossEstimate]) -> LossEstimate:
    """Return the estimate on all examples from those on parts of them, given the indices of the examples."""
    order = torch.cat(list(rows)).cpu().argsort()
    shares = [len(own) / len(order) for own in rows]

    def mean(name: str) -> float:
        return math.fsum(share * getattr(part, name) for share, part in zip(shares, parts, strict=True))

    def every(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])[order]

    return LossEstimate(
        loss=mean("loss"),
        gibbs=mean("gibbs"),
        score=mean("score"),
        score_name=parts[0].score_name,
        bias=mean("bias"),
        example_losses=every("example_losses"),
        sample_influence=every("sample_influence"),
    )
