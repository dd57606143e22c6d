"""The interface of inference methods."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.likelihood import Likelihood
from rebasin_core.strategy import Strategy

if TYPE_CHECKING:
    from torch import nn

    from rebasin_core.evaluation.task import Batches
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.layout import Layout


@final
@dataclass(frozen=True, slots=True)
class FitProblem:
    """The problem that an inference method solves, already checked.

    Attributes:
        model: The network; its parameters are the starting point. Not to be changed.
        data: Batches ``(inputs, targets)`` that can be read once an epoch.
        num_examples: Number of examples in one pass over the data.
        num_batches: Number of batches in one pass.
        validation: Batches that are not trained on, for early stopping; None for none.
        layout: Symmetries of the network, for methods that use them; None for none.
        likelihood: Likelihood of the targets, by which the network's outputs are scored.
        generator: Source of randomness.
        checkpoint: File that keeps the state of training, so that an interrupted run can be resumed; None for none.
        progress: Whether to show a progress bar.
        label: Text beside the progress bar.
        compiled: Whether to run the network with ``torch.compile``.
    """

    model: nn.Module
    data: Batches
    num_examples: int
    num_batches: int
    validation: Batches | None
    layout: Layout | None
    likelihood: Likelihood
    generator: torch.Generator
    checkpoint: Path | None
    progress: bool
    label: str
    compiled: bool = False


@final
@dataclass(frozen=True, slots=True)
class FitResult:
    """A fitted posterior, and the record of its training.

    Attributes:
        posterior: The posterior, on the model's device.
        history: Training objective of each epoch, nats per example.
        resumed_at: The epoch at which the checkpoint of an earlier run was resumed; 0 without one.
        validation: Loss on validation data after each epoch, nats per example; empty without such data.
    """

    posterior: Posterior
    history: tuple[float, ...]
    resumed_at: int
    validation: tuple[float, ...] = ()


class Inference(Strategy):
    """A method that fits a posterior over the parameters of a network to data.

    Laws:
        - *Model untouched*: the given model is not changed; its state is the starting point.
        - *Repeatable*: equal models, data and generators in equal states give equal posteriors, and the global
          generator is not changed.
        - *Resumes*: a run that is killed and started again with the same checkpoint file gives the posterior of an
          uninterrupted run.
        - *Complete*: the posterior names every parameter and buffer of the model.
        - *Learns*: the posterior predicts the training data better than the starting point.
    """

    family: ClassVar[str] = "inference"

    @final
    def fit(  # ruff: ignore[too-many-arguments] - the problem's parts, keyword-only after the second
        self,
        model: nn.Module,
        data: Batches,
        *,
        validation: Batches | None = None,
        spec: PermutationSpec | None = None,
        likelihood: Likelihood | str = "categorical",
        generator: torch.Generator | None = None,
        checkpoint: Path | str | None = None,
        progress: bool = False,
        label: str = "training",
        compiled: bool = False,
    ) -> FitResult:
        """Return the posterior of a network given data.

        Args:
            model: The network; training starts from its parameters, on its device.
            data: Batches ``(inputs, targets)``, read once an epoch: a list, a `DataLoader`, `TensorBatches`.
            validation: Batches that are not trained on: their loss is recorded after every epoch, and ends training
                early for methods with a ``patience``.
            spec: Symmetries of the network, for methods that use them.
            likelihood: A likelihood, or its registered name (``categorical``, ``gaussian``, ``heteroscedastic``).
            generator: Source of randomness; a fixed seed if not given.
            checkpoint: A file that keeps the state of training. If it exists, training is resumed.
            progress: Whether to show a progress bar.
            label: Text beside the progress bar.
            compiled: Whether to run the network with ``torch.compile``: a minute or two at the start, then faster for
                networks with many operations other than matrix products (normalization, activations), above all
                residual ones. Not for noise at the outputs of layers, nor for networks that are trained in parallel.

        Returns:
            The result.

        Raises:
            InvalidInputError: If the data are empty, cannot be read twice, or do not fit the model.
            DivergenceError: If training diverges: a loss or a parameter becomes NaN or infinite.
            FileFormatError: If the checkpoint belongs to another problem, or is damaged.
            StorageError: If the checkpoint cannot be written.
        """
        num_examples, num_batches = _count(data)
        problem = FitProblem(
            model=model,
            data=data,
            num_examples=num_examples,
            num_batches=num_batches,
            validation=validation,
            layout=None if spec is None else spec.layout,
            likelihood=Likelihood.of(likelihood),
            generator=generator or torch.Generator().manual_seed(0),
            checkpoint=None if checkpoint is None else Path(checkpoint),
            progress=progress,
            label=label,
            compiled=compiled,
        )
        return self.solve(problem)

    @final
    def solve(self, problem: FitProblem) -> FitResult:
        """Solve a checked problem; for methods that run other methods.

        Args:
            problem: A problem that `fit` made.

        Returns:
            The result.

        Raises:
            InvalidInputError: If an input that this method needs is missing, or the data do not fit the model.
            DivergenceError: If training diverges.
            FileFormatError: If the checkpoint belongs to another problem, or is damaged.
            StorageError: If the checkpoint cannot be written.
        """
        return self._fit(problem)

    @abstractmethod
    def _fit(self, problem: FitProblem) -> FitResult:
        """Fit a checked problem."""


def _count(data: Batches) -> tuple[int, int]:
    """Return the numbers of examples and batches in one pass; raise if there are none, or only one pass is possible."""
    if iter(data) is data:
        message = (
            "the data can be read only once (a generator); expected data that can be read every epoch, like a list"
        )
        raise InvalidInputError(message)
    count = 0
    batches = 0
    for batch in data:
        try:
            _, targets = batch
            count += len(targets)
            batches += 1
        except (TypeError, ValueError) as error:
            message = f"expected batches (inputs, targets), got {type(batch).__name__}: {error}"
            raise InvalidInputError(message) from error
    if not count:
        message = "expected at least one example, got an empty data set"
        raise InvalidInputError(message)
    return count, batches
