"""A user's loss function as a likelihood."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias, final

import torch
from pydantic import field_serializer
from torch import Tensor
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.likelihood import Likelihood

Reduction: TypeAlias = Literal["none", "mean", "sum"]


@final
class LossLikelihood(Likelihood):
    r"""A loss function $\ell(f(x), y)$ instead of a negative log likelihood.

    The function is called with the outputs ``[N, ...]`` and the targets of a batch. It returns the losses ``[N]`` of
    the examples, or ``[N, ...]``, of which the mean over the other axes is used. The value for an example must not
    depend on the other examples. Losses per example are necessary for standard errors. Therefore a function that
    returns one number for the batch is not accepted, unless ``reduction`` states that this number is a mean or a sum
    over examples; it is then called for one example at a time, which is slower.

    Posterior averages use the unnormalized density $e^{-\ell}$. For a single network, the loss is the mean of $\ell$.

    Raises:
        ConfigError: If an option is invalid.

    Examples:
        >>> import torch
        >>> def huber(outputs, targets):
        ...     return torch.nn.functional.huber_loss(outputs, targets, reduction="none").mean(1)
        >>> likelihood = LossLikelihood(function=huber)
        >>> likelihood.log_prob(torch.ones(2, 1), torch.zeros(2, 1)).tolist()
        [-0.5, -0.5]
    """

    name: Literal["loss"] = "loss"

    function: Callable[[Any, Any], Any]
    """Function of outputs and targets that returns losses per example."""

    reduction: Reduction = "none"
    """``none`` for losses per example; ``mean`` or ``sum`` for a function that returns one number for a batch."""

    transform: Callable[[Any], Any] | None = None
    """Function from outputs ``[N, ...]`` to the predictions that are averaged over networks; the outputs if None."""

    label: str = ""
    """Name in tables; that of the function if empty."""

    @field_serializer("function", "transform")
    def _qualified_name(self, function: Callable[..., Any] | None) -> str | None:  # ruff: ignore[no-self-use] - pydantic's
        return None if function is None else _name(function, qualified=True)

    @override
    def is_dense(self, targets: Tensor) -> bool:
        return targets.dim() > 1  # batches may have different lengths

    @override
    def constant(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        try:
            return super().constant(outputs, targets)
        except InvalidInputError:  # the function does not accept outputs and targets in float64
            return None

    @override
    def check(self, outputs: Tensor, targets: Tensor) -> None:
        self.log_prob(outputs, targets)

    @override
    def log_prob(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.reduction == "none":
            losses = self._called(outputs, targets)
            if losses.dim() == 0:
                message = (
                    f"expected the loss function {self.score_name} to return one loss per example, [N], got one number "
                    "for the batch, which allows no standard error. Return the losses of the examples (in PyTorch "
                    '`reduction="none"`), or state how they were reduced: '
                    '`rebasin_core.evaluation.as_likelihood(function, reduction="mean")`'
                )
                raise InvalidInputError(message)
            if len(losses) != len(targets):
                message = (
                    f"expected the loss function {self.score_name} to return one loss for each of {len(targets)} "
                    f"examples, got shape {tuple(losses.shape)}"
                )
                raise InvalidInputError(message)
            return -losses.reshape(len(losses), -1).mean(1)
        rows = range(len(targets))
        return -torch.stack([self._called(outputs[i : i + 1], targets[i : i + 1]).mean() for i in rows])

    def _called(self, outputs: Tensor, targets: Tensor) -> Tensor:
        try:
            losses = self.function(outputs, targets)
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            if isinstance(error, InvalidInputError):
                raise
            message = (
                f"the loss function {self.score_name} cannot be called with outputs of shape {tuple(outputs.shape)} "
                f"and targets of shape {tuple(targets.shape)}: {error}"
            )
            raise InvalidInputError(message) from error
        if not isinstance(losses, Tensor):
            message = (
                f"expected the loss function {self.score_name} to return a tensor of one loss per example, got "
                f"{type(losses).__name__}"
            )
            raise InvalidInputError(message)
        return losses

    @override
    def prediction(self, outputs: Tensor) -> Tensor:
        return outputs if self.transform is None else self.transform(outputs)

    @override
    def score(self, prediction: Tensor, targets: Tensor) -> Tensor:
        # With a transform, predictions are no outputs, and the function does not apply to them.
        if self.transform is None:
            return -self.log_prob(prediction, targets)
        return prediction.new_full((len(targets),), torch.nan)

    @property
    @override
    def score_name(self) -> str:
        return self.label or _name(self.function)


def _name(function: Callable[..., Any], *, qualified: bool = False) -> str:
    if isinstance(function, partial):
        return _name(function.func, qualified=qualified)
    owner = function if hasattr(function, "__qualname__") else type(function)
    return f"{owner.__module__}.{owner.__qualname__}" if qualified else owner.__name__
