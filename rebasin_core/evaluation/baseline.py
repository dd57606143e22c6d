"""The loss of the best constant prediction: the baseline for trained networks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.elements import Elements
from rebasin_core.evaluation.loss import LossEstimate
from rebasin_core.evaluation.metric import Metric
from rebasin_core.evaluation.predictive import HeldTask, Predictions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.evaluation.batches import Batch
    from rebasin_core.evaluation.likelihood import Likelihood


# Only the shape of the outputs is used.
_ROWS = 2
# Maximum number of outputs that are assessed in one call; bounds the memory for many tokens and a large vocabulary.
_CHUNK = 2**24


def constant_loss(task: HeldTask, tensors: Mapping[str, Tensor], metric: Metric | str = "nll") -> float:
    """Return the loss of the best prediction that is the same for all examples (`Likelihood.constant`).

    For classification this prediction is the class frequencies of the targets, and its negative log likelihood is their
    entropy.

    Args:
        task: The model, data and likelihood.
        tensors: Parameters and buffers of any network, run on two examples to determine the shape of the outputs.
        metric: Metric to report: an instance or a registered name.

    Returns:
        The metric of the constant prediction, mean over examples; NaN if `Likelihood.constant` fails.
    """
    metric = Metric.of(metric)
    with torch.no_grad():
        elements = _joined([_elements(task, tensors, batch) for batch in task.batches])
        if elements is None:
            return math.nan
        constant = task.likelihood.constant(elements.outputs[:_ROWS], elements.targets)
        if constant is None:
            return math.nan
        size = max(1, _CHUNK // max(1, constant.numel()))
        assessed = [_assessed(task.likelihood, constant, part) for part in elements.targets.split(size)]
        prediction = torch.cat([each[1] for each in assessed]) if metric.num_groups else constant.new_empty(0)
        weights = None if elements.weights is None else elements.weights.double() / elements.weights.double().mean()
        predictions = Predictions(
            torch.cat([each[0] for each in assessed]).double().unsqueeze(0),
            prediction,
            torch.cat([each[2] for each in assessed]).double(),
            task.likelihood.score_name,
            targets=elements.targets,
            groups=prediction.unsqueeze(0),
            weights=weights,
        )
        try:
            return LossEstimate.of(predictions, metric=metric).loss
        except InvalidInputError:  # infinite targets
            return math.nan


def _elements(task: HeldTask, tensors: Mapping[str, Tensor], batch: Batch) -> Elements:
    """Return elements with the targets of a batch; their outputs are those of its first examples, repeated."""
    inputs, targets = batch
    outputs = task.model(tensors, inputs[:_ROWS])
    likelihood = task.likelihood
    likelihood.check(outputs, targets[:_ROWS])
    return likelihood.elements(outputs[:1].expand(len(targets), *outputs.shape[1:]), targets)


def _assessed(likelihood: Likelihood, constant: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log likelihoods, predictions and scores of the constant for some targets."""
    log_prob, prediction, _ = likelihood.assess(constant.expand(len(targets), *constant.shape), targets)
    return log_prob, prediction, likelihood.score(prediction, targets)


def _joined(parts: list[Elements]) -> Elements | None:
    """Return all elements; None if there are none, or their targets have different shapes."""
    if len({part.targets.shape[1:] for part in parts}) > 1 or not any(len(part.targets) for part in parts):
        return None
    weights = [part.weights for part in parts if part.weights is not None]
    return Elements(
        parts[0].outputs,
        torch.cat([part.targets for part in parts]),
        torch.cat([part.examples for part in parts]),
        torch.cat(weights) if weights else None,
    )
