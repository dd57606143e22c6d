"""Data of the commands for checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rebasin_core.cli.data import load_data
from rebasin_core.evaluation.task import Task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from rebasin_core.api.checkpoints.alignment import TaskOfModel
    from rebasin_core.data.examples import TensorBatches

_NUM_EXAMPLES = 5000
_BATCH_SIZE = 500


def task_of_options(given: Mapping[str, Any]) -> TaskOfModel | None:
    """Return a function that returns the task of a model, on the training data of ``--data``.

    Args:
        given: Options of the command line.

    Returns:
        The function; None without data.

    Raises:
        ConfigError: If the dataset is unknown, or its options are invalid.
    """
    if given["data"] is None:
        return None
    splits = load_data(given["data"], given["options"], given["root"])
    batches = splits.train.first(_NUM_EXAMPLES).batches(_BATCH_SIZE)
    return lambda model: task_on(model, batches)


def task_on(model: nn.Module, batches: TensorBatches, *, calibration: TensorBatches | None = None) -> Task:
    """Return a task: regression (`gaussian`, default noise scale) for floating-point targets, else classification.

    Args:
        model: The model.
        batches: Its data.
        calibration: Calibration data, if they are not the same.

    Returns:
        The task.
    """
    held = list(batches)
    is_regression = held[0][1].is_floating_point()
    return Task(model, held, "gaussian" if is_regression else "categorical", calibration)
