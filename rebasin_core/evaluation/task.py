"""Tasks: a model, data, a likelihood and calibration data."""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from typing import TYPE_CHECKING, final

from rebasin_core.evaluation.batches import REMEDY, can_be_iterated, checked_batches
from rebasin_core.evaluation.losses import as_likelihood
from rebasin_core.tensors.arguments import raise_wrong_type
from rebasin_core.tensors.modules import unwrapped
from rebasin_core.tensors.outputs import OutputChoice, with_output

if TYPE_CHECKING:
    from torch import nn

    from rebasin_core.evaluation.batches import Batches
    from rebasin_core.evaluation.losses import LikelihoodLike


@final
@dataclass(frozen=True, slots=True)
class Task:
    """A network module with the data on which posteriors over its parameters are matched and evaluated.

    Everything that is *measured* (losses, barriers, scores) uses ``data``. Everything that is *fitted* (matching by
    activations or by the loss, batch-normalization statistics, REPAIR) uses ``calibration``, if given.

    Attributes:
        model: Network module; its parameters are replaced by those of posterior samples, on a copy.
        data: Batches: a data loader, a list, or any iterable of pairs ``(inputs, targets)``, tuples with several inputs
            or mappings (see `checked_batches`). It is iterated once in each call that uses the task.
        likelihood: Likelihood of the targets: an instance, a registered name (``categorical``, ``bernoulli``,
            ``gaussian``, ...), a mapping with ``name`` and options, a loss of PyTorch, or a function of outputs and
            targets that returns one loss per example (see `as_likelihood`).
        calibration: Training batches; ``data`` if None.

    Args:
        output: Which output of the model the likelihood uses, if it returns a dictionary, a tuple or an object: a name,
            an index, or a function of all outputs. If None, the tensor named ``logits`` or ``out``, or the only
            tensor.

    Raises:
        InvalidInputError: If the model is not a module, the data cannot be iterated, or the likelihood is a loss that
            is not supported.
        UnknownNameError: If no likelihood is registered under the name.
        ConfigError: If an option of the likelihood is invalid.

    Examples:
        >>> import torch
        >>> task = Task(torch.nn.Linear(1, 2), [(torch.ones(4, 1), torch.tensor([0, 1, 0, 1]))])
        >>> task.likelihood
        CategoricalLikelihood()
    """

    model: nn.Module
    data: Batches
    likelihood: LikelihoodLike = "categorical"
    calibration: Batches | None = None
    output: InitVar[OutputChoice | None] = None

    def __post_init__(self, output: OutputChoice | None) -> None:
        """Resolve the likelihood, and unwrap the model (compiled or data-parallel modules)."""
        object.__setattr__(self, "model", with_output(unwrapped(self.model), output))
        object.__setattr__(self, "likelihood", as_likelihood(self.likelihood))
        for batches in (self.data, self.data if self.calibration is None else self.calibration):
            if not can_be_iterated(batches):
                raise_wrong_type(batches, "batches (inputs, targets)", REMEDY)

    def held(self) -> Task:
        """Return the task with its batches in lists, which can be iterated repeatedly.

        Raises:
            InvalidInputError: If the data are not batches ``(inputs, targets)`` of tensors.
        """
        calibration = None if self.calibration is None else list(checked_batches(self.calibration, "calibration data"))
        return Task(self.model, list(checked_batches(self.data)), self.likelihood, calibration)

    @property
    def fitting_data(self) -> Batches:
        """The batches used for fitting: ``calibration`` if given, else ``data``."""
        return self.data if self.calibration is None else self.calibration


def require_task(value: object) -> None:
    """Raise if a value is not a `Task`.

    Args:
        value: The value.

    Raises:
        InvalidInputError: If it is not a `Task`.
    """
    if not isinstance(value, Task):
        raise_wrong_type(value, "a `Task`", "make one with `rebasin_core.Task(model, data)`")


def model_of(task: Task | None) -> nn.Module | None:
    """Return the model of an optional task.

    Args:
        task: The task, or None.

    Returns:
        The model; None if there is no task.

    Raises:
        InvalidInputError: If the value is neither a `Task` nor None.
    """
    if task is None:
        return None
    require_task(task)
    return task.model
