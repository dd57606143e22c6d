"""Random parameters for the check of a specification: at several scales, and perturbations of the model's own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.tensors.modules import named_tensors, unsaved_buffers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

# Gain of the weights, and standard deviation of biases and other vectors. The first pair suits most networks. A signal
# is visible behind saturating units with large gains, behind oscillating units with small gains, through many layers
# with small biases.
_FRESH = (
    (math.sqrt(2.0), 0.3),
    (1.0, 0.05),
    (3.0, 0.1),
    (6.0, 0.1),
    (0.5, 0.1),
    (12.0, 0.05),
    (0.2, 0.05),
    (2.0, 0.02),
    (4.0, 0.3),
    (25.0, 0.05),
    (0.05, 0.02),
    (1.4, 1.0),
)
# Relative sizes of the perturbations of the model's own parameters.
_OWN = (0.5, 0.1, 0.01)


@final
@dataclass(frozen=True, slots=True)
class Tensors:
    """The parameters and buffers of a model, in float64 or in their own types.

    Attributes:
        values: All of them, by name.
        constant: Names of buffers outside the state dict, which are not replaced.
        buffers: Names of all buffers.
    """

    values: Mapping[str, Tensor]
    constant: frozenset[str]
    buffers: frozenset[str]

    @classmethod
    def of(cls, model: nn.Module, *, wide: bool = True) -> Tensors:
        """Return the tensors of a model.

        Args:
            model: Any module.
            wide: Whether to convert them to float64 and complex128.

        Returns:
            Copies on the CPU.
        """
        values = {name: tensor.detach().cpu() for name, tensor in named_tensors(model).items()}
        buffers = frozenset(name for name, _ in model.named_buffers())
        converted = {name: widened(tensor) if wide else tensor.clone() for name, tensor in values.items()}
        return cls(converted, unsaved_buffers(model), buffers)

    def draws(self, generator: torch.Generator) -> Iterator[dict[str, Tensor]]:
        """Yield random parameters and buffers, in decreasing order of how often they show an effect.

        Args:
            generator: Source of randomness.

        Yields:
            All tensors by name: new random values, then perturbations of the model's own, then further ones of both.
        """
        yield self._fresh(*_FRESH[0], generator)
        yield self._own(_OWN[0], generator)
        for gain, shift in _FRESH[1:5]:
            yield self._fresh(gain, shift, generator)
        yield self._own(_OWN[1], generator)
        for gain, shift in _FRESH[5:]:
            yield self._fresh(gain, shift, generator)
        yield self._own(_OWN[2], generator)

    def _fresh(self, gain: float, shift: float, generator: torch.Generator) -> dict[str, Tensor]:
        return {
            name: tensor.clone() if self._stays(name) else self._drawn(name, tensor, gain, shift, generator)
            for name, tensor in self.values.items()
        }

    def _drawn(self, name: str, tensor: Tensor, gain: float, shift: float, generator: torch.Generator) -> Tensor:
        if _is_positive(tensor):
            # Scales, variances, and other tensors that may have to be positive, such as arguments of a logarithm.
            factor = 1.0 if name in self.buffers else gain / _FRESH[0][0]
            return factor * (0.5 + torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype))
        noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        if tensor.dim() <= 1 or name in self.buffers:
            return shift * noise
        return noise * (gain / math.sqrt(max(1, tensor[0].numel())))

    def _own(self, size: float, generator: torch.Generator) -> dict[str, Tensor]:
        return {
            name: tensor.clone() if self._stays(name) else perturbed(tensor, size, generator)
            for name, tensor in self.values.items()
        }

    def _stays(self, name: str) -> bool:
        tensor = self.values[name]
        return name in self.constant or not is_number(tensor) or not bool(torch.isfinite(tensor).all())


def perturbed(tensor: Tensor, size: float, generator: torch.Generator) -> Tensor:
    """Multiply the entries of a tensor by random positive factors; if all are 0, return random values.

    Args:
        tensor: Floating-point or complex tensor.
        size: Standard deviation of the logarithms of the factors.
        generator: Source of randomness.

    Returns:
        A new tensor.
    """
    real = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    noise = torch.randn(real.shape, generator=generator, dtype=real.dtype)
    if not bool(real.any()):
        fan_in = real[0].numel() if real.dim() > 1 else 4
        changed = size * noise / math.sqrt(max(1, fan_in))
    else:
        changed = real * (size * noise).exp()
    return torch.view_as_complex(changed) if tensor.is_complex() else changed


def random_signs(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return random signs for the entries of a tensor.

    Args:
        tensor: Floating-point or complex tensor.
        generator: Source of randomness.

    Returns:
        A real tensor of the same shape and precision.
    """
    bits = torch.randint(2, tensor.shape, generator=generator, dtype=tensor.dtype.to_real())
    return bits.mul_(2).sub_(1)


def is_number(tensor: Tensor) -> bool:
    """Return whether the dtype of a tensor is floating-point or complex.

    Args:
        tensor: Any tensor.

    Returns:
        False for integers and booleans.
    """
    return tensor.is_floating_point() or tensor.is_complex()


def widened(tensor: Tensor) -> Tensor:
    """Return a copy of a tensor on the CPU; floating-point as float64, complex as complex128.

    Args:
        tensor: Any tensor.

    Returns:
        The tensor, converted.
    """
    if tensor.is_complex():
        return tensor.cpu().to(torch.complex128, copy=True)
    return tensor.cpu().to(torch.float64 if tensor.is_floating_point() else None, copy=True)


def _is_positive(tensor: Tensor) -> bool:
    return tensor.numel() > 0 and tensor.is_floating_point() and bool((tensor > 0).all())
