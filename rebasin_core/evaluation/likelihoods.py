"""Likelihoods for classification, and for regression with noise of known or predicted scale."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, final

import torch
from pydantic import Field, PositiveFloat
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.likelihood import Likelihood, TargetKind

if TYPE_CHECKING:
    from torch import Tensor

_RARE = 1e-12
NOISE_SCALE = 0.3
"""Default standard deviation of the noise in regression, in units of the targets; also used by run files."""


@final
class CategoricalLikelihood(Likelihood):
    """Classification: outputs are logits ``[N, K]``, targets are class indices ``[N]``.

    Examples:
        >>> import torch
        >>> CategoricalLikelihood().log_prob(torch.zeros(1, 2), torch.tensor([0])).exp().item()
        0.5
    """

    targets: ClassVar[TargetKind] = "classes"

    name: Literal["categorical"] = "categorical"

    @override
    def check(self, outputs: Tensor, targets: Tensor) -> None:
        if outputs.dim() != 2 or targets.dim() != 1 or len(outputs) != len(targets):
            message = (
                f"expected logits [N, K] and class indices [N], got shapes {tuple(outputs.shape)} and "
                f"{tuple(targets.shape)}"
            )
            raise InvalidInputError(message)
        if targets.is_floating_point():
            message = f"expected class indices as integers, got {targets.dtype}; for regression use `gaussian`"
            raise InvalidInputError(message)
        if targets.numel() and not 0 <= int(targets.min()) <= int(targets.max()) < outputs.shape[1]:
            message = (
                f"expected class indices from 0 to {outputs.shape[1] - 1} (the model has {outputs.shape[1]} outputs), "
                f"got {int(targets.min())} to {int(targets.max())}"
            )
            raise InvalidInputError(message)

    @override
    def constant(self, outputs: Tensor, targets: Tensor) -> Tensor:
        counts = torch.bincount(targets, minlength=outputs.shape[1]).to(outputs)
        # A class that does not occur gets a very low but finite logit.
        return counts.clamp_min(_RARE).log()

    @override
    def log_prob(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return -torch.nn.functional.cross_entropy(outputs, targets, reduction="none")

    @override
    def prediction(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(-1)

    @override
    def entropy(self, outputs: Tensor) -> Tensor:
        logs = outputs.log_softmax(-1)
        return -(logs.exp() * logs).sum(-1)

    @override
    def assess(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logs = outputs.log_softmax(-1)
        probabilities = logs.exp()
        entropies = -(probabilities * logs).sum(-1)
        return logs.gather(-1, targets.long().unsqueeze(-1)).squeeze(-1), probabilities, entropies

    @override
    def score(self, prediction: Tensor, targets: Tensor) -> Tensor:
        return (prediction.argmax(-1) == targets).to(prediction.dtype)

    @property
    @override
    def score_name(self) -> str:
        return "accuracy"


class AbstractRegressionLikelihood(Likelihood):
    """Regression with independent Gaussian noise, scored by the squared error of the averaged prediction."""

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
        if outputs.shape != targets.shape or outputs.dim() != 2 or not targets.is_floating_point():
            message = (
                "expected means [N, K] and floating targets of the same shape, got shapes "
                f"{tuple(outputs.shape)} and {tuple(targets.shape)} of {targets.dtype}"
            )
            raise InvalidInputError(message)

    @override
    def constant(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return targets.double().mean(0).to(outputs)

    @override
    def moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        return outputs, torch.full_like(outputs, self.scale)


@final
class HeteroscedasticGaussianLikelihood(AbstractRegressionLikelihood):
    r"""Regression with predicted noise: outputs ``[N, 2K]`` are K means and K raw scales, targets are ``[N, K]``.

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
        fits = outputs.dim() == targets.dim() == 2 and outputs.shape == (len(targets), 2 * targets.shape[1])
        if not fits or not targets.is_floating_point():
            message = (
                "expected means and raw scales [N, 2K] and floating targets [N, K], got shapes "
                f"{tuple(outputs.shape)} and {tuple(targets.shape)} of {targets.dtype}"
            )
            raise InvalidInputError(message)

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
