"""Conversion of PyTorch loss functions that are passed as likelihoods."""

from __future__ import annotations

from typing import NoReturn

from torch import nn
from torch.nn import functional

from rebasin_core.errors import InvalidInputError

_REMEDIES = {
    "mse_loss": "squared error is not a density; use {'name': 'gaussian', 'scale': ...} with the standard deviation of "
    "the noise, and metric='squared_error' to report the squared error",
    "nll_loss": "it expects log probabilities; let the model return logits and use 'categorical'",
    "binary_cross_entropy": "let the model return two logits and use 'categorical'",
    "binary_cross_entropy_with_logits": "let the model return two logits and use 'categorical'",
    "gaussian_nll_loss": "use 'gaussian', or 'heteroscedastic' for a model that returns means and scales",
}
_MODULES = {
    "MSELoss": "mse_loss",
    "NLLLoss": "nll_loss",
    "BCELoss": "binary_cross_entropy",
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits",
    "GaussianNLLLoss": "gaussian_nll_loss",
}


def without_torch_loss(value: object) -> object:
    """Return ``categorical`` for PyTorch's cross-entropy without options, and other likelihoods unchanged.

    Args:
        value: The value passed as a likelihood.

    Returns:
        The value, or ``categorical``.

    Raises:
        InvalidInputError: If the value is another loss function; the message names an alternative.
    """
    if value is functional.cross_entropy:
        return "categorical"
    if isinstance(value, nn.CrossEntropyLoss):
        if value.weight is None and not value.label_smoothing and value.ignore_index < 0:
            return "categorical"
        _raise(value, "weighted, smoothed or masked cross-entropy is not a likelihood; use 'categorical'")
    if callable(value) and not isinstance(value, type):
        name = str(getattr(value, "__name__", _MODULES.get(type(value).__name__, "")))
        _raise(value, _REMEDIES.get(name, "use a registered name, or a subclass of `rebasin_core.Likelihood`"))
    return value


def _raise(value: object, remedy: str) -> NoReturn:
    name = getattr(value, "__name__", repr(value))
    message = f"expected a likelihood, got the loss function {name}; {remedy}"
    raise InvalidInputError(message)
