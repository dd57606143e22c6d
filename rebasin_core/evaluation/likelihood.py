"""The interface of likelihoods: densities of targets given the outputs of a network."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from rebasin_core.evaluation.constant import best_constant
from rebasin_core.strategy import Strategy

if TYPE_CHECKING:
    from torch import Tensor

TargetKind: TypeAlias = Literal["classes", "numbers", "counts"]


class Likelihood(Strategy):
    r"""The density $p(y \mid f(x))$ of a target given a network's output.

    Laws:
        - *Normalized*: the exponential of `log_prob` integrates (sums) to one over targets.
        - *Prediction*: `prediction` returns the probabilities of the classes, or the mean of the density.
        - *Entropy*: `entropy` is minus the expectation of `log_prob`, unless it is NaN.
        - *Together*: `assess` returns what `log_prob`, `prediction` and `entropy` return.
        - *Per example*: results for an example do not depend on the others in the batch.
        - *Misfits*: `check` raises if outputs and targets do not fit each other.
        - *Constant*: no other constant outputs have a larger mean `log_prob` than those of `constant`.
        - *Gradients*: `log_prob` has finite gradients with respect to the outputs, and keeps their dtype and device.
    """

    family: ClassVar[str] = "likelihood"

    targets: ClassVar[TargetKind] = "numbers"
    """The targets: ``classes`` (integers ``[N]``), ``numbers`` (``[N, K]``) or ``counts`` (floating integers from 0 on,
    ``[N, K]``)."""

    def num_outputs(self, size: int) -> int:  # ruff: ignore[no-self-use] - overridden where outputs have more parts
        """Return the number of outputs that a network needs.

        Args:
            size: Number of classes, or of numbers in one target.

        Returns:
            The same number, unless outputs have several parts (a mean and a scale).
        """
        return size

    @abstractmethod
    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise if outputs and targets do not fit each other.

        Args:
            outputs: Outputs of the network, ``[N, num_outputs(K)]``.
            targets: Targets of the same batch.

        Raises:
            InvalidInputError: If shapes, dtypes or ranges are wrong.
        """

    @abstractmethod
    def log_prob(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the log likelihood of every target.

        Args:
            outputs: ``[N, num_outputs(K)]``.
            targets: ``[N]`` or ``[N, K]``.

        Returns:
            ``[N]``, in nats.
        """

    @abstractmethod
    def prediction(self, outputs: Tensor) -> Tensor:
        """Return the prediction of one network, to be averaged over networks: probabilities, or means.

        Args:
            outputs: ``[N, num_outputs(K)]``.

        Returns:
            ``[N, K]``.
        """

    @abstractmethod
    def score(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return the score of an averaged prediction on every example, in the usual measure of the task.

        Args:
            prediction: ``[N, K]``, as averaged.
            targets: ``[N]`` or ``[N, K]``.

        Returns:
            ``[N]``: 1 for a correct class and 0 for a wrong one, or the squared error.
        """

    def entropy(self, outputs: Tensor) -> Tensor:  # ruff: ignore[no-self-use] - overridden where it is known
        """Return the entropy of the density of a target, in nats.

        Args:
            outputs: ``[N, num_outputs(K)]``.

        Returns:
            ``[N]``; NaN if the likelihood does not know it.
        """
        return outputs.new_full((len(outputs),), math.nan)

    def assess(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log likelihoods, predictions and entropies together: faster where they have parts in common.

        Args:
            outputs: ``[N, num_outputs(K)]``.
            targets: ``[N]`` or ``[N, K]``.

        Returns:
            The results of `log_prob`, `prediction` and `entropy`.
        """
        return self.log_prob(outputs, targets), self.prediction(outputs), self.entropy(outputs)

    def constant(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """Return the best outputs that are the same for all examples: what a model without inputs would return.

        By default they are found by maximizing `log_prob`; override this where they are known.

        Args:
            outputs: Outputs of a network for at least one example, ``[N, num_outputs(K)]``: their shape is taken.
            targets: Targets of the data, ``[M]`` or ``[M, K]``.

        Returns:
            ``[num_outputs(K)]``; None if they are not found.
        """
        return best_constant(self.log_prob, outputs, targets)

    @property
    @abstractmethod
    def score_name(self) -> str:
        """The name of the mean score: ``accuracy``, ``mean_squared_error``."""
