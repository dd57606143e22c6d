"""The loss of a distribution over networks, with its standard errors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, final

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.statistics import log_mean_exp, mean_stderr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from rebasin_core.evaluation.predictive import Predictions

_RESAMPLES = 64
# So many numbers know their spread to 4 per cent.
_ENOUGH = 256
MetricName: TypeAlias = Literal["nll", "gibbs", "error", "brier", "squared_error"]


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
        sample_influence: How far each sample (or pair, or resample) moves $L$; their spread is the Monte Carlo
            error. Where noise belongs to one example, these are contrasts of the samples of every example: ``[N]``,
            or several times as many for a few examples.
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
        metric: MetricName = "nll",
        contrasts: int | None = None,
    ) -> LossEstimate:
        """Return the estimate from predictions.

        Args:
            predictions: As from `evaluation.predict`.
            where: What was evaluated, for messages.
            metric: What stands in the place of the predictive loss: ``nll`` (that loss), ``gibbs``, or a metric of the
                averaged prediction (``error``, ``brier``, ``squared_error``), whose Monte Carlo error is found by
                drawing groups of samples again (bootstrap); `predict` must have kept groups then.
            contrasts: Where noise belongs to one example: how many contrasts of its samples tell the Monte Carlo error;
                as many as are enough, if not given.

        Returns:
            The estimate.

        Raises:
            InvalidInputError: If a loss is not finite, or the predictions do not have what the metric needs.
        """
        if predictions.parts:
            how: dict[str, Any] = {"where": where, "metric": metric, "contrasts": 1}
            return _joined([(stratum.rows, cls.of(part, **how)) for stratum, part in predictions.parts])
        log_prob = predictions.log_prob
        losses = -log_mean_exp(log_prob, dim=0)
        bad = int((~torch.isfinite(losses)).sum().item())
        if bad:
            message = (
                f"the loss at {where} is not finite on {bad} of {losses.numel()} examples; look for weights that "
                "diverged, or inputs that are not numbers"
            )
            raise InvalidInputError(message)
        bias = 0.0
        if metric == "nll":
            # p_s / mean(p): with mean 1 over samples; the derivative of -log mean(p) in the direction of sample s.
            drawn = _independent(1.0 - torch.exp(log_prob + losses), predictions)
            if len(drawn) > 1:
                bias = (drawn.var(dim=0, correction=1).mean() / (2 * len(drawn))).item()
            examples, influence = losses, _influence(drawn, predictions, contrasts)
        elif metric == "gibbs":
            examples = -log_prob.mean(0)
            influence = _influence(_independent(-log_prob - examples, predictions), predictions, contrasts)
        else:
            examples, influence = _of_prediction(predictions, metric)
        return cls(
            loss=examples.mean().item(),
            gibbs=-log_prob.mean().item(),
            score=predictions.score.mean().item(),
            score_name=predictions.score_name,
            bias=bias,
            example_losses=examples.cpu(),
            sample_influence=influence.cpu(),
        )

    @property
    def stderr(self) -> float:
        """The Monte Carlo standard error of `loss` (delta method); NaN for a single sample."""
        return mean_stderr(self.sample_influence).item()

    @property
    def data_stderr(self) -> float:
        """The standard error of `loss` from the finite number of examples; NaN for a single example."""
        return mean_stderr(self.example_losses).item()


def _independent(effects: Tensor, predictions: Predictions) -> Tensor:
    """Return the effects ``[n, N]`` of draws that are independent: two of opposite noise are one."""
    return effects.unflatten(0, (-1, 2)).mean(1) if predictions.paired else effects


def _influence(effects: Tensor, predictions: Predictions, contrasts: int | None) -> Tensor:
    """Return numbers whose mean has the standard error of the mean of effects ``[n, N]``."""
    count, examples = effects.shape
    if not predictions.independent or count == 1:
        return effects.mean(dim=1)
    # Contrasts of an example's samples, with weights of mean zero and mean square one (cosines): each has the variance
    # of the example's mean, and none is correlated with another. One is enough where there are many examples.
    contrasts = contrasts or min(count - 1, math.ceil(_ENOUGH / examples))
    order, place = torch.arange(1, contrasts + 1), torch.arange(count) + 0.5
    weights = math.sqrt(2) * torch.cos(math.pi / count * torch.outer(order, place)).to(effects)
    return math.sqrt(contrasts) / count * (weights @ effects).flatten()


def _joined(parts: Sequence[tuple[Tensor, LossEstimate]]) -> LossEstimate:
    """Return the estimate on all examples from those on parts of them."""
    order = torch.cat([rows for rows, _ in parts]).cpu().argsort()
    shares = [len(rows) / len(order) for rows, _ in parts]

    def mean(name: str) -> float:
        return math.fsum(share * getattr(part, name) for share, (_, part) in zip(shares, parts, strict=True))

    def every(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for _, part in parts])[order]

    return LossEstimate(
        loss=mean("loss"),
        gibbs=mean("gibbs"),
        score=mean("score"),
        score_name=parts[0][1].score_name,
        bias=mean("bias"),
        example_losses=every("example_losses"),
        sample_influence=every("sample_influence"),
    )


def _of_prediction(predictions: Predictions, metric: MetricName) -> tuple[Tensor, Tensor]:
    """Return a metric of the averaged prediction for every example, and the influence of every resample."""
    groups, targets = predictions.groups, predictions.targets
    if groups is None or targets is None:
        message = f"the metric {metric!r} needs predictions of groups of samples; set `groups` of `predict`"
        raise InvalidInputError(message)
    whole = _each(metric, predictions.prediction, targets)
    count = len(groups)
    if count == 1:
        return whole, whole.new_zeros(1)
    # The same resamples everywhere, so that the errors of places on a path stay paired.
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(count, (_RESAMPLES, count), generator=generator).to(groups.device)
    values = torch.stack([_each(metric, groups[rows].mean(0), targets).mean() for rows in chosen])
    # Their spread, in a form whose standard error of the mean it is.
    return whole, (values - values.mean()) * math.sqrt(_RESAMPLES * count / (count - 1))


def _each(metric: MetricName, prediction: Tensor, targets: Tensor) -> Tensor:
    """Return a metric of a prediction for every example, in float64."""
    if metric == "squared_error":
        if prediction.shape != targets.shape:
            message = f"`squared_error` is for regression, got predictions {list(prediction.shape)}; use `brier`"
            raise InvalidInputError(message)
        return (prediction - targets).double().square().mean(-1)
    if targets.is_floating_point():
        message = f"{metric!r} is for classes, got numbers as targets; use `squared_error`"
        raise InvalidInputError(message)
    if metric == "error":
        return (prediction.argmax(-1) != targets).double()
    truth = torch.nn.functional.one_hot(targets, prediction.shape[-1]).double()
    return (prediction.double() - truth).square().sum(-1)
