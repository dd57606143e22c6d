"""The loss of a model without inputs: what a network must beat for its loss to mean anything."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.loss import LossEstimate
from rebasin_core.evaluation.predictive import HeldTask, Predictions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.evaluation.metric import Metric

# The shape of an output is wanted, not its value.
_ROWS = 2


def constant_loss(task: HeldTask, tensors: Mapping[str, Tensor], metric: Metric | str = "nll") -> float:
    """Return the loss of the best outputs that are the same for all examples (`Likelihood.constant`).

    For classes these are the frequencies of the classes among the targets, and the negative log likelihood is their
    entropy.

    Args:
        task: The model, data and likelihood.
        tensors: Parameters and buffers of any network of the model, run on two examples to see what it returns.
        metric: The metric in place of the negative log likelihood.

    Returns:
        The loss, per example; NaN if the likelihood does not find such outputs.
    """
    targets = torch.cat([own for _, own in task.batches])
    with torch.no_grad():
        outputs = task.model(tensors, task.batches[0][0][:_ROWS])
        constant = task.likelihood.constant(outputs, targets)
        if constant is None:
            return math.nan
        rows = constant.expand(len(targets), *constant.shape)
        log_prob, prediction, _ = task.likelihood.assess(rows, targets)
        predictions = Predictions(
            log_prob.double().unsqueeze(0),
            prediction,
            task.likelihood.score(prediction, targets).double(),
            task.likelihood.score_name,
            targets=targets,
            groups=prediction.unsqueeze(0),
            is_point=True,
        )
        try:
            return LossEstimate.of(predictions, metric=metric).loss
        except InvalidInputError:  # targets that are infinite
            return math.nan
