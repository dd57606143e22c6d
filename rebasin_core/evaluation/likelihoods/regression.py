"""Likelihoods for regression with noise of known or predicted scale."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Literal, final

import torch
from pydantic import Field, PositiveFloat
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.elements import Elements
from rebasin_core.evaluation.likelihood import Likelihood
from rebasin_core.evaluation.likelihoods.shapes import aligned_outputs

if TYPE_CHECKING:
    from torch import Tensor

_RARE = 1e-12
NOISE_SCALE = 0.3
"""Default standard deviation of the noise in regression, in units of the targets; also used by run files."""


class AbstractRegressionLikelihood(Likelihood):
    """Regression with independent Gaussian noise, scored by the squared error of the averaged prediction.

    Losses are means over examples of the sum over the K entries of a target. If targets have more or fewer dimensions
    than ``[N, K]``, every entry is an element with its own loss, and losses are means over all elements.
    """

    @final
    @override
    def is_dense(self, targets: Tensor) -> bool:
        return targets.dim() != 2

    @abstractmethod
    def moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the standard deviation of the targets.

        Args:
            outputs: Outputs of the network, ``[N, num_outputs(K)]``.

        Returns:
            Mean and standard deviation, both ``[N, K]``.
        """

    @final
    @override
    def log_prob(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if not self.is_dense(targets):
            return self._terms(outputs, targets)
        elements = self.elements(outputs, targets)
        return elements.summed(self._terms(elements.outputs, elements.targets), len(targets))

    def _terms(self, outputs: Tensor, targets: Tensor) -> Tensor:
        mean, scale = self.moments(outputs)
        standard = (targets - mean) / scale
        return (-0.5 * standard.square() - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    @final
    @override
    def prediction(self, outputs: Tensor) -> Tensor:
        return self.moments(outputs)[0]

    @final
    @override
    def entropy(self, outputs: Tensor) -> Tensor:
        scale = self.moments(outputs)[1]
        return (scale.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    @final
    @override
    def score(self, prediction: Tensor, targets: Tensor) -> Tensor:
        return (prediction - targets).square().mean(-1)

    @final
    @property
    @override
    def score_name(self) -> str:
        return "mean_squared_error"


@final
class GaussianLikelihood(AbstractRegressionLikelihood):
    r"""Regression with noise of known scale: outputs are means ``[N, K]``, targets are ``[N, K]``.

    Raises:
        ConfigError: If the scale is not positive.

    Examples:
        >>> import torch
        >>> y = torch.zeros(1, 1)
        >>> round(GaussianLikelihood(scale=1.0).log_prob(y, y).item(), 4)
        -0.9189
    """

    name: Literal["gaussian"] = "gaussian"

    scale: Annotated[PositiveFloat, Field(allow_inf_nan=False)] = NOISE_SCALE
    """Standard deviation of the noise, positive, in units of the targets."""

    @override
    def check(self, outputs: Tensor, targets: Tensor) -> None:
        aligned_outputs(outputs, targets, "means")
        if not targets.is_floating_point():
            message = f"expected floating targets, got {targets.dtype}; for class indices use `categorical`"
            raise InvalidInputError(message)

    @override
    def elements(self, outputs: Tensor, targets: Tensor) -> Elements:
        return Elements.of_entries(aligned_outputs(outputs, targets, "means").unsqueeze(-1), targets)

    @override
    def constant(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return targets.double().mean(0).to(outputs)

    @override
    def moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        return outputs, torch.full_like(outputs, self.scale)


@final
class HeteroscedasticGaussianLikelihood(AbstractRegressionLikelihood):
    r"""Regression with predicted noise: outputs ``[N, 2K]`` are K means and K raw scales, targets ``[N, K]``.

    $$ p(y \mid f) = \prod_k \mathcal N\big(y_k;\, f_k,\, \sigma_k^2\big), \qquad
       \sigma_k = \sigma_{\min} + \log(1 + e^{f_{K + k}}) $$

    Raises:
        ConfigError: If `least_scale` is not positive.

    Examples:
        >>> import torch
        >>> outputs = torch.tensor([[0.0, 0.0]])  # mean 0, standard deviation log 2
        >>> round(HeteroscedasticGaussianLikelihood().log_prob(outputs, torch.zeros(1, 1)).item(), 2)
        -0.55
    """

    name: Literal["heteroscedastic"] = "heteroscedastic"

    least_scale: Annotated[PositiveFloat, Field(allow_inf_nan=False)] = 1e-3
    r"""Minimum standard deviation $\sigma_{\min}$, positive, in units of the targets; it bounds the likelihood."""

    @override
    def num_outputs(self, size: int) -> int:
        return 2 * size

    @override
    def check(self, outputs: Tensor, targets: Tensor) -> None:
        expected = (len(targets), 2, *targets.shape[1:])
        if targets.dim() > 1:
            expected = (len(targets), 2 * targets.shape[1], *targets.shape[2:])
        if tuple(outputs.shape) != expected or not targets.is_floating_point():
            message = (
                "expected means and raw scales [N, 2K, ...] and floating targets [N, K, ...], got shapes "
                f"{tuple(outputs.shape)} and {tuple(targets.shape)} of {targets.dtype}"
            )
            raise InvalidInputError(message)

    @override
    def elements(self, outputs: Tensor, targets: Tensor) -> Elements:
        mean, raw = outputs.chunk(2, 1)
        pairs = torch.stack([mean, raw], -1)
        return Elements.of_entries(pairs.reshape(*targets.shape, 2), targets)

    @override
    def constant(self, outputs: Tensor, targets: Tensor) -> Tensor:
        numbers = targets.double()
        # Inverse of softplus; clamped because no finite output has exactly the minimum scale.
        excess = (numbers.std(0, correction=0) - self.least_scale).clamp_min(_RARE)
        raw = excess + torch.log(-torch.expm1(-excess))
        return torch.cat([numbers.mean(0), raw]).to(outputs)

    @override
    def moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = outputs.chunk(2, -1)
        return mean, self.least_scale + torch.nn.functional.softplus(raw)
