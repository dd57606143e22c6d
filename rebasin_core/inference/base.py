"""The interface of inference methods."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch

from rebasin_core.evaluation.batches import checked_batches
from rebasin_core.evaluation.losses import as_likelihood
from rebasin_core.inference.survey import DataSurvey
from rebasin_core.strategy import Strategy
from rebasin_core.tensors.outputs import with_output

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from rebasin_core.evaluation.batches import Batches
    from rebasin_core.evaluation.likelihood import Likelihood
    from rebasin_core.evaluation.losses import LikelihoodLike
    from rebasin_core.inference.sampler_statistics import SamplerStatistics
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.layout import Layout
    from rebasin_core.tensors.outputs import OutputChoice


@final
@dataclass(frozen=True, slots=True)
class FitProblem:
    """Validated inputs of an inference method.

    Attributes:
        model: Network; its parameters are the initialization. Must not be modified.
        data: Batches ``(inputs, targets)`` that can be read once per epoch.
        likelihood: Likelihood of the targets given the network's outputs.
        generator: Random number generator.
        num_examples: Number N of examples in the dataset.
        num_batches: Number of batches in one pass over the data.
        batch_size: Mean number of examples in a batch.
        validation: Held-out batches for early stopping, or None.
        layout: Permutation symmetries of the network, for methods that use them, or None.
        checkpoint: File for the state of training, from which an interrupted run resumes, or None.
        progress: Whether to show progress: a bar in a terminal, otherwise lines on standard error.
        label: Text in front of the progress.
        compiled: Whether to run the network with ``torch.compile``.
        identity: Sizes and digests of the data, as plain JSON; empty without a checkpoint.
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
        r"""Return the weight $w$ of a batch's mean loss that gives every example equal weight in one pass.

        $$ w = b / \bar b, \qquad \bar b = \text{examples in a pass} / \text{batches in a pass} $$

        The average of $w$ times the batch mean over the steps of a pass is the mean over all examples, for any split
        into batches. Without $w$, examples in smaller batches have larger weight. If all batches have the same size,
        $w = 1$.

        Args:
            targets: Targets of the batch, ``[b]`` or ``[b, K]``.

        Returns:
            The weight $w$.
        """
        return len(targets) / self.batch_size


@final
@dataclass(frozen=True, slots=True)
class FitResult:
    """Fitted posterior and training history.

    Attributes:
        posterior: The posterior, on the model's device.
        history: Mean training objective of each epoch, in nats per example.
        resumed_at: Number of epochs already done in the checkpoint from which training resumed; 0 without one.
        validation: Validation loss after each epoch, in nats per example; empty without validation data.
        sampler: Statistics of the chains of `hmc`, `nuts` and `subspace`; None for other methods.
    """

    posterior: Posterior
    history: tuple[float, ...]
    resumed_at: int
    validation: tuple[float, ...] = ()
    sampler: SamplerStatistics | None = None


