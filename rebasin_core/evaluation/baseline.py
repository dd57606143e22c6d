"""The loss of the best constant prediction: the baseline for trained networks."""

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

# Only the shape of the outputs is used.
_ROWS = 2


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
        )
        try:
            return LossEstimate.of(predictions, metric=metric).loss
        except InvalidInputError:  # infinite targets
            return math.nan
