"""The loss of a distribution over networks, with its standard errors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.metric import Metric
from rebasin_core.evaluation.trust import degrees_of_freedom, interval, why_untrusted
from rebasin_core.tensors.statistics import log_mean_exp, mean_stderr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.evaluation.predictive import Predictions

# Contrasts of each example's samples, where examples have different numbers of samples: many for those with many.
_CONTRASTS = 16


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
        bias: Estimate of the upward bias of `loss` from the finite number of samples, by the jackknife:
            ``loss - bias`` is corrected. Zero for a single sample, from which it cannot be estimated.
        example_losses: ``[N]``: the terms of $L$; their standard error is the error from the finite data set.
        sample_influence: Numbers, one for each independent sample, pair or group of samples, whose standard error is
            the Monte Carlo error: the pseudo-values of the jackknife. If noise is independent across examples, these
            are contrasts of the samples of every example, several times ``[N]``.
        effective_samples: ``[N]``: the number of samples that each example's loss rests on,
            $(\sum_s p_s)^2 / \sum_s p_s^2$, between 1 (2 for antithetic pairs) and S; None for other metrics.
        bias_errors: ``[N]``: of each example, the order of magnitude of what `bias` leaves out; None where that is
            nothing.
        independent: Whether the noise of one example has nothing to do with that of another.
        is_point: Whether the loss is that of one network, with nothing random.
    """

    loss: float
    gibbs: float
    score: float
    score_name: str
    bias: float
    example_losses: Tensor
    sample_influence: Tensor
    effective_samples: Tensor | None = None
    bias_errors: Tensor | None = None
    independent: bool = False
    is_point: bool = False

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
            estimates = [
                cls.of(part, where=where, metric=metric, contrasts=_CONTRASTS) for _, part in predictions.parts
            ]
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
            effective_samples=None if found.effective_samples is None else found.effective_samples.cpu(),
            bias_errors=None if found.bias_errors is None else found.bias_errors.cpu(),
            independent=predictions.independent,
            is_point=predictions.is_point,
        )

    @property
    def stderr(self) -> float:
        """The Monte Carlo standard error of `loss`; 0 for one network, NaN for a single sample of a distribution."""
        return 0.0 if self.is_point else mean_stderr(self.sample_influence).item()

    @property
    def data_stderr(self) -> float:
        """The standard error of `loss` from the finite number of examples; NaN for a single example."""
        return mean_stderr(self.example_losses).item()

    @property
    def notes(self) -> tuple[str, ...]:
        """Why the stated Monte Carlo error cannot be trusted; empty if it can."""
        if self.is_point:
            return ()
        reason = why_untrusted(self.sample_influence, self.bias_error, independent=self.independent)
        return () if reason is None else (f"the Monte Carlo errors of the loss cannot be trusted: {reason}",)

    @property
    def bias_error(self) -> float:
        """The order of magnitude of what `bias` leaves out."""
        return 0.0 if self.bias_errors is None else self.bias_errors.mean().item()

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the Monte Carlo confidence interval of the loss, corrected for the bias (Student's t distribution).

        Args:
            level: The probability that it is to cover, in (0, 1).

        Returns:
            Both ends; NaN for a single sample.

        Raises:
            InvalidInputError: If the level is not in (0, 1).
        """
        degrees = degrees_of_freedom(self.sample_influence, independent=self.independent)
        return interval(self.loss - self.bias, self.stderr, degrees, level)


def _joined(rows: Sequence[Tensor], parts: Sequence[LossEstimate]) -> LossEstimate:
    """Return the estimate on all examples from those on parts of them, given the indices of the examples."""
    order = torch.cat(list(rows)).cpu().argsort()
    shares = [len(own) / len(order) for own in rows]

    def mean(name: str) -> float:
        return math.fsum(share * getattr(part, name) for share, part in zip(shares, parts, strict=True))

    def every(name: str) -> Tensor | None:
        found = [getattr(part, name) for part in parts]
        return None if any(values is None for values in found) else torch.cat(found)[order]

    return LossEstimate(
        loss=mean("loss"),
        gibbs=mean("gibbs"),
        score=mean("score"),
        score_name=parts[0].score_name,
        bias=mean("bias"),
        example_losses=torch.cat([part.example_losses for part in parts])[order],
        sample_influence=torch.cat([_padded(part) for part in parts], 1)[:, order].flatten(),
        effective_samples=every("effective_samples"),
        bias_errors=every("bias_errors"),
        independent=True,
    )


def _padded(part: LossEstimate) -> Tensor:
    """Return the contrasts of a stratum's examples as ``[_CONTRASTS, N]``; few samples have fewer contrasts."""
    own = part.sample_influence.reshape(-1, len(part.example_losses))
    # The mean square over all rows, zeros included, is that over the stratum's own rows times the number of rows.
    scale = _CONTRASTS / len(own)
    return torch.cat([own * scale, own.new_zeros(_CONTRASTS - len(own), own.shape[1])])
