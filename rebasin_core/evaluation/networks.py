"""Evaluation of networks sampled from a posterior, sequentially or in batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias, final

import torch
from pydantic import PositiveInt
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.precision import is_bfloat16_faster
from rebasin_core.posteriors.capabilities import AbstractIndependentGaussian, AbstractMixture
from rebasin_core.posteriors.gaussian import AbstractGaussianPosterior
from rebasin_core.strategy import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor

    from rebasin_core.evaluation.batches import Batch
    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.tensors.inputs import AnyInputs

MethodName: TypeAlias = Literal["auto", "loop", "vectorized", "local"]
PrecisionName: TypeAlias = Literal["full", "bfloat16", "auto"]
AllocationName: TypeAlias = Literal["even", "adaptive"]
Adjust: TypeAlias = "Callable[[Mapping[str, Tensor], int], Mapping[str, Tensor]]"
"""Returns the adjusted tensors of a sampled network, given its tensors and its index among the samples."""


# Maximum number of scalars, and of networks, sampled in one call: reduces the overhead for small networks.
_BLOCK_ELEMENTS = 2**18
_MAX_BLOCK = 64


@final
class EvaluationOptions(Options):
    r"""Options for the evaluation of networks sampled from a posterior.

    Raises:
        ConfigError: If an option is invalid.

    References:
        D. P. Kingma, T. Salimans, M. Welling (2015), "Variational dropout and the local reparameterization trick",
        NeurIPS, arXiv 1506.02557, section 2.2.

    Examples:
        >>> EvaluationOptions(method="loop", antithetic=True)
        EvaluationOptions(method='loop', antithetic=True)
    """

    method: MethodName = "auto"
    """``loop`` samples weights and evaluates one network at a time. ``vectorized`` evaluates several networks in one
    batch (`torch.vmap`), which is faster for small networks. ``local`` samples the outputs of layers instead of weights
    (local reparameterization), independently for each example. For independent Gaussians and dense layers that are
    applied once per example, this leaves the predictive of each example unchanged, and the Monte Carlo error is far
    smaller for the same number of samples. In convolutions it treats the noise at different positions as independent,
    which changes the predictive. ``auto`` uses ``local`` where it is exact, ``vectorized`` for small networks, and
    ``loop`` otherwise."""

    chunk_size: PositiveInt | None = None
    """Number of networks in one batch, for ``vectorized`` and ``local``; by default determined from the free memory."""

    precision: PrecisionName = "full"
    """``full``; ``bfloat16``: matrix products in bfloat16, up to twice as fast on hardware that supports it; or
    ``auto``: bfloat16 if a measurement on the device finds it at least 1.2 times faster. Results then depend on the
    machine, by less than the Monte Carlo error."""

    antithetic: bool | None = None
    """Whether samples are drawn in antithetic pairs (noise e and -e). Needs a Gaussian posterior and an even number of
    samples. By default only for ``local``, if the number is even."""

    allocation: AllocationName = "even"
    """``even`` uses the same number of samples for each example. ``adaptive`` uses more samples for examples whose
    losses are uncertain (Neyman allocation, see `Allocation`), after a pilot of 4 samples. The number of samples, at
    least 8, is then the mean over the examples. The error of the loss is far smaller on data that the network predicts
    well. Needs noise that is independent across examples, as with ``local``."""

    compiled: bool = False
    """Whether ``loop`` compiles the network with `torch.compile`. The first point takes about half a minute longer;
    others are faster if much of the time is spent outside matrix products (normalization, activations)."""

    def arithmetic(self, device: torch.device) -> AbstractContextManager[object]:
        """Return a context manager that sets the precision of matrix products.

        Args:
            device: Device of the matrices.

        Returns:
            A context manager.
        """
        if self.precision == "full" or (self.precision == "auto" and not is_bfloat16_faster(device)):
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)


@final
@dataclass(frozen=True, slots=True)
class Sampling:
    """Number and seed of posterior samples, and how the sampled networks are evaluated.

    Attributes:
        num_samples: Number of posterior samples, at least 1.
        seed: Seed of the noise; posteriors of one class have common random numbers for equal seeds.
        options: How the networks are evaluated.
        adjust: Returns the adjusted tensors of a sampled network, given its tensors and index; None for no adjustment.
    """

    num_samples: int
    seed: int = 0
    options: EvaluationOptions = field(default_factory=EvaluationOptions)
    adjust: Adjust | None = None


@final
@dataclass(frozen=True, slots=True)
class Outputs:
    """Outputs of several networks for one batch.

    Attributes:
        first: Index of the first of these networks among the samples.
        batch_index: Index of the batch.
        values: Outputs of c networks, ``[c, N, ...]``.
    """

    first: int
    batch_index: int
    values: Tensor


class AbstractNetworks(ABC):
    """Networks sampled from a posterior, with a method to evaluate them."""

    count: int
    """Number of networks."""

    chunk: int
    """Number of networks in one batch."""

    min_chunk: int = 1
    """Minimum of `chunk`: 2 if antithetic pairs are sampled together."""

    independent: bool = False
    """Whether noise is independent across examples; also True for distributions with zero standard deviations."""

    paired: bool = False
    """Whether consecutive networks form antithetic pairs."""

    @abstractmethod
    def outputs(self, batches: Sequence[Batch]) -> Iterator[Outputs]:
        """Yield the outputs of each network for each batch, in an order that depends on the method.

        Args:
            batches: Batches ``(inputs, targets)``.

        Yields:
            Outputs; repeated calls yield the same values.
        """


@final
class SampledNetworks:
    """Networks sampled from a posterior with a given seed; small networks are sampled in blocks.

    Posteriors of one class receive the same noise for equal seeds (common random numbers). If the posterior is a
    mixture of at most `count` equally weighted single networks (samples, an ensemble), each is used exactly once. The
    components of other mixtures are chosen by systematic sampling: each occurs in proportion to its weight, rounded up
    or down. Of K equally weighted components, none is chosen twice if there are at most K samples.

    Args:
        posterior: A distribution over the model's parameters.
        count: Number of networks to sample.
        seed: Seed of the noise.
        antithetic: Whether consecutive networks form antithetic pairs.
        adjust: Adjusts the tensors of each network, given its index; None for no adjustment.

    Raises:
        InvalidInputError: If antithetic pairs are requested of a posterior that is not Gaussian, or of an odd number.
    """

    def __init__(
        self, posterior: Posterior, count: int, seed: int, *, antithetic: bool = False, adjust: Adjust | None = None
    ) -> None:
        self._posterior = posterior
        self._seed = seed
        self._adjust = adjust
        self.paired = antithetic
        self._members = _single_networks(posterior, count)
        self.count = count if self._members is None else len(self._members)
        # Single networks have one sample, and no influence values to be paired with those of other posteriors.
        without_noise = isinstance(posterior, AbstractIndependentGaussian) and not posterior.noisy_names
        self.independent = without_noise and not posterior.is_point
        if antithetic and (count % 2 or not isinstance(posterior, AbstractGaussianPosterior)):
            message = (
                f"antithetic pairs need a Gaussian posterior and an even number of samples, got a {posterior.kind!r} "
                f"posterior and {count}"
            )
            raise InvalidInputError(message)

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        """Yield the tensors of each network; repeated iteration yields the same values."""
        for index, tensors in enumerate(self._tensors()):
            yield tensors if self._adjust is None else self._adjust(tensors, index)

    def _tensors(self) -> Iterator[dict[str, Tensor]]:
        if self._members is not None:
            for member in self._members:
                yield {**member.mean, **member.buffers}
            return
        generator = torch.Generator(self._posterior.device).manual_seed(self._seed)
        size = sum(tensor.numel() for tensor in self._posterior.mean.values())
        unit = 2 if self.paired else 1
        block = max(1, min(_MAX_BLOCK, _BLOCK_ELEMENTS // max(1, size)) // unit) * unit
        for first in range(0, self.count, block):
            number = min(block, self.count - first)
            samples = self._posterior.from_noise(self._noise(first, number, generator))
            for index in range(number):
                yield {name: tensor[index] for name, tensor in samples.items()}

    def _noise(self, first: int, number: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the noise of `number` networks, starting at index `first`."""
        if not self.paired:
            noise = self._posterior.draw_noise((number,), generator=generator)
            if not isinstance(self._posterior, AbstractMixture):
                return noise
            return self._posterior.at_quantiles(noise, _systematic(self.count, self._seed)[first : first + number])
        half = self._posterior.draw_noise((number // 2,), generator=generator)
        return {name: torch.stack([tensor, -tensor], 1).flatten(0, 1) for name, tensor in half.items()}


def _single_networks(posterior: Posterior, count: int) -> Sequence[Posterior] | None:
    """Return the components of a mixture of at most `count` equally weighted single networks; None for others."""
    if not isinstance(posterior, AbstractMixture) or len(posterior.weights) > count or not posterior.is_uniform:
        return None
    components = posterior.components
    return components if all(component.is_point for component in components) else None


def _systematic(count: int, seed: int) -> Tensor:
    """Return equally spaced quantiles with a random offset, in random order."""
    generator = torch.Generator().manual_seed(seed)
    offset = torch.rand((), generator=generator, dtype=torch.float64)
    return (torch.randperm(count, generator=generator) + offset) / count


@final
class LoopedNetworks(AbstractNetworks):
    """Sequential evaluation of networks, with one network in memory at a time.

    Args:
        sampled: The networks.
        model: The model.
        options: Precision, and whether to compile the model.
    """

    def __init__(self, sampled: SampledNetworks, model: FunctionalModel, options: EvaluationOptions) -> None:
        self._sampled = sampled
        self._options = options
        self._model = model.compiled() if options.compiled else model
        self.count = sampled.count
        self.chunk = 1
        self.paired = sampled.paired
        self.independent = sampled.independent

    @override
    def outputs(self, batches: Sequence[Batch]) -> Iterator[Outputs]:
        for index, tensors in enumerate(self._sampled):
            if index == 0:
                self._model.check(tensors, "the posterior")
            for batch_index, (inputs, _) in enumerate(batches):
                with self._options.arithmetic(inputs.device):
                    values = self._model(tensors, inputs)
                yield Outputs(index, batch_index, values.unsqueeze(0))


@final
class VectorizedNetworks(AbstractNetworks):
    """Evaluation of several networks in one batch, with stacked tensors (`torch.vmap`).

    Args:
        sampled: The networks.
        model: The model.
        options: The precision.
        chunk: Number of networks in one batch, at least 1.
    """

    def __init__(
        self, sampled: SampledNetworks, model: FunctionalModel, options: EvaluationOptions, chunk: int
    ) -> None:
        self._sampled = sampled
        self._model = model
        self._options = options
        self.count = sampled.count
        self.chunk = chunk
        self.paired = sampled.paired
        self.independent = sampled.independent

    @override
    def outputs(self, batches: Sequence[Batch]) -> Iterator[Outputs]:
        networks: list[Mapping[str, Tensor]] = []
        for index, tensors in enumerate(self._sampled):
            if index == 0:
                self._model.check(tensors, "the posterior")
            networks.append(tensors)
            if len(networks) == self.chunk or index == self.count - 1:
                yield from self._run(networks, index + 1 - len(networks), batches)
                networks = []

    def is_possible(self, inputs: AnyInputs) -> bool:
        """Return whether `torch.vmap` supports the model; it does not support data-dependent control flow.

        Args:
            inputs: A batch; the model is run on two of its examples.
        """
        tensors = next(iter(self._sampled))
        try:
            for _ in self._run([tensors, tensors], 0, [(inputs[:2], torch.empty(0))]):
                pass
        except (RuntimeError, ValueError, TypeError):
            return False
        return True

    def _run(self, networks: Sequence[Mapping[str, Tensor]], first: int, batches: Sequence[Batch]) -> Iterator[Outputs]:
        stacked = {name: torch.stack([tensors[name] for tensors in networks]) for name in networks[0]}

        for batch_index, (inputs, _) in enumerate(batches):
            run = torch.vmap(partial(self._model, inputs=inputs))
            with self._options.arithmetic(inputs.device):
                values: Tensor = run(stacked)
            yield Outputs(first, batch_index, values)
