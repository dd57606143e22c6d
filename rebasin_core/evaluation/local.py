"""Networks with independent Gaussian weights, run by drawing the outputs of their layers."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, final

import torch
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.layers import Layer, layers_called_once, output_variance
from rebasin_core.evaluation.networks import AbstractNetworks, EvaluationOptions, Outputs
from rebasin_core.tensors.modules import forward_hooks

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.posteriors.capabilities import AbstractIndependentGaussian

# Few rows, and another number of networks than rows, so that shapes that fit by chance are seen.
_TRIAL_ROWS, _TRIAL_NETWORKS = 2, 3


def local_layers(
    posterior: AbstractIndependentGaussian, model: FunctionalModel, inputs: Tensor
) -> tuple[list[Layer], bool] | None:
    """Return the layers whose outputs can be drawn instead of weights, if these are all that is random.

    Args:
        posterior: Independent Gaussians.
        model: The model.
        inputs: A batch.

    Returns:
        The random layers, in order of their call, and whether every example's predictive is exact; None if something
        else is random than dense and convolutional layers that are called once.
    """
    random = posterior.noisy_names
    if not random:
        return None
    tensors = {**posterior.mean, **posterior.buffers}
    model.check(tensors, "the posterior")
    called = layers_called_once(model, inputs[:_TRIAL_ROWS], tensors)
    layers = [layer for layer in called if random.intersection(layer.parameter_names)]
    if random.difference(*(layer.parameter_names for layer in layers)) or not layers:
        return None
    return layers, all(layer.is_dense_on_rows for layer in layers)


@final
class LocalNetworks(AbstractNetworks):
    r"""Draws the outputs of layers: $y \sim \mathcal N(Mx + m,\; S^2 x^2 + s^2)$, independently for every example.

    What comes before the first random layer, and its moments, are the same for all networks and computed once a batch.

    Args:
        posterior: Independent Gaussians.
        model: The model.
        layers: As from `local_layers`.
        options: Precision and pairs.
        count: Number of networks.
        seed: Seed of the noise.
        chunk: Networks at once.
    """

    independent = True

    def __init__(  # ruff: ignore[too-many-arguments] - one thing a part
        self,
        posterior: AbstractIndependentGaussian,
        model: FunctionalModel,
        layers: Sequence[Layer],
        options: EvaluationOptions,
        *,
        count: int,
        seed: int,
        chunk: int,
    ) -> None:
        if options.antithetic and count % 2:
            message = f"antithetic pairs need an even number of samples, got {count}"
            raise InvalidInputError(message)
        self._model, self._layers, self._options, self._seed = model, layers, options, seed
        self.paired = count % 2 == 0 if options.antithetic is None else options.antithetic
        self.least_chunk = 2 if self.paired else 1
        self.count, self.chunk = count, min(count, max(self.least_chunk, chunk - chunk % self.least_chunk))
        self._tensors = {**posterior.mean, **posterior.buffers}
        self._variances = {name: stddev.square() for name, stddev in posterior.stddev.items()}

    @override
    def outputs(self, batches: Sequence[tuple[Tensor, Tensor]]) -> Iterator[Outputs]:
        generator = torch.Generator(batches[0][0].device).manual_seed(self._seed)
        late = self._can_branch_late(batches[0][0])
        for place, (inputs, _) in enumerate(batches):
            noise = _Noise(self._layers, self._variances, generator, antithetic=self.paired)
            with noise.on(), self._options.arithmetic(inputs.device):
                for first in range(0, self.count, self.chunk):
                    networks = min(self.chunk, self.count - first)
                    yield Outputs(first, place, self._run(noise, inputs, networks, late=late))

    def _run(self, noise: _Noise, inputs: Tensor, networks: int, *, late: bool) -> Tensor:
        rows = len(inputs)
        noise.begin(networks, rows, branch=late)
        if not late and networks > 1:
            inputs = inputs.repeat(networks, *[1] * (inputs.dim() - 1))
        values = self._model(self._tensors, inputs)
        return values.reshape(networks, rows, *values.shape[1:])

    def _can_branch_late(self, inputs: Tensor) -> bool:
        """Return whether one pass may go from one network to several at the first random layer.

        It may not where something passes by that layer, to be added to what went through it.
        """
        generator = torch.Generator(inputs.device).manual_seed(0)
        noise = _Noise(self._layers, self._variances, generator, antithetic=False)
        with noise.on():
            try:
                self._run(noise, inputs[:_TRIAL_ROWS], _TRIAL_NETWORKS, late=True)
            except InvalidInputError:
                return False
        return True


@final
class _Noise:
    """The noise at the outputs of layers, as forward hooks."""

    def __init__(
        self,
        layers: Sequence[Layer],
        variances: Mapping[str, Tensor],
        generator: torch.Generator,
        *,
        antithetic: bool,
    ) -> None:
        self._layers, self._variances, self._generator, self._antithetic = layers, variances, generator, antithetic
        self._networks, self._rows, self._branch = 1, 0, False
        self._moments: tuple[Tensor, Tensor] | None = None

    @contextmanager
    def on(self) -> Generator[None]:
        """Make the layers noisy while a block runs."""
        first = self._layers[0].module
        compute = first.forward
        # The first layer's mean outputs are the same in every chunk of a batch: computed once.
        first.forward = lambda inputs: compute(inputs) if self._moments is None else self._moments[0]
        hooks = [(layer.module, self._hook(layer, first=index == 0)) for index, layer in enumerate(self._layers)]
        try:
            with forward_hooks(hooks):
                yield
        finally:
            del first.forward

    def begin(self, networks: int, rows: int, *, branch: bool) -> None:
        """Say how many networks the next pass stands for; with ``branch``, they part at the first layer."""
        self._networks, self._rows, self._branch = networks, rows, branch

    def _hook(self, layer: Layer, *, first: bool) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def add_noise(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not (first and self._branch):
                return self._drawn(output, self._deviation(layer, arguments[0], output))
            # The same inputs in every chunk of this batch: the moments are found once.
            if self._moments is None:
                self._moments = output, self._deviation(layer, arguments[0], output)
            return self._drawn(*self._moments)

        return add_noise

    def _deviation(self, layer: Layer, inputs: Tensor, output: Tensor) -> Tensor:
        weight, bias = (self._variances.get(layer.name(own)) for own in ("weight", "bias"))
        variance = output_variance(layer, inputs, weight, bias, output)
        if variance is None:
            return torch.zeros_like(output)
        # In place where the variance is a tensor of its own: fresh memory costs more than the root.
        return variance.sqrt() if weight is None else variance.clamp_min_(0).sqrt_()

    def _drawn(self, mean: Tensor, deviation: Tensor) -> Tensor:
        """Return outputs for every network: ``[networks * rows, ...]``."""
        networks = self._networks // 2 if self._antithetic else self._networks
        dtype = torch.float64 if mean.dtype == torch.float64 else torch.float32
        shape = (networks, self._rows, *mean.shape[1:])
        noise = torch.randn(shape, generator=self._generator, device=mean.device, dtype=dtype)
        # What is the same for all networks has as many rows as one of them.
        deviation, mean = (side.reshape(-1, self._rows, *side.shape[1:]) for side in (deviation, mean))
        if not self._antithetic:
            return noise.mul_(deviation).add_(mean).flatten(0, 1)
        # The two of a pair are written where they belong, in one pass each.
        drawn = torch.empty((networks, 2, *shape[1:]), dtype=torch.promote_types(dtype, mean.dtype), device=mean.device)
        for number, sign in enumerate((1, -1)):
            own = [side if len(side) == 1 else side[number::2] for side in (mean, deviation)]
            torch.addcmul(own[0], own[1], noise, value=sign, out=drawn[:, number])
        return drawn.flatten(0, 2)
