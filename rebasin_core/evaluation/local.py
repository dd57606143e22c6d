"""Networks with independent Gaussian weights, run by sampling the outputs of their layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.networks import AbstractNetworks, Outputs, Sampling
from rebasin_core.evaluation.reading import Interception, Product, WeightUse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.posteriors.capabilities import AbstractIndependentGaussian

# Few rows, and another number of networks than rows, so that shapes that fit by chance are seen.
_TRIAL_ROWS, _TRIAL_NETWORKS = 2, 3


@final
@dataclass(frozen=True, slots=True)
class LocalLayers:
    """The layers whose outputs can be sampled instead of their weights.

    Attributes:
        random: Those with random parameters, in the order of their calls.
        missing: The random parameters that are used in another way, so that they must be sampled themselves.
        is_exact: Whether the predictive distribution of every example is exact: every example meets each weight once.
    """

    random: list[WeightUse]
    missing: list[str]
    is_exact: bool


def local_layers(posterior: AbstractIndependentGaussian, model: FunctionalModel, inputs: Tensor) -> LocalLayers:
    """Return the layers whose outputs can be sampled instead of weights.

    Args:
        posterior: Independent Gaussians.
        model: The model.
        inputs: A batch.

    Returns:
        The layers.

    Raises:
        InvalidInputError: If the posterior does not fit the model.
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
    r"""Samples the outputs of layers: $y \sim \mathcal N(Mx + m,\; S^2 x^2 + s^2)$, independently for every example.

    The moments of the first random layer are the same for all networks and are computed once a batch.

    Args:
        posterior: Independent Gaussians.
        model: The model.
        layers: The random layers, as from `local_layers`.
        sampling: The number of networks, the seed of the noise, precision and antithetic pairs.
        chunk: Number of networks in one batch.
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
        self.least_chunk = 2 if self.paired else 1
        self.count = count
        self.chunk = min(count, max(self.least_chunk, chunk - chunk % self.least_chunk))
        self._tensors = {**posterior.mean, **posterior.buffers}
        self._variances = {name: stddev.square() for name, stddev in posterior.stddev.items()}

    @override
    def outputs(self, batches: Sequence[tuple[Tensor, Tensor]]) -> Iterator[Outputs]:
        generator = torch.Generator(batches[0][0].device).manual_seed(self._seed)
        late = self._can_branch_late(batches[0][0])
        for number, (inputs, _) in enumerate(batches):
            noise = _Noise(self._layers, self._variances, generator, antithetic=self.paired)
            with self._options.arithmetic(inputs.device):
                for first in range(0, self.count, self.chunk):
                    networks = min(self.chunk, self.count - first)
                    yield Outputs(first, number, self._run(noise, inputs, networks, late=late))

    def _run(self, noise: _Noise, inputs: Tensor, networks: int, *, late: bool) -> Tensor:
        """Return the outputs of several networks for a batch."""
        rows = len(inputs)
        noise.begin(networks, rows, branch=late)
        if not late and networks > 1:
            inputs = inputs.repeat(networks, *[1] * (inputs.dim() - 1))
        with Interception(self._layers, self._tensors, on_product=noise.sampled):
            values = self._model(self._tensors, inputs)
        noise.end()
        return values.reshape(networks, rows, *values.shape[1:])

    def _can_branch_late(self, inputs: Tensor) -> bool:
        """Return whether the batch can be expanded from one network to several at the first random layer.

        It cannot if a skip connection bypasses that layer.
        """
        generator = torch.Generator(inputs.device).manual_seed(0)
        noise = _Noise(self._layers, self._variances, generator, antithetic=False)
        try:
            self._run(noise, inputs[:_TRIAL_ROWS], _TRIAL_NETWORKS, late=True)
        except InvalidInputError:
            return False
        return True


@final
class _Noise:
    """The noise of the outputs of layers."""

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
        self._branch = False
        self._met: list[str] = []
        self._moments: tuple[Tensor, Tensor] | None = None

    def begin(self, networks: int, rows: int, *, branch: bool) -> None:
        """Begin a pass for several networks; with ``branch``, the batch is expanded at the first layer."""
        self._networks = networks
        self._rows = rows
        self._branch = branch
        self._met = []

    def end(self) -> None:
        """Raise if the pass did not use every layer once, as the first execution did: its noise would be wrong."""
        if sorted(self._met) != sorted(self._names):
            odd = sorted({name for name in self._names if self._met.count(name) != 1})
            message = (
                f"the method `local` needs a network that uses its layers alike for all data, but {odd} are used "
                "once in one batch and not in another. Use the method `loop`"
            )
            raise InvalidInputError(message)

    def sampled(self, use: WeightUse, product: Product) -> Tensor:
        """Return the outputs of a layer for every network: ``[networks * rows, ...]``."""
        self._met.append(use.name)
        if use.name != self._names[0] or not self._branch:
            output = product.output()
            return self._sample(output, self._deviation(product, output))
        # The same inputs in every chunk of this batch: output and deviation are computed once.
        if self._moments is None:
            output = product.output()
            self._moments = output, self._deviation(product, output)
        return self._sample(*self._moments)

    def _deviation(self, product: Product, output: Tensor) -> Tensor:
        use = product.use
        weight = self._variances.get(use.name)
        bias = None if use.bias is None else self._variances.get(use.bias)
        variance = product.variance(weight, bias)
        if variance is None:
            return torch.zeros_like(output)
        # In place where the variance is a tensor of its own: fresh memory costs more than the root.
        return variance.sqrt().expand_as(output) if weight is None else variance.clamp_min_(0).sqrt_()

    def _sample(self, mean: Tensor, deviation: Tensor) -> Tensor:
        networks = self._networks // 2 if self._antithetic else self._networks
        dtype = torch.float64 if mean.dtype == torch.float64 else torch.float32
        shape = (networks, self._rows, *mean.shape[1:])
        noise = torch.randn(shape, generator=self._generator, device=mean.device, dtype=dtype)
        # What is the same for all networks has as many rows as one of them.
        deviation = deviation.reshape(-1, self._rows, *deviation.shape[1:])
        mean = mean.reshape(-1, self._rows, *mean.shape[1:])
        if not self._antithetic:
            return noise.mul_(deviation).add_(mean).flatten(0, 1)
        # The two of a pair are written where they belong, in one pass each.
        sampled = torch.empty(
            (networks, 2, *shape[1:]), dtype=torch.promote_types(dtype, mean.dtype), device=mean.device
        )
        for number, sign in enumerate((1, -1)):
            own = [side if len(side) == 1 else side[number::2] for side in (mean, deviation)]
            torch.addcmul(own[0], own[1], noise, value=sign, out=sampled[:, number])
        return sampled.flatten(0, 2)
