"""The interface of likelihoods: densities of targets given the outputs of a network."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import torch

from rebasin_core.evaluation.constant import best_constant
from rebasin_core.evaluation.elements import Elements
from rebasin_core.strategy import Strategy

if TYPE_CHECKING:
    from torch import Tensor

TargetKind: TypeAlias = Literal["classes", "binary", "numbers", "counts"]


class Likelihood(Strategy):
    r"""The density $p(y \mid f(x))$ of a target given a network's output.

    Laws:
        - *Normalized*: the exponential of `log_prob` integrates (sums) to one over targets.
        - *Prediction*: `prediction` returns the probabilities of the classes, or the mean of the density.
        - *Entropy*: `entropy` is minus the expectation of `log_prob`, unless it is NaN.
        - *Joint assessment*: `assess` returns the results of `log_prob`, `prediction` and `entropy`.
        - *Per example*: the results for an example do not depend on the other examples in the batch.
        - *Invalid targets*: `check` raises if outputs and targets do not match.
        - *Constant*: the outputs of `constant` maximize the mean `log_prob` among outputs equal for all examples.
        - *Gradients*: `log_prob` has finite gradients with respect to the outputs, and their dtype and device.
    """

    family: ClassVar[str] = "likelihood"

    targets: ClassVar[TargetKind] = "numbers"
    """Type of the targets: ``classes`` (class indices, integers ``[N]``), ``binary`` (labels 0 and 1, ``[N, K]``),
    ``numbers`` (regression, ``[N, K]``) or ``counts`` (non-negative integers as floating-point values, ``[N, K]``)."""

    def num_outputs(self, size: int) -> int:  # ruff: ignore[no-self-use] - overridden by likelihoods with several outputs per target
        """Return the number of outputs that a network needs.

        Args:
            size: Number of classes, or number of entries K of one target.

        Returns:
            `size`; more if each target has several outputs, such as a mean and a scale.
        """
        return size

    def is_dense(self, targets: Tensor) -> bool:  # ruff: ignore[no-self-use] - overridden by likelihoods with elements
        """Return whether losses are means over the elements of a batch, such as pixels or tokens, not over examples.

        Args:
            targets: Targets of a batch.

        Returns:
            Whether `elements` splits the examples, leaves out elements or weights them; False by default.
        """
        del targets
        return False

    def elements(self, outputs: Tensor, targets: Tensor) -> Elements:  # ruff: ignore[no-self-use] - likewise
        """Return one row of outputs and targets for each element, such as each pixel or token that is not ignored.

        The methods `assess`, `prediction`, `score`, `entropy` and `constant` accept these rows.

        Args:
            outputs: Outputs of the network for a batch.
            targets: Targets of the batch.

        Returns:
            The elements; one for each example by default.
        """
        return Elements(outputs, targets, torch.arange(len(targets), device=targets.device))

    @abstractmethod
    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise if outputs and targets do not match.

        Args:
            outputs: Outputs of the network, ``[N, num_outputs(K)]``.
            targets: Targets of the same batch.

        Raises:
            InvalidInputError: If shapes, dtypes or ranges are wrong.
        """

    @abstractmethod
    def log_prob(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the log likelihood of each target; for dense targets, the sum over the elements of each example.

        Args:
            outputs: ``[N, num_outputs(K)]``.
            targets: ``[N]`` or ``[N, K]``.

        Returns:
            ``[N]``, in nats.
        """

    @abstractmethod
    def prediction(self, outputs: Tensor) -> Tensor:
        """Return the prediction of one network: class probabilities or means. They are averaged over networks.

        Args:
            outputs: ``[N, num_outputs(K)]``.

        Returns:
            ``[N, K]``.
        """

    @abstractmethod
    def score(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return the score of the averaged prediction on each example.

        Args:
            prediction: ``[N, K]``, averaged over networks.
            targets: ``[N]`` or ``[N, K]``.

        Returns:
            ``[N]``, such as 1 for a correct and 0 for a wrong class, or the squared error.
        """

    def entropy(self, outputs: Tensor) -> Tensor:  # ruff: ignore[no-self-use] - overridden by likelihoods with a closed form
        """Return the entropy of the density of each target, in nats.

        Args:
            outputs: ``[N, num_outputs(K)]``.

        Returns:
            ``[N]``; NaN by default.
        """
        return outputs.new_full((len(outputs),), math.nan)

    def assess(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log likelihoods, predictions and entropies; override this to share computations between them.

        Args:
            outputs: ``[N, num_outputs(K)]``.
            targets: ``[N]`` or ``[N, K]``.

        Returns:
            The results of `log_prob`, `prediction` and `entropy`.
        """
        return self.log_prob(outputs, targets), self.prediction(outputs), self.entropy(outputs)

    def constant(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """Return the outputs, the same for all examples, that maximize the mean log likelihood.

        By default they are computed numerically; override this if there is a closed form.

        Args:
            outputs: Outputs for at least one example, ``[N, num_outputs(K)]``; only shape, dtype and device are used.
            targets: Targets of the data, ``[M]`` or ``[M, K]``.

        Returns:
            ``[num_outputs(K)]``; None if the numerical maximization fails.
        """
        return best_constant(self.log_prob, outputs, targets)

    @property
    @abstractmethod
    def score_name(self) -> str:
        """Name of the mean score, such as ``accuracy`` or ``mean_squared_error``."""
