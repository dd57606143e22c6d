"""The interface of likelihoods: what a network's outputs say about the targets."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from rebasin_core.strategy import Strategy

if TYPE_CHECKING:
    from torch import Tensor


class Likelihood(Strategy):
    r"""The density $p(y \mid f(x))$ of a target given a network's output.

    Laws:
        - *Normalised*: `log_prob` integrates (sums) to one over targets.
        - *Per example*: results for an example do not depend on the others in the batch.
    """

    family: ClassVar[str] = "likelihood"

    @abstractmethod
    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Refuse outputs and targets that do not fit.

        Args:
            outputs: What the network returned.
            targets: The targets of the same batch.

        Raises:
            InvalidInputError: If shapes, dtypes or ranges are wrong.
        """

    @abstractmethod
    def log_prob(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the log likelihood of every target.

        Args:
            outputs: ``[N, K]``.
            targets: ``[N]`` or ``[N, K]``.

        Returns:
            ``[N]``, in nats.
        """

    @abstractmethod
    def prediction(self, outputs: Tensor) -> Tensor:
        """Return what is averaged over parameters to predict: probabilities, or means.

        Args:
            outputs: ``[N, K]``.

        Returns:
            ``[N, K]``.
        """

    @abstractmethod
    def score(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return how well an averaged prediction does on every example, in the usual measure of the task.

        Args:
            prediction: ``[N, K]``, as averaged.
            targets: ``[N]`` or ``[N, K]``.

        Returns:
            ``[N]``: 1 for a correct class and 0 for a wrong one, or the squared error.
        """

    def entropy(self, outputs: Tensor) -> Tensor:  # ruff: ignore[no-self-use] - overridden where it is known
        """Return the entropy of the density of a target, in nats.

        Args:
            outputs: ``[N, K]``.

        Returns:
            ``[N]``; NaN where a likelihood does not know it.
        """
        return outputs.new_full((len(outputs),), math.nan)

    def assess(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log likelihoods, predictions and entropies together: faster where they have parts in common.

        Args:
            outputs: ``[N, K]``.
            targets: ``[N]`` or ``[N, K]``.

        Returns:
            What `log_prob`, `prediction` and `entropy` return.
        """
        return self.log_prob(outputs, targets), self.prediction(outputs), self.entropy(outputs)

    @property
    @abstractmethod
    def score_name(self) -> str:
        """The name of the mean score: ``accuracy``, ``mean_squared_error``."""
