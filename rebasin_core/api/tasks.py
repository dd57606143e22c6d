"""Tasks from the data and options of a call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.task import Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.evaluation.batches import Batches
    from rebasin_core.evaluation.losses import LikelihoodLike
    from rebasin_core.tensors.outputs import OutputChoice


def as_task(
    data: Task | Batches,
    networks: Sequence[object],
    *,
    likelihood: LikelihoodLike | None = None,
    output: OutputChoice | None = None,
) -> Task:
    """Return a task, made from batches if necessary.

    Args:
        data: A task, or batches in any form that `Task` accepts.
        networks: Networks of the call; with batches, the first module among them is the model of the task.
        likelihood: Likelihood of a new task; ``categorical`` if None.
        output: Output of the model of a new task.

    Returns:
        The task.

    Raises:
        InvalidInputError: If options are given with a task, or no network is a module.
    """
    if isinstance(data, Task):
        if likelihood is not None or output is not None:
            message = "expected `likelihood` and `output` in the `Task`, got them as separate arguments"
            raise InvalidInputError(message)
        return data
    model = next((network for network in networks if isinstance(network, nn.Module)), None)
    if model is None:
        message = (
            f"expected a `Task`, or a network given as a module, got {type(data).__name__} and no module; make a task "
            "with `rebasin_core.Task(model, data)`"
        )
        raise InvalidInputError(message)
    return Task(model, data, "categorical" if likelihood is None else likelihood, output=output)
