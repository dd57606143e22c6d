"""Noise in a network's weights: for the outputs of its layers, with signs for each example, or for the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, final

import torch

from rebasin_core.evaluation.layers import Layer, layers_called_once, linear_part, output_variance
from rebasin_core.tensors.noise import standard_normal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from rebasin_core.evaluation.functional import FunctionalModel

Hook: TypeAlias = "Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]"
EstimatorName: TypeAlias = Literal["local", "flipout", "weights"]
# Below this the standard deviation of an output counts as zero: the square root has no derivative there.
_LEAST_VARIANCE = 1e-16


@final
class WeightNoise:
    r"""Runs a model with independent Gaussian weights, by one of three estimators of the same expectation.

    - ``local``: for a dense layer $y = W x + b$ with $W_{ij} \sim \mathcal N(m_{ij}, s_{ij}^2)$, the outputs for one
      example are exactly $\mathcal N(M x + m_b,\; S^2 x^2 + s_b^2)$, independently. Drawing them, independently for
      each example, gives gradients of far lower variance. Convolutions are treated in the same way, with independent
      noise at different positions: exact marginals, not the exact joint.
    - ``flipout``: one draw $\Delta W$ for the batch, with random signs $r, s$ for every example,
      $y = M x + r \odot \Delta W (s \odot x)$: the exact joint for every example, nearly uncorrelated between examples.
    - ``weights``: one draw of all weights for the batch.

    The first two apply to dense and convolutional layers that are called exactly once in a forward pass, and share
    their parameters with no other layer; every other parameter is drawn itself.

    Args:
        model: The model; forward hooks are registered on its private copy.
        inputs: A small batch, to count how often each layer is called.
        tensors: Parameters and buffers with which it is run.
        generator: Source of the noise.
        estimator: ``local``, ``flipout`` or ``weights``.

    References:
        D. P. Kingma, T. Salimans, M. Welling (2015), "Variational dropout and the local reparameterization trick",
        NeurIPS, arXiv 1506.02557, section 2.2; Y. Wen et al. (2018), "Flipout: efficient pseudo-independent weight
        perturbations on mini-batches", ICLR, arXiv 1803.04386, equation 4.
    """

    def __init__(
        self,
        model: FunctionalModel,
        inputs: Tensor,
        tensors: Mapping[str, Tensor],
        generator: torch.Generator,
        *,
        estimator: EstimatorName = "local",
    ) -> None:
        self._model = model
        self._generator = generator
        self._stddev: Mapping[str, Tensor] = {}
        self.local_names: set[str] = set()
        if estimator == "weights":
            return
        for layer in layers_called_once(model, inputs, tensors):
            self.local_names.update(layer.parameter_names)
            hook = self._local_hook(layer) if estimator == "local" else self._flipout_hook(layer)
            layer.module.register_forward_hook(hook)

    def __call__(
        self, mean: Mapping[str, Tensor], stddev: Mapping[str, Tensor], buffers: Mapping[str, Tensor], inputs: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the model's outputs with new noise.

        Args:
            mean: Means of all parameters.
            stddev: Standard deviations of the random parameters; the others stay at their mean.
            buffers: The buffers.
            inputs: A batch.

        Returns:
            The outputs, differentiable in means and standard deviations, and the parameters of the run: drawn, or equal
            to their means if the noise was drawn at the outputs.
        """
        self._stddev = stddev
        drawn = {
            name: torch.addcmul(tensor, stddev[name], self._noise(tensor))
            if name in stddev and name not in self.local_names
            else tensor
            for name, tensor in mean.items()
        }
        return self._model({**drawn, **buffers}, inputs), drawn

    def _noise(self, like: Tensor) -> Tensor:
        return standard_normal(like.shape, like, self._generator)

    def _signs(self, like: Tensor) -> Tensor:
        """Return a random sign for every example and feature (channel), broadcastable to features."""
        features = like.shape[:2] if like.dim() > 2 else like.shape  # ruff: ignore[magic-value-comparison] - [N, C, ...]
        shape = (*features, *[1] * (like.dim() - len(features)))
        device = self._generator.device
        signs = 2 * torch.randint(2, shape, generator=self._generator, device=device) - 1
        return signs.to(like)

    def _stddev_of(self, layer: Layer) -> tuple[Tensor | None, Tensor | None]:
        """Return the standard deviations of a layer's weight and bias; None where they are not random."""
        return self._stddev.get(layer.name("weight")), self._stddev.get(layer.name("bias"))

    def _local_hook(self, layer: Layer) -> Hook:
        def add_noise(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            del module
            weight, bias = self._stddev_of(layer)
            variance = output_variance(layer, arguments[0], _square(weight), _square(bias), output)
            if variance is None:
                return output
            return torch.addcmul(output, variance.clamp_min(_LEAST_VARIANCE).sqrt(), self._noise(output))

        return add_noise

    def _flipout_hook(self, layer: Layer) -> Hook:
        def add_noise(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            weight, bias = self._stddev_of(layer)
            # Both draws come before the signs.
            weight = self._scaled_noise(weight)
            bias = self._scaled_noise(bias)
            noisy = output
            if weight is not None:
                inputs = arguments[0] * self._signs(arguments[0])
                noisy = torch.addcmul(output, linear_part(module, inputs, weight, None), self._signs(output))
            if bias is not None:
                noisy = torch.addcmul(noisy, layer.shaped(bias, output), self._signs(output))
            return noisy

        return add_noise

    def _scaled_noise(self, stddev: Tensor | None) -> Tensor | None:
        return None if stddev is None else stddev * self._noise(stddev)


def _square(stddev: Tensor | None) -> Tensor | None:
    return None if stddev is None else stddev.square()
