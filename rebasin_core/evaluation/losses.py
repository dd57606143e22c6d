"""Conversion of the forms of a likelihood that users pass: names, losses of PyTorch, and functions."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn, TypeAlias

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import loss as torch_losses

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.likelihood import Likelihood
from rebasin_core.evaluation.likelihoods import BernoulliLikelihood, CategoricalLikelihood, PoissonLikelihood
from rebasin_core.evaluation.loss_likelihood import LossLikelihood, Reduction

LikelihoodLike: TypeAlias = Likelihood | str | Mapping[str, object] | Callable[[Any, Any], Tensor]
"""A likelihood, a registered name, a mapping with ``name`` and options, a loss of PyTorch or a function."""

_REDUCTION = "reduction"
_REMEDIES = {
    "mse_loss": "squared error is not a density; use {'name': 'gaussian', 'scale': ...} with the standard deviation of "
    "the noise, and metric='squared_error' to report the squared error",
    "binary_cross_entropy": "it expects probabilities; let the model return logits and use 'bernoulli'",
    "gaussian_nll_loss": "use 'gaussian', or 'heteroscedastic' for a model that returns means and scales",
    "ctc_loss": "it needs lengths; pass a function of outputs and targets that returns one loss per example",
}
_MODULES = {
    "MSELoss": "mse_loss",
    "BCELoss": "binary_cross_entropy",
    "GaussianNLLLoss": "gaussian_nll_loss",
    "CTCLoss": "ctc_loss",
}
_FUNCTIONS: dict[str, Likelihood] = {
    "cross_entropy": CategoricalLikelihood(),
    "nll_loss": CategoricalLikelihood(),  # the softmax of log probabilities is the probabilities
    "binary_cross_entropy_with_logits": BernoulliLikelihood(),
}


def as_likelihood(
    value: object, *, reduction: Reduction = "none", transform: Callable[[Any], Any] | None = None
) -> Likelihood:
    r"""Return the likelihood that a user means.

    - A likelihood, a registered name, or a mapping with ``name`` and options.
    - `torch.nn.CrossEntropyLoss` with its weights, ``ignore_index`` and label smoothing; `torch.nn.NLLLoss`;
      `torch.nn.BCEWithLogitsLoss` with ``pos_weight``; `torch.nn.PoissonNLLLoss`; and their functions.
    - Any other function $\ell(f(x), y)$ of the outputs ``[N, ...]`` and the targets of a batch. It returns the losses
      ``[N]`` of the examples, or ``[N, ...]``, of which the mean over the other axes is used. Losses of PyTorch are
      called with ``reduction="none"``.

    The loss of an example must not depend on the other examples. Losses per example are necessary for standard errors:
    a function that returns one number for a batch is not accepted, unless ``reduction`` states that it is a mean or a
    sum over examples. Posterior averages use the unnormalized density $e^{-\ell}$; for a single network, the loss is
    the mean of $\ell$.

    Args:
        value: The value.
        reduction: ``none`` for a function that returns losses per example; ``mean`` or ``sum`` for one that returns one
            number for a batch. The latter is called for one example at a time, which is slower.
        transform: For a function, the predictions that are averaged over networks, as a function of the outputs; the
            outputs if None.

    Returns:
        The likelihood.

    Raises:
        InvalidInputError: If it is a loss of PyTorch that is not supported; the message names an alternative.
        UnknownNameError: If no likelihood is registered under the name.
        ConfigError: If an option of the likelihood is invalid.

    Examples:
        >>> as_likelihood(nn.CrossEntropyLoss(label_smoothing=0.1))
        CategoricalLikelihood(label_smoothing=0.1)
        >>> as_likelihood(nn.SmoothL1Loss()).score_name
        'SmoothL1Loss'
    """
    if isinstance(value, Likelihood | str | Mapping | type) or not callable(value):
        return Likelihood.of(value)
    name = str(getattr(value, "__name__", type(value).__name__))
    name = _MODULES.get(name, name)
    is_torch = _is_torch(value)
    if is_torch and name in _REMEDIES:
        _raise(value, _REMEDIES[name])
    if is_torch and name in _FUNCTIONS:
        return _FUNCTIONS[name]
    known = _of_module(value) if isinstance(value, nn.Module) else None
    if known is not None:
        return known
    function = _per_example(value) if is_torch and reduction == "none" else value
    return LossLikelihood(function=function, label=name, reduction=reduction, transform=transform)


def _is_torch(value: object) -> bool:
    """Return whether a value is a loss of PyTorch."""
    if isinstance(value, nn.Module):
        return type(value).__module__ == torch_losses.__name__
    return getattr(functional, getattr(value, "__name__", ""), None) is value


def _of_module(loss: nn.Module) -> Likelihood | None:
    """Return the likelihood of a loss module of PyTorch; None if there is none."""
    if type(loss) is nn.CrossEntropyLoss:
        return CategoricalLikelihood(
            class_weights=_numbers(loss.weight), label_smoothing=loss.label_smoothing, ignore_index=loss.ignore_index
        )
    if type(loss) is nn.NLLLoss:
        return CategoricalLikelihood(class_weights=_numbers(loss.weight), ignore_index=loss.ignore_index)
    if type(loss) is nn.BCEWithLogitsLoss:
        if loss.weight is not None:
            _raise(loss, "`weight` rescales the elements of a batch; pass a function that returns one loss per example")
        return BernoulliLikelihood(pos_weight=_numbers(loss.pos_weight))
    if type(loss) is nn.PoissonNLLLoss:
        if not loss.log_input:
            _raise(loss, "let the model return logs of rates and use 'poisson'")
        return PoissonLikelihood()
    return None


def _numbers(tensor: Tensor | None) -> tuple[float, ...]:
    return () if tensor is None else tuple(tensor.detach().reshape(-1).tolist())


def _per_example(loss: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor]:
    """Return a loss of PyTorch without the mean over the batch."""
    if isinstance(loss, nn.Module):
        copied = copy.copy(loss)
        setattr(copied, _REDUCTION, "none")
        return copied
    return partial(loss, **{_REDUCTION: "none"}) if _REDUCTION in inspect.signature(loss).parameters else loss


def _raise(value: object, remedy: str) -> NoReturn:
    name = getattr(value, "__name__", repr(value))
    message = f"expected a likelihood, got the loss function {name}; {remedy}"
    raise InvalidInputError(message)
