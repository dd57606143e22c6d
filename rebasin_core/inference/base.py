"""The interface of inference methods."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch

from rebasin_core.evaluation.batches import checked_batches
from rebasin_core.evaluation.likelihood import Likelihood
from rebasin_core.inference.survey import DataSurvey
from rebasin_core.strategy import Strategy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

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
        likelihood: Likelihood of the targets, by which the network's outputs are scored.
        generator: Source of randomness.
        num_examples: Number of examples in the data set.
        num_batches: Number of batches in one pass over the data.
        batch_size: Mean number of examples in a batch.
        validation: Batches that are not trained on, for early stopping; None for none.
        layout: Symmetries of the network, for methods that use them; None for none.
        checkpoint: File that keeps the state of training, so that an interrupted run can be resumed; None for none.
        progress: Whether to show a progress bar.
        label: Text beside the progress bar.
        compiled: Whether to run the network with ``torch.compile``.
        identity: What the data are, as plain JSON by part; empty without a checkpoint.
    """

    model: nn.Module
    data: Batches
    likelihood: Likelihood
    generator: torch.Generator
    num_examples: int = 0
    num_batches: int = 0
    batch_size: float = 1.0
    validation: Batches | None = None
    layout: Layout | None = None
    checkpoint: Path | None = None
    progress: bool = False
    label: str = "training"
    compiled: bool = False
    identity: Mapping[str, Any] = field(default_factory=dict)

    def batch_weight(self, targets: Tensor) -> float:
        r"""Return the weight of a batch's mean, with which every example counts the same.

        $$ w = b / \bar b, \qquad \bar b = \text{examples in a pass} / \text{batches in a pass} $$

        The mean over the steps of a pass of $w$ times the mean over the batch is the mean over all examples, however
        they are split into batches; without the weight an example in a small batch counts more. Batches of equal size
        have weight 1.

        Args:
            targets: The targets of the batch, ``[b]`` or ``[b, K]``.

        Returns:
            The weight.
        """
        return len(targets) / self.batch_size


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
        num_examples: int | None = None,
        generator: torch.Generator | None = None,
        checkpoint: Path | str | None = None,
        progress: bool = False,
        label: str = "training",
        compiled: bool = False,
    ) -> FitResult:
        """Return the posterior of a network given data.

        Args:
            model: The network; training starts from its parameters, on its device.
            data: Batches ``(inputs, targets)``, read once before training and once an epoch: a list, a `DataLoader`,
                `TensorBatches`. Every example counts the same, whatever the size of its batch.
            validation: Batches that are not trained on: their loss is recorded after every epoch, and ends training
                early for methods with a ``patience``.
            spec: Symmetries of the network, for methods that use them.
            likelihood: A likelihood, or its registered name (``categorical``, ``gaussian``, ``heteroscedastic``).
            num_examples: Number N of examples in the data set, by which the prior is weighed; counted in one pass over
                the data if not given. Needed only for data that show another number in a pass than the data set has,
                other than a `DataLoader` that drops, repeats or draws examples at random, whose data set is counted.
            generator: Source of randomness; a fixed seed if not given.
            checkpoint: A file that keeps the state of training. If it exists, training is resumed, if it is of the same
                problem: method with all options, likelihood, data (their contents, and their order for lists and for
                `TensorBatches`), sizes of batches, network with its initial values, precision, kind of device, seed.
                Data with random augmentation are recognized if it draws from torch's global generator.
            progress: Whether to show a progress bar.
            label: Text beside the progress bar.
            compiled: Whether to run the network with ``torch.compile``: a minute or two at the start, then faster for
                networks with many operations other than matrix products (normalization, activations), above all
                residual ones. Not for noise at the outputs of layers, nor for networks that are trained in parallel.

        Returns:
            The result.

        Raises:
            InvalidInputError: If the data are empty, are not batches of tensors, cannot be read twice, or do not fit
                the model; if an option does not fit the number of steps; or if the parameters cannot be trained in
                their dtype (float16).
            DivergenceError: If training diverges: a loss or a parameter becomes NaN or infinite.
            FileFormatError: If the checkpoint belongs to another problem, or is damaged.
            StorageError: If the checkpoint cannot be written.
        """
        problem = FitProblem(
            model=model,
            data=data,
            validation=validation,
            layout=None if spec is None else spec.layout,
            likelihood=Likelihood.of(likelihood),
            generator=generator or torch.Generator().manual_seed(0),
            checkpoint=None if checkpoint is None else Path(checkpoint),
            progress=progress,
            label=label,
            compiled=compiled,
        )
        return self.solve(_surveyed(problem, num_examples))

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

    @final
    def check(
        self,
        model: nn.Module,
        data: Batches,
        *,
        validation: Batches | None = None,
        spec: PermutationSpec | None = None,
        likelihood: Likelihood | str = "categorical",
        num_examples: int | None = None,
    ) -> None:
        """Raise if `fit` would refuse the same arguments, without training: before long work that needs the result.

        The optimizer and the learning-rate schedule are built and tried for the number of steps of training, and the
        objective is computed on one batch. That training converges is not checked.

        Args:
            model: As for `fit`, and so are the others.
            data: Batches ``(inputs, targets)``.
            validation: Batches for early stopping.
            spec: Symmetries of the network.
            likelihood: A likelihood, or its registered name.
            num_examples: Number of examples in the data set.

        Raises:
            InvalidInputError: If the data, the model and the options do not fit each other.
        """
        problem = FitProblem(
            model=model,
            data=data,
            validation=validation,
            layout=None if spec is None else spec.layout,
            likelihood=Likelihood.of(likelihood),
            generator=torch.Generator().manual_seed(0),
        )
        self.check_problem(_surveyed(problem, num_examples))

    @final
    def check_problem(self, problem: FitProblem) -> None:
        """Raise if a problem cannot be solved; for methods that run other methods.

        Args:
            problem: The problem; its generator is not advanced.

        Raises:
            InvalidInputError: If the data, the model and the options do not fit each other.
        """
        copied = torch.Generator(problem.generator.device)
        copied.set_state(problem.generator.get_state())
        self._check(replace(problem, generator=copied))

    def _check(self, problem: FitProblem) -> None:
        """Raise if a problem cannot be solved, without training; nothing is checked if a method does not say how."""

    @abstractmethod
    def _fit(self, problem: FitProblem) -> FitResult:
        """Fit a checked problem."""


def _surveyed(problem: FitProblem, num_examples: int | None) -> FitProblem:
    """Return a problem with the numbers of its examples and batches, and their identity if it is needed."""
    identify = problem.checkpoint is not None
    seed = problem.generator.initial_seed()
    survey = DataSurvey.of(problem.data, seed=seed, num_examples=num_examples, identify=identify)
    identity = dict(survey.identity)
    held = problem.validation
    if held is not None:
        held = list(checked_batches(held, "validation data"))
        known = DataSurvey.of(held, seed=seed, identify=identify, what="validation data")
        identity["validation"] = known.identity
    return replace(
        problem,
        num_examples=survey.num_examples,
        num_batches=survey.num_batches,
        batch_size=survey.batch_size,
        validation=held,
        identity=identity if identify else {},
    )
