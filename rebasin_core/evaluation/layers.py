"""The dense and convolutional layers of a model, and what they compute with other weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import nn
from torch.nn import functional

from rebasin_core.tensors.modules import forward_hooks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.evaluation.functional import FunctionalModel

_CONVOLUTIONS: dict[type[nn.Module], Any] = {
    nn.Conv1d: functional.conv1d,
    nn.Conv2d: functional.conv2d,
    nn.Conv3d: functional.conv3d,
}
_ROWS = 2


@final
@dataclass(frozen=True, slots=True)
class Layer:
    """A dense or convolutional layer that is called exactly once in a forward pass.

    Attributes:
        prefix: Its name in the model.
        module: The layer, of the model's private copy.
        input_shape: The shape of its inputs in the pass.
    """

    prefix: str
    module: nn.Module
    input_shape: tuple[int, ...]

    @property
    def parameter_names(self) -> list[str]:
        """The names of its parameters in the model."""
        return [self.name(own) for own, _ in self.module.named_parameters(recurse=False)]

    @property
    def is_dense_on_rows(self) -> bool:
        """Whether every example gives it one vector, so that no weight is met twice by one example."""
        return isinstance(self.module, nn.Linear) and len(self.input_shape) == _ROWS

    @property
    def channel_dim(self) -> int:
        """The dimension of the outputs along which its units stand."""
        return -1 if isinstance(self.module, nn.Linear) else 1

    def name(self, own: str) -> str:
        """Return the name in the model of one of its parameters.

        Args:
            own: ``weight`` or ``bias``.

        Returns:
            The name.
        """
        return f"{self.prefix}.{own}" if self.prefix else own

    def by_unit(self, output: Tensor) -> Tensor:
        """Return the layer's outputs with its units first: ``[units, everything else]``.

        Args:
            output: The outputs.

        Returns:
            A view where possible.
        """
        return output.movedim(self.channel_dim, 0).flatten(1)

    def shaped(self, per_unit: Tensor, output: Tensor) -> Tensor:
        """Return one value a unit, broadcastable to the layer's outputs.

        Args:
            per_unit: ``[units]``.
            output: The outputs.

        Returns:
            A view.
        """
        return per_unit if isinstance(self.module, nn.Linear) else per_unit.reshape(-1, *[1] * (output.dim() - 2))


def layers_called_once(model: FunctionalModel, inputs: Tensor, tensors: Mapping[str, Tensor]) -> list[Layer]:
    """Return the dense and convolutional layers that are called once, and share no parameter, in order of their call.

    Args:
        model: The model.
        inputs: A small batch.
        tensors: Parameters and buffers to run it at; not changed.

    Returns:
        The layers.
    """
    owners = Counter(
        id(parameter)
        for module in model.module.modules()
        for _, parameter in module.named_parameters(recurse=False, remove_duplicate=False)
    )
    known = {
        prefix: module
        for prefix, module in model.module.named_modules()
        if (type(module) is nn.Linear or (type(module) in _CONVOLUTIONS and module.padding_mode == "zeros"))
        and all(owners[id(parameter)] == 1 for parameter in module.parameters(recurse=False))
    }
    calls: list[tuple[str, tuple[int, ...]]] = []
    hooks = [
        (module, lambda _, arguments, __, prefix=prefix: calls.append((prefix, tuple(arguments[0].shape))))
        for prefix, module in known.items()
    ]
    with torch.no_grad(), forward_hooks(hooks):
        # Copies, since a pass in training mode updates normalisation statistics in place.
        model({name: tensor.clone() for name, tensor in tensors.items()}, inputs)
    counts = Counter(prefix for prefix, _ in calls)
    return [Layer(prefix, known[prefix], shape) for prefix, shape in calls if counts[prefix] == 1]


def linear_part(module: nn.Module, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return what a dense or convolutional module computes, with other weights.

    Args:
        module: The module, for its strides and the like.
        inputs: Its inputs.
        weight: Takes the place of its weight.
        bias: Takes the place of its bias.

    Returns:
        The outputs.
    """
    if isinstance(module, nn.Linear):
        return functional.linear(inputs, weight, bias)
    convolution: Any = _CONVOLUTIONS[type(module)]
    arguments = (module.stride, module.padding, module.dilation, module.groups)
    result: Tensor = convolution(inputs, weight, bias, *arguments)
    return result


def output_variance(
    layer: Layer, inputs: Tensor, weight: Tensor | None, bias: Tensor | None, output: Tensor
) -> Tensor | None:
    r"""Return the variance of a layer's outputs, when its weights are independent: $\Sigma_W x^2 + \sigma_b^2$.

    Args:
        layer: The layer.
        inputs: Its inputs.
        weight: The variance of its weight; None if it is not random.
        bias: The variance of its bias; None if it is not random.
        output: Its outputs.

    Returns:
        The variances, of the outputs' shape; None if nothing is random.
    """
    if weight is None:
        return None if bias is None else layer.shaped(bias, output).expand_as(output)
    return linear_part(layer.module, inputs.square(), weight, bias)
