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

# Contrasts per example for adaptive allocation; examples with up to 16 independent samples have fewer.
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
        score: Mean score of the averaged prediction, such as the accuracy or the mean squared error.
        score_name: Name of the score.
        bias: Jackknife estimate of the upward bias of `loss` due to the finite number of samples;
            ``loss - bias`` is corrected. 0 for a single sample, which does not allow an estimate.
        example_losses: ``[N]``: the terms of $L$. Their standard error is the error from the finite dataset. For dense
            targets, which have one loss per element (pixel, token), these are linearized contributions of the examples
            to the ratio $L$: $L + \frac NW \sum_{j \in i} w_j (\ell_j - L)$, with the sum $W$ of all weights $w_j$.
        sample_influence: ``[n]``: values whose standard error is the Monte Carlo standard error, one for each of n
            independent samples, antithetic pairs or groups of samples; for the predictive loss, the jackknife
            pseudo-values. If noise is independent across examples, they are contrasts of the samples of each example,
            and n is a multiple of N.
        effective_samples: ``[N]``: effective number of samples of the loss of each example,
            $(\sum_s p_s)^2 / \sum_s p_s^2$, between 1 (2 for antithetic pairs) and S; None for other metrics.
        bias_errors: ``[N]``: order of magnitude of the error of `bias` for each example; None if it is exact.
        independent: Whether noise is independent across examples.
        is_point: Whether this is the loss of a single network, without Monte Carlo error.
        is_dense: Whether losses are means over elements (pixels, tokens), not over examples.
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
    is_dense: bool = False

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
            predictions: Predictions, as from `evaluation.predict`.
            where: Role of the posterior, for messages.
            metric: Metric to report as the loss: an instance, a registered name, or a mapping with ``name`` and
                options. The predictions must have at least `Metric.num_groups` groups of samples.
            contrasts: As for `Metric.estimate`.

        Returns:
            The estimate.

        Raises:
            InvalidInputError: If a loss is not finite, or the predictions lack groups or targets that the metric needs.
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
                f"non-finite loss at {where} for {bad} of {log_prob.shape[1]} examples; check for diverged weights or "
                "non-finite inputs"
            )
            raise InvalidInputError(message)
        values = metric.estimate(predictions, contrasts=contrasts)
        return cls(
            loss=values.examples.mean().item(),
            gibbs=-predictions.weighted(log_prob).mean().item(),
            score=predictions.score.mean().item(),
            score_name=predictions.score_name,
            bias=values.bias,
            example_losses=_by_example(values.examples, predictions).cpu(),
            sample_influence=values.influence.cpu(),
            effective_samples=None if values.effective_samples is None else values.effective_samples.cpu(),
            bias_errors=None if values.bias_errors is None else values.bias_errors.cpu(),
            independent=predictions.independent,
            is_point=predictions.is_point,
            is_dense=predictions.examples is not None,
        )

    @property
    def stderr(self) -> float:
        """Monte Carlo standard error of `loss`; 0 for a single network, NaN for a single sample of a distribution."""
        return 0.0 if self.is_point else mean_stderr(self.sample_influence).item()

    @property
    def data_stderr(self) -> float:
        """Standard error of `loss` from the finite dataset; NaN for a single example."""
        return mean_stderr(self.example_losses).item()

    @property
    def notes(self) -> tuple[str, ...]:
        """Reasons for which the stated Monte Carlo error cannot be trusted; empty if there are none."""
        if self.is_point:
            return ()
        reason = why_untrusted(self.sample_influence, self.bias_error, independent=self.independent)
        return () if reason is None else (f"the Monte Carlo errors of the loss cannot be trusted: {reason}",)

    @property
    def bias_error(self) -> float:
        """Order of magnitude of the error of `bias`."""
        return 0.0 if self.bias_errors is None else self.bias_errors.mean().item()

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the Monte Carlo confidence interval of the loss: Student's t, corrected for the bias.

        Args:
            level: Nominal coverage probability, in (0, 1).

        Returns:
            Lower and upper limit; NaN for a single sample.

        Raises:
            InvalidInputError: If the level is not in (0, 1).
        """
        degrees = degrees_of_freedom(self.sample_influence, independent=self.independent)
        return interval(self.loss - self.bias, self.stderr, degrees, level)


def _by_example(losses: Tensor, predictions: Predictions) -> Tensor:
    """Return one loss for each example, whose mean is the mean loss and whose standard error is its standard error."""
    if predictions.examples is None:
        return losses
    # Linearization of a ratio of sums over examples (W. Cochran (1977), "Sampling Techniques", chapter 6).
    mean = losses.mean()
    residuals = losses - predictions.weighted(torch.ones_like(losses)) * mean
    count = int(predictions.examples.max().item()) + 1
    sums = residuals.new_zeros(count).index_add_(0, predictions.examples, residuals)
    return mean + count / len(losses) * sums


def _joined(rows: Sequence[Tensor], parts: Sequence[LossEstimate]) -> LossEstimate:
    """Return the estimate on all examples from the estimates on strata, given the indices of their examples."""
    order = torch.cat(list(rows)).cpu().argsort()
    shares = [len(part_rows) / len(order) for part_rows in rows]

    def mean(name: str) -> float:
        return math.fsum(share * getattr(part, name) for share, part in zip(shares, parts, strict=True))

    def joined(name: str) -> Tensor | None:
        values = [getattr(part, name) for part in parts]
        return None if any(value is None for value in values) else torch.cat(values)[order]

    return LossEstimate(
        loss=mean("loss"),
        gibbs=mean("gibbs"),
        score=mean("score"),
        score_name=parts[0].score_name,
        bias=mean("bias"),
        example_losses=torch.cat([part.example_losses for part in parts])[order],
        sample_influence=torch.cat([_padded(part) for part in parts], 1)[:, order].flatten(),
        effective_samples=joined("effective_samples"),
        bias_errors=joined("bias_errors"),
        independent=True,
    )


def _padded(part: LossEstimate) -> Tensor:
    """Return the contrasts of a stratum as ``[_CONTRASTS, N]``, with rows of zeros where there are fewer."""
    rows = part.sample_influence.reshape(-1, len(part.example_losses))
    # This factor keeps the variance that the strata together contribute, in spite of the rows of zeros.
    scale = _CONTRASTS / len(rows)
    return torch.cat([rows * scale, rows.new_zeros(_CONTRASTS - len(rows), rows.shape[1])])
