"""Local reparameterization: sampling of the outputs of layers with independent Gaussian weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.networks import AbstractNetworks, Outputs, Sampling
from rebasin_core.evaluation.reading import Interception, Product, WeightUse
from rebasin_core.tensors.inputs import repeated_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.evaluation.batches import Batch
    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.posteriors.capabilities import AbstractIndependentGaussian
    from rebasin_core.tensors.inputs import AnyInputs

# Two different numbers, so that a shape cannot match by coincidence.
_TRIAL_ROWS, _TRIAL_NETWORKS = 2, 3


@final
@dataclass(frozen=True, slots=True)
class LocalLayers:
    """Layers whose outputs can be sampled instead of their weights.

    Attributes:
        random: Layers with random parameters, in the order of their calls.
        missing: Random parameters that are used in other operations and therefore must be sampled themselves.
        is_exact: Whether the predictive of each example is exact: each example uses each weight once.
    """

    random: list[WeightUse]
    missing: list[str]
    is_exact: bool


def local_layers(posterior: AbstractIndependentGaussian, model: FunctionalModel, inputs: AnyInputs) -> LocalLayers:
    """Return the layers whose outputs can be sampled instead of their weights.

    Args:
        posterior: A posterior with independent Gaussian parameters.
        model: The model.
        inputs: A batch.

    Returns:
        The layers, and the random parameters outside of them.

    Raises:
        InvalidInputError: If the posterior does not match the model.
    """
    tensors = {**posterior.shared_mean(), **posterior.buffers}
    model.check(tensors, "the posterior")
    names = posterior.noisy_names
    if not names:
        return LocalLayers([], [], is_exact=True)
    trial = inputs[:_TRIAL_ROWS]
    layers = [
        use
        for use in model.reading(trial, tensors).layers
        if names.intersection(use.parameter_names) and use.has_examples_first(len(trial))
    ]
    missing = sorted(names.difference(*(use.parameter_names for use in layers)))
    return LocalLayers(layers, missing, all(use.is_one_row_an_example(len(trial)) for use in layers))


@final
class LocalNetworks(AbstractNetworks):
    r"""Sampled outputs of layers, $y \sim \mathcal N(Mx + m,\; S^2 x^2 + s^2)$, independent for each example.

    $M$ and $S$ are the means and standard deviations of the weight, $m$ and $s$ those of the bias; squares are taken
    entry by entry. The moments of the first random layer are equal for all networks and are computed once per batch,
    unless a skip connection bypasses that layer.

    Args:
        posterior: A posterior with independent Gaussian parameters.
        model: The model.
        layers: The random layers, as from `local_layers`.
        sampling: Number of networks, seed of the noise, precision and antithetic pairs.
        chunk: Number of networks in one batch.

    References:
        D. P. Kingma, T. Salimans, M. Welling (2015), arXiv 1506.02557, section 2.2.
    """

    independent = True

    def __init__(
        self,
        posterior: AbstractIndependentGaussian,
        model: FunctionalModel,
        layers: Sequence[WeightUse],
        sampling: Sampling,
        *,
        chunk: int,
    ) -> None:
        count = sampling.num_samples
        options = sampling.options
        if options.antithetic and count % 2:
            message = f"antithetic pairs need an even number of samples, got {count}"
            raise InvalidInputError(message)
        self._model = model
        self._layers = layers
        self._options = options
        self._seed = sampling.seed
        self.paired = count % 2 == 0 if options.antithetic is None else options.antithetic
        self.min_chunk = 2 if self.paired else 1
        self.count = count
        self.chunk = min(count, max(self.min_chunk, chunk - chunk % self.min_chunk))
        self._tensors = {**posterior.mean, **posterior.buffers}
        self._variances = {name: stddev.square() for name, stddev in posterior.stddev.items()}

    @override
    def outputs(self, batches: Sequence[Batch]) -> Iterator[Outputs]:
        generator = torch.Generator(batches[0][0].device).manual_seed(self._seed)
        expand = self._can_expand_late(batches[0][0])
        for batch_index, (inputs, _) in enumerate(batches):
            noise = _Noise(self._layers, self._variances, generator, antithetic=self.paired)
            with self._options.arithmetic(inputs.device):
                for first in range(0, self.count, self.chunk):
                    networks = min(self.chunk, self.count - first)
                    values = self._run(noise, inputs, networks, expand=expand)
                    yield Outputs(first, batch_index, values)

    def _run(self, noise: _Noise, inputs: AnyInputs, networks: int, *, expand: bool) -> Tensor:
        """Return the outputs of several networks for a batch; with `expand`, the first random layer expands it."""
        rows = len(inputs)
        noise.start(networks, rows, expand=expand)
        if not expand and networks > 1:
            inputs = repeated_rows(inputs, networks)
        with Interception(self._layers, self._tensors, on_product=noise.sampled):
            values = self._model(self._tensors, inputs)
        noise.finish()
        return values.reshape(networks, rows, *values.shape[1:])

    def _can_expand_late(self, inputs: AnyInputs) -> bool:
        """Return whether the batch can be expanded from one network to several at the first random layer.

        It cannot if a skip connection bypasses that layer.
        """
        generator = torch.Generator(inputs.device).manual_seed(0)
        noise = _Noise(self._layers, self._variances, generator, antithetic=False)
        try:
            self._run(noise, inputs[:_TRIAL_ROWS], _TRIAL_NETWORKS, expand=True)
        except InvalidInputError:
            return False
        return True


@final
class _Noise:
    """Samples the outputs of layers in a forward pass."""

    def __init__(
        self,
        layers: Sequence[WeightUse],
        variances: Mapping[str, Tensor],
        generator: torch.Generator,
        *,
        antithetic: bool,
    ) -> None:
        self._names = [use.name for use in layers]
        self._variances = variances
        self._generator = generator
        self._antithetic = antithetic
        self._networks = 1
        self._rows = 0
        self._expand = False
        self._used: list[str] = []
        self._moments: tuple[Tensor, Tensor] | None = None

    def start(self, networks: int, rows: int, *, expand: bool) -> None:
        """Start a pass of several networks; with ``expand``, the first layer expands the batch."""
        self._networks = networks
        self._rows = rows
        self._expand = expand
        self._used = []

    def finish(self) -> None:
        """Raise unless the pass used each layer once, as `local_layers` found; the noise would be wrong otherwise."""
        if sorted(self._used) != sorted(self._names):
            odd = sorted({name for name in self._names if self._used.count(name) != 1})
            message = (
                f"the method `local` needs a network that uses each layer once in every batch, but the number of uses "
                f"of {odd} depends on the data; use the method `loop`"
            )
            raise InvalidInputError(message)

    def sampled(self, use: WeightUse, product: Product) -> Tensor:
        """Return sampled outputs of a layer for all networks: ``[networks * rows, ...]``."""
        self._used.append(use.name)
        if use.name != self._names[0] or not self._expand:
            output = product.output()
            return self._sample(output, self._stddev(product, output))
        # The inputs are the same in all chunks of this batch: compute mean and standard deviation once.
        if self._moments is None:
            output = product.output()
            self._moments = output, self._stddev(product, output)
        return self._sample(*self._moments)

    def _stddev(self, product: Product, output: Tensor) -> Tensor:
        use = product.use
        weight = self._variances.get(use.name)
        bias = None if use.bias is None else self._variances.get(use.bias)
        variance = product.variance(weight, bias)
        if variance is None:
            return torch.zeros_like(output)
        # In place unless the variance is a view of the posterior's: allocation costs more than the root.
        return variance.sqrt().expand_as(output) if weight is None else variance.clamp_min_(0).sqrt_()

    def _sample(self, mean: Tensor, stddev: Tensor) -> Tensor:
        networks = self._networks // 2 if self._antithetic else self._networks
        dtype = torch.float64 if mean.dtype == torch.float64 else torch.float32
        shape = (networks, self._rows, *mean.shape[1:])
        noise = torch.randn(shape, generator=self._generator, device=mean.device, dtype=dtype)
        # Moments that are equal for all networks have the rows of one network only.
        stddev = stddev.reshape(-1, self._rows, *stddev.shape[1:])
        mean = mean.reshape(-1, self._rows, *mean.shape[1:])
        if not self._antithetic:
            return noise.mul_(stddev).add_(mean).flatten(0, 1)
        # Written directly into the interleaved result, one pass for each sign.
        sampled = torch.empty(
            (networks, 2, *shape[1:]), dtype=torch.promote_types(dtype, mean.dtype), device=mean.device
        )
        for index, sign in enumerate((1, -1)):
            moments = [moment if len(moment) == 1 else moment[index::2] for moment in (mean, stddev)]
            torch.addcmul(moments[0], moments[1], noise, value=sign, out=sampled[:, index])
        return sampled.flatten(0, 2)
