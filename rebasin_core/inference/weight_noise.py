"""Noise in a network's weights: sampled at the outputs of layers, with signs of its own an example, or as weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, final

import torch

from rebasin_core.evaluation.reading import Interception, Product, WeightUse
from rebasin_core.tensors.noise import standard_normal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.evaluation.functional import FunctionalModel

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

    Dense and convolutional products are treated so, whatever module or function computes them, if their weight and
    bias are used nowhere else; every other parameter is sampled itself. ``flipout`` also needs activations whose first
    dimension is that of the examples.

    Args:
        model: The model.
        inputs: A small batch, to see how the model uses its weights.
        tensors: Parameters and buffers to run it with.
        generator: The source of the noise.
        estimator: Which of the three.

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
        self._is_local = estimator == "local"
        self._layers: list[WeightUse] = []
        if estimator != "weights":
            layers = model.reading(inputs, tensors).layers
            self._layers = [use for use in layers if self._is_local or use.has_examples_first(len(inputs))]
        self.local_names = {name for use in self._layers for name in use.parameter_names}

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
        drawn = {
            name: torch.addcmul(tensor, stddev[name], self._noise(tensor))
            if name in stddev and name not in self.local_names
            else tensor
            for name, tensor in mean.items()
        }
        tensors = {**drawn, **buffers}
        if not self._layers:
            return self._model(tensors, inputs), drawn

        def noisy(use: WeightUse, product: Product) -> Tensor:
            weight = stddev.get(use.name)
            bias = None if use.bias is None else stddev.get(use.bias)
            return (self._local if self._is_local else self._flipout)(product, weight, bias)

        with Interception(self._layers, tensors, on_product=noisy):
            return self._model(tensors, inputs), drawn

    def _noise(self, like: Tensor) -> Tensor:
        return standard_normal(like.shape, like, self._generator)

    def _signs(self, like: Tensor, features: int) -> Tensor:
        """Return a random sign for every example and feature, broadcastable to features along a dimension."""
        shape = [1] * like.dim()
        shape[0] = like.shape[0]
        shape[features] = like.shape[features]
        device = self._generator.device
        signs = 2 * torch.randint(2, shape, generator=self._generator, device=device) - 1
        return signs.to(like)

    def _local(self, product: Product, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Return a product with noise of its own for every output."""
        output = product.output()
        squares = [None if stddev is None else stddev.square() for stddev in (weight, bias)]
        variance = product.variance(squares[0], squares[1])
        if variance is None:
            return output
        return torch.addcmul(output, variance.clamp_min(_LEAST_VARIANCE).sqrt(), self._noise(output))

    def _flipout(self, product: Product, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Return a product with one draw of the weights, and random signs for every example."""
        use = product.use
        output = product.output()
        draws = [None if stddev is None else stddev * self._noise(stddev) for stddev in (weight, bias)]
        if draws[0] is not None and use.input_dim is not None:
            inputs = product.inputs * self._signs(product.inputs, use.input_dim)
            output = torch.addcmul(
                output, product.output_with(inputs, draws[0], None), self._signs(output, use.product_dim)
            )
        if draws[1] is not None:
            output = torch.addcmul(output, use.along_units(draws[1]), self._signs(output, use.product_dim))
        return output
