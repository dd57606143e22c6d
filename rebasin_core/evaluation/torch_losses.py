"""Loss functions of PyTorch in the place of a likelihood: those that are one, and why the others are not."""

from __future__ import annotations

from typing import NoReturn

from torch import nn
from torch.nn import functional

from rebasin_core.errors import InvalidInputError

_WAYS_OUT = {
    "mse_loss": "squared error is no density: give the noise, {'name': 'gaussian', 'scale': ...}; and to measure it, "
    "metric='squared_error'",
    "nll_loss": "it expects log probabilities; let the model return logits, and give 'categorical'",
    "binary_cross_entropy": "let the model return two logits, and give 'categorical'",
    "binary_cross_entropy_with_logits": "let the model return two logits, and give 'categorical'",
    "gaussian_nll_loss": "give 'gaussian', or 'heteroscedastic' for a model that returns means and scales",
}
_MODULES = {
    "MSELoss": "mse_loss",
    "NLLLoss": "nll_loss",
    "BCELoss": "binary_cross_entropy",
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits",
    "GaussianNLLLoss": "gaussian_nll_loss",
}


def without_torch_loss(value: object) -> object:
    """Return a likelihood as it was given; ``categorical`` for PyTorch's plain cross-entropy, which is the same.

    Args:
        value: What was given as a likelihood.

    Returns:
        The value, or ``categorical``.

    Raises:
        InvalidInputError: If it is another loss function; says what to give instead.
    """
    if value is functional.cross_entropy:
        return "categorical"
    if isinstance(value, nn.CrossEntropyLoss):
        if value.weight is None and not value.label_smoothing and value.ignore_index < 0:
            return "categorical"
        _refuse(value, "weighted, smoothed or masked cross-entropy is no likelihood of classes; give 'categorical'")
    if callable(value) and not isinstance(value, type):
        name = str(getattr(value, "__name__", _MODULES.get(type(value).__name__, "")))
        _refuse(value, _WAYS_OUT.get(name, "give a registered name, or a subclass of `rebasin_core.Likelihood`"))
    return value


def _refuse(value: object, way_out: str) -> NoReturn:
    shown = getattr(value, "__name__", repr(value))
    message = f"expected a likelihood, got the loss function {shown}: {way_out}"
    raise InvalidInputError(message)