class Inference(Strategy):
    """Method that fits a posterior over the parameters of a network to data.

    Laws:
        - *No side effects*: the given model is not changed; its parameters are the initialization.
        - *Reproducibility*: equal models, data and generator states give equal posteriors. The global generator is not
          changed.
        - *Specification*: with ``uses_spec = False``, the posterior is the same with and without a specification.
        - *Resumption*: a run that is killed and restarted with the same checkpoint file returns the posterior of an
          uninterrupted run.
        - *Point*: the posterior is a point if and only if ``is_point`` is true.
        - *Completeness*: the posterior contains every parameter and buffer of the model.
        - *Improvement*: the posterior predicts the training data better than the initialization.
    """

    family: ClassVar[str] = "inference"

    @property
    def is_point(self) -> bool:
        """Whether the posteriors are single networks (`Posterior.is_point`)."""
        return False

    @property
    def uses_spec(self) -> bool:
        """Whether the posterior depends on the specification. If not, posteriors are reused when it changes."""
        return True

    @final
    def fit(  # ruff: ignore[too-many-arguments] - parts of the problem, keyword-only after the second
        self,
        model: nn.Module,
        data: Batches,
        *,
        validation: Batches | None = None,
        spec: PermutationSpec | None = None,
        likelihood: LikelihoodLike = "categorical",
        output: OutputChoice | None = None,
        num_examples: int | None = None,
        generator: torch.Generator | None = None,
        checkpoint: Path | str | None = None,
        progress: bool = False,
        label: str = "training",
        compiled: bool = False,
    ) -> FitResult:
        """Fit the posterior of a network to data.

        Args:
            model: Network, initialized at its parameters and trained on its device. It is not changed.
            data: Batches in any form that `Task` accepts, such as a list, a `DataLoader` or `TensorBatches`. They are
                read once before training and once per epoch. Every example has equal weight, whatever the size of its
                batch.
            validation: Held-out batches. Their loss is recorded after every epoch; methods with a ``patience`` use it
                for early stopping.
            spec: Permutation symmetries of the network; needed by some options.
            likelihood: A likelihood, its registered name (``categorical``, ``bernoulli``, ``gaussian``, ...), a loss of
                PyTorch, or a function of outputs and targets that returns one loss per example (see `as_likelihood`).
            output: Which output of the model the likelihood uses, as for `Task`.
            num_examples: Number N of examples in the dataset, which sets the weight 1/N of the prior. If None, counted
                in one pass over the data; for a `DataLoader` that drops, repeats or randomly samples examples, the
                size of its dataset. Pass it if a pass shows another number of examples for other reasons.
            generator: Random number generator; seeded with 0 if None.
            checkpoint: File for the state of training. If it exists, training resumes from it. It must belong to the
                same problem: method and options, likelihood, contents of the data (and their order, for lists and
                `TensorBatches`), batch sizes, network with its initial values, dtype, device type, and seed. Data with
                random augmentation are recognized if the augmentation uses torch's global generator.
            progress: Whether to show progress: a bar in a terminal, otherwise lines on standard error.
            label: Text in front of the progress.
            compiled: Whether to run the network with ``torch.compile``. Compilation takes a minute or two. Networks
                with many operations other than matrix products (normalization, activations), such as residual
                networks, then train faster. It has no effect on networks trained together in one batch. `MeanFieldVI`
                supports it with ``estimator="weights"`` only.

        Returns:
            The posterior and the history of training.

        Raises:
            InvalidInputError: If the data are empty, are not batches of tensors, cannot be read twice, or do not fit
                the model; if an option does not fit the number of steps; or if the parameters cannot be trained in
                their dtype (float16).
            DivergenceError: If training diverges: a loss or a parameter becomes NaN or infinite.
            FileFormatError: If the checkpoint belongs to another problem, or is damaged.
            StorageError: If the checkpoint cannot be written.
        """
        problem = FitProblem(
            model=with_output(model, output),
            data=data,
            validation=validation,
            layout=None if spec is None else spec.layout,
            likelihood=as_likelihood(likelihood),
            generator=generator or torch.Generator().manual_seed(0),
            checkpoint=None if checkpoint is None else Path(checkpoint),
            progress=progress,
            label=label,
            compiled=compiled,
        )
        return self.solve(_surveyed(problem, num_examples))

    @final
    def solve(self, problem: FitProblem) -> FitResult:
        """Fit the posterior to a validated problem; for methods that run other methods.

        Args:
            problem: A problem as constructed by `fit`.

        Returns:
            The posterior and the history of training.

        Raises:
            InvalidInputError: If a required input of this method is missing, or the data do not fit the model.
            DivergenceError: If training diverges.
            FileFormatError: If the checkpoint belongs to another problem, or is damaged.
            StorageError: If the checkpoint cannot be written.
        """
        return self._fit(problem)

    @final
    def check(  # ruff: ignore[too-many-arguments] - as for `fit`
        self,
        model: nn.Module,
        data: Batches,
        *,
        validation: Batches | None = None,
        spec: PermutationSpec | None = None,
        likelihood: LikelihoodLike = "categorical",
        output: OutputChoice | None = None,
        num_examples: int | None = None,
    ) -> None:
        """Raise if `fit` would reject the same arguments, without training.

        The optimizer and the learning-rate schedule are built and checked for the number of steps of training, and the
        objective is computed on one batch. Convergence is not checked.

        Args:
            model: Network, as in `fit`.
            data: Batches ``(inputs, targets)``.
            validation: Held-out batches for early stopping.
            spec: Permutation symmetries of the network.
            likelihood: A likelihood, as in `fit`.
            output: Which output of the model the likelihood uses, as for `Task`.
            num_examples: Number of examples in the dataset; counted if None.

        Raises:
            InvalidInputError: If the data, the model and the options are not compatible.
        """
        problem = FitProblem(
            model=with_output(model, output),
            data=data,
            validation=validation,
            layout=None if spec is None else spec.layout,
            likelihood=as_likelihood(likelihood),
            generator=torch.Generator().manual_seed(0),
        )
        self.check_problem(_surveyed(problem, num_examples))

    @final
    def check_problem(self, problem: FitProblem) -> None:
        """Raise if a problem cannot be solved; for methods that run other methods.

        Args:
            problem: The problem; the state of its generator is not changed.

        Raises:
            InvalidInputError: If the data, the model and the options are not compatible.
        """
        copied = torch.Generator(problem.generator.device)
        copied.set_state(problem.generator.get_state())
        self._check(replace(problem, generator=copied))

    def _check(self, problem: FitProblem) -> None:
        """Raise if a problem cannot be solved, without training. The default implementation checks nothing."""

    @abstractmethod
    def _fit(self, problem: FitProblem) -> FitResult:
        """Fit the posterior to a validated problem.

        Args:
            problem: The problem. Its model must not be modified; its generator is the only source of random numbers.

        Returns:
            The posterior and the history of training.
        """


def _surveyed(problem: FitProblem, num_examples: int | None) -> FitProblem:
    """Return a problem with its numbers of examples and batches, and, for a checkpoint, the digests of its data."""
    identify = problem.checkpoint is not None
    seed = problem.generator.initial_seed()
    survey = DataSurvey.of(problem.data, seed=seed, num_examples=num_examples, identify=identify)
    identity = dict(survey.identity)
    held_out = problem.validation
    if held_out is not None:
        held_out = list(checked_batches(held_out, "validation data"))
        validation = DataSurvey.of(held_out, seed=seed, identify=identify, label="validation data")
        identity["validation"] = validation.identity
    return replace(
        problem,
        num_examples=survey.num_examples,
        num_batches=survey.num_batches,
        batch_size=survey.batch_size,
        validation=held_out,
        identity=identity if identify else {},
    )
