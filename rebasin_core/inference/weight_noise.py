"""Gaussian weight noise: local reparameterization, flipout, or weight samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, final

import torch

from rebasin_core.evaluation.reading import Interception, Product, WeightUse
from rebasin_core.tensors.noise import standard_normal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.tensors.inputs import AnyInputs

EstimatorName: TypeAlias = Literal["local", "flipout", "weights"]
# Lower bound of the variance of a pre-activation: the square root has no derivative at zero.
_LEAST_VARIANCE = 1e-16


@final
class WeightNoise:
    r"""Model with independent Gaussian weights, evaluated by one of three estimators of the same expectation.

    - ``local`` (local reparameterization): for a dense layer $y = W x + b$ with
      $W_{ij} \sim \mathcal N(m_{ij}, s_{ij}^2)$, the pre-activations of one example are independent with distribution
      $\mathcal N(M x + m_b,\; S^2 x^2 + s_b^2)$ (squares elementwise). They are sampled independently for each
      example, which reduces the variance of gradients. Convolutions use independent noise at each position: this has
      the exact marginals, but not the exact joint distribution.
    - ``flipout``: one sample $\Delta W$ per batch with random signs $r, s$ for each example,
      $y = M x + r \odot \Delta W (s \odot x)$. Each example has the exact joint distribution, and the perturbations of
      different examples are uncorrelated.
    - ``weights``: one sample of all weights per batch.

    ``local`` and ``flipout`` apply to dense and convolutional products, computed by modules or functions, whose weight
    and bias have no other use; all other parameters are sampled directly. ``flipout`` also requires activations whose
    first dimension is the example.

    Args:
        model: The model.
        inputs: Small batch with which the model is run once, to find the uses of its weights.
        tensors: Parameters and buffers of this run.
        generator: Random number generator of the noise.
        estimator: ``local``, ``flipout`` or ``weights``; default ``local``.

    References:
        D. P. Kingma, T. Salimans, M. Welling (2015), "Variational dropout and the local reparameterization trick",
        NeurIPS, arXiv 1506.02557, section 2.2; Y. Wen et al. (2018), "Flipout: efficient pseudo-independent weight
        perturbations on mini-batches", ICLR, arXiv 1803.04386, equation 4.
    """

    def __init__(
        self,
        model: FunctionalModel,
        inputs: AnyInputs,
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
        self, mean: Mapping[str, Tensor], stddev: Mapping[str, Tensor], buffers: Mapping[str, Tensor], inputs: AnyInputs
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the model with newly sampled noise.

        Args:
            mean: Means of all parameters.
            stddev: Standard deviations of the random parameters; the others are fixed at their mean.
            buffers: The buffers.
            inputs: Batch ``[B, ...]``.

        Returns:
            The outputs, differentiable in means and standard deviations, and the parameters of the run: samples, or
            the means for parameters whose noise is sampled at the outputs of their layer.
        """
        sample = {
            name: torch.addcmul(tensor, stddev[name], self._noise(tensor))
            if name in stddev and name not in self.local_names
            else tensor
            for name, tensor in mean.items()
        }
        tensors = {**sample, **buffers}
        if not self._layers:
            return self._model(tensors, inputs), sample

        def noisy(use: WeightUse, product: Product) -> Tensor:
            weight = stddev.get(use.name)
            bias = None if use.bias is None else stddev.get(use.bias)
            return (self._local if self._is_local else self._flipout)(product, weight, bias)

        with Interception(self._layers, tensors, on_product=noisy):
            return self._model(tensors, inputs), sample

    def _noise(self, like: Tensor) -> Tensor:
        return standard_normal(like.shape, like, self._generator)

    def _signs(self, like: Tensor, features: int) -> Tensor:
        """Return independent random signs for each example and each index of dimension ``features``, broadcastable."""
        shape = [1] * like.dim()
        shape[0] = like.shape[0]
        shape[features] = like.shape[features]
        device = self._generator.device
        signs = 2 * torch.randint(2, shape, generator=self._generator, device=device) - 1
        return signs.to(like)

    def _local(self, product: Product, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Return a product with independent noise at each output (local reparameterization)."""
        output = product.output()
        squares = [None if stddev is None else stddev.square() for stddev in (weight, bias)]
        variance = product.variance(squares[0], squares[1])
        if variance is None:
            return output
        return torch.addcmul(output, variance.clamp_min(_LEAST_VARIANCE).sqrt(), self._noise(output))

    def _flipout(self, product: Product, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Return a product with one perturbation of weight and bias, and random signs for each example."""
        use = product.use
        output = product.output()
        deltas = [None if stddev is None else stddev * self._noise(stddev) for stddev in (weight, bias)]
        if deltas[0] is not None and use.input_dim is not None:
            inputs = product.inputs * self._signs(product.inputs, use.input_dim)
            output = torch.addcmul(
                output, product.output_with(inputs, deltas[0], None), self._signs(output, use.product_dim)
            )
        if deltas[1] is not None:
            output = torch.addcmul(output, use.along_units(deltas[1]), self._signs(output, use.product_dim))
        return output
