"""Local reparameterisation: noise on a layer's outputs instead of its weights, for any model."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, final

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.evaluation.functional import FunctionalModel

_CONVOLUTIONS: dict[type[nn.Module], Any] = {
    nn.Conv1d: functional.conv1d,
    nn.Conv2d: functional.conv2d,
    nn.Conv3d: functional.conv3d,
}
# Below this the standard deviation of an output counts as zero: the square root has no derivative there.
_LEAST_VARIANCE = 1e-16


@final
class LocalReparameterization:
    r"""Runs a model with independent Gaussian weights, drawing the noise at the outputs of its layers.

    For a dense layer $y = W x + b$ with $W_{ij} \sim \mathcal N(m_{ij}, s_{ij}^2)$, the outputs for one example are
    exactly $\mathcal N(M x + m_b,\; S^2 x^2 + s_b^2)$, independently. Drawing them, independently for each example,
    gives the same expected loss with a gradient of far lower variance. Convolutions are treated alike, with the noise
    at different positions independent: exact marginals, not the exact joint.

    Dense and convolutional layers that are called exactly once in a forward pass, and share their parameters with no
    other layer, are treated so; every other parameter is drawn itself.

    Args:
        model: The model; forward hooks are put on its private copy.
        inputs: A small batch, to see which layers are called how often.
        tensors: Parameters and buffers to run it at.
        generator: The source of the noise.
        enabled: If not, all weights are drawn themselves, one draw for the whole batch.

    References:
        D. P. Kingma, T. Salimans, M. Welling (2015), "Variational dropout and the local reparameterization trick",
        NeurIPS, arXiv 1506.02557, section 2.2.
    """

    def __init__(
        self,
        model: FunctionalModel,
        inputs: Tensor,
        tensors: Mapping[str, Tensor],
        generator: torch.Generator,
        *,
        enabled: bool = True,
    ) -> None:
        self._model, self._generator = model, generator
        self._variances: dict[str, Tensor] = {}
        self.local_names: set[str] = set()
        for prefix, module in _called_once(model, inputs, tensors) if enabled else []:
            names = {f"{prefix}.{name}" if prefix else name for name, _ in module.named_parameters(recurse=False)}
            self.local_names |= names
            module.register_forward_hook(self._hook(prefix))

    def __call__(
        self, mean: Mapping[str, Tensor], stddev: Mapping[str, Tensor], buffers: Mapping[str, Tensor], inputs: Tensor
    ) -> Tensor:
        """Return the model's outputs under a fresh draw.

        Args:
            mean: Means of all parameters.
            stddev: Standard deviations of all parameters.
            buffers: The buffers.
            inputs: A batch.

        Returns:
            The outputs, differentiable in means and standard deviations.
        """
        self._variances = {name: stddev[name].square() for name in self.local_names}
        tensors = {
            name: tensor if name in self.local_names else torch.addcmul(tensor, stddev[name], self._noise(tensor))
            for name, tensor in mean.items()
        }
        return self._model({**tensors, **buffers}, inputs)

    def _noise(self, like: Tensor) -> Tensor:
        shape, device = like.shape, self._generator.device
        return torch.randn(shape, generator=self._generator, device=device, dtype=like.dtype).to(like.device)

    def _hook(self, prefix: str):  # type: ignore[no-untyped-def]  # ruff: ignore[missing-return-type-private-function] - torch types hooks as callables of anything
        def add_noise(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            weight = self._variances[f"{prefix}.weight" if prefix else "weight"]
            bias = self._variances.get(f"{prefix}.bias" if prefix else "bias")
            variance = _linear_part(module, arguments[0].square(), weight, bias)
            return torch.addcmul(output, variance.clamp_min(_LEAST_VARIANCE).sqrt(), self._noise(output))

        return add_noise


def _linear_part(module: nn.Module, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return what a dense or convolutional module computes, with other weights."""
    if isinstance(module, nn.Linear):
        return functional.linear(inputs, weight, bias)
    convolution: Any = _CONVOLUTIONS[type(module)]
    arguments = (module.stride, module.padding, module.dilation, module.groups)
    result: Tensor = convolution(inputs, weight, bias, *arguments)
    return result


def _called_once(model: FunctionalModel, inputs: Tensor, tensors: Mapping[str, Tensor]) -> list[tuple[str, nn.Module]]:
    """Return the layers that local reparameterisation is right for, by their prefix."""
    owners = Counter(
        id(parameter)
        for module in model.module.modules()
        for _, parameter in module.named_parameters(recurse=False, remove_duplicate=False)
    )
    layers = [
        (prefix, module)
        for prefix, module in model.module.named_modules()
        if (type(module) is nn.Linear or (type(module) in _CONVOLUTIONS and module.padding_mode == "zeros"))
        and all(owners[id(parameter)] == 1 for parameter in module.parameters(recurse=False))
    ]
    calls: Counter[str] = Counter()
    handles = [
        module.register_forward_hook(lambda *_, prefix=prefix: calls.update([prefix])) for prefix, module in layers
    ]
    with torch.no_grad():
        # Copies, since a pass in training mode updates normalisation statistics in place.
        model({name: tensor.clone() for name, tensor in tensors.items()}, inputs)
    for handle in handles:
        handle.remove()
    return [(prefix, module) for prefix, module in layers if calls[prefix] == 1]
