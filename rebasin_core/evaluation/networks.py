"""Networks drawn from a posterior and run on data, one by one or several at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, final

import torch
from pydantic import PositiveInt
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.capabilities import AbstractIndependentGaussian, AbstractMixture
from rebasin_core.posteriors.gaussian import AbstractGaussianPosterior
from rebasin_core.strategy import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor

    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.posteriors.base import Posterior

MethodName: TypeAlias = Literal["auto", "loop", "vectorized", "local"]
PrecisionName: TypeAlias = Literal["full", "bfloat16"]
AllocationName: TypeAlias = Literal["even", "adaptive"]
Adjust: TypeAlias = "Callable[[Mapping[str, Tensor], int], Mapping[str, Tensor]]"
"""Changes the tensors of a drawn network, given its number."""


# Scalars, and networks, that are drawn in one call: small networks share the cost of calls.
_DRAWN_TOGETHER = 2**18
_MOST_TOGETHER = 64


@final
class EvaluationOptions(Options):
    r"""How networks sampled from a posterior are run.

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
    """``loop`` samples weights and runs one network after the other. ``vectorized`` runs several in one batch, faster
    for networks so small that calls cost more than arithmetic. ``local`` samples the outputs of layers instead of
    weights (local reparameterization), independently for every example: for independent Gaussians and dense layers that
    every example passes once, exactly the predictive of every example, at a far smaller error for as many samples. In
    convolutions it takes the noise at different positions as independent, which changes the predictive. ``auto`` uses
    ``local`` where it is exact, ``vectorized`` for small networks, and ``loop`` otherwise."""

    chunk_size: PositiveInt | None = None
    """Networks in one batch, for ``vectorized`` and ``local``; determined from the free memory if not given."""

    precision: PrecisionName = "full"
    """``full``, or ``bfloat16``: matrix products in that precision, about twice as fast on hardware that has it."""

    antithetic: bool | None = None
    """Whether samples come in antithetic pairs (opposite noise); for Gaussian posteriors and an even number of samples.
    By default for ``local`` only, if the number is even."""

    allocation: AllocationName = "even"
    """``even`` gives every example equally many samples. ``adaptive`` gives more to those whose losses are uncertain
    (Neyman allocation, see `Allocation`), as many as asked for on average, at least 8, after a pilot of 4: a far
    smaller error of the loss on data that a network knows well. Only for noise that is independent across examples, as
    with ``local``."""

    compiled: bool = False
    """Whether ``loop`` compiles the network by ``torch.compile``: half a minute at the first point, then faster where
    much of the time is not matrix products (normalization, activations)."""

    def arithmetic(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context in which matrices are multiplied in the chosen precision.

        Args:
            device: The device of the matrices.

        Returns:
            A context manager.
        """
        if self.precision == "full":
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)


@final
@dataclass(frozen=True, slots=True)
class Sampling:
    """How many networks are sampled from a posterior, with which noise, and how they are run.

    Attributes:
        num_samples: Number of posterior samples, at least 1.
        seed: Seed of the noise; posteriors of one kind have common random numbers for equal seeds.
        options: How the networks are run.
        adjust: Changes the tensors of every sampled network, given its index; None for no change.
    """

    num_samples: int
    seed: int = 0
    options: EvaluationOptions = field(default_factory=EvaluationOptions)
    adjust: Adjust | None = None


@final
@dataclass(frozen=True, slots=True)
class Outputs:
    """What several networks return for one batch.

    Attributes:
        first: The number of the first of these networks.
        batch_index: Index of the batch.
        values: ``[c, N, ...]`` for c networks.
    """

    first: int
    batch_index: int
    values: Tensor


class AbstractNetworks(ABC):
    """A number of networks drawn from a posterior."""

    count: int
    """How many."""

    chunk: int
    """How many are run at once."""

    least_chunk: int = 1
    """How many must be run at once: two, where pairs of opposite noise are drawn together."""

    independent: bool = False
    """Whether the noise of one example has nothing to do with that of another; so also if there is none."""

    paired: bool = False
    """Whether every second one has the opposite noise of the one before."""

    @abstractmethod
    def outputs(self, batches: Sequence[tuple[Tensor, Tensor]]) -> Iterator[Outputs]:
        """Yield the outputs of every network for every batch, each once, in an order that suits the method.

        Args:
            batches: The data.

        Yields:
            Outputs; the same ones each time.
        """


@final
class SampledNetworks:
    """Draws networks one after the other (small ones several at once), from a generator with a given seed.

    Posteriors of one kind get the same noise (common random numbers). A mixture of equally weighted single networks
    (samples, an ensemble) that are no more than asked for is taken whole, each once. Of other mixtures, components are
    met in proportion to their weights (systematic sampling): none more than once too often, and of K equal weights no
    component twice while there are fewer samples than K.

    Args:
        posterior: A distribution over the model's parameters.
        count: How many to draw.
        seed: Seed of the noise.
        antithetic: Whether every second one has the opposite noise of the one before.
        adjust: Changes the tensors of every network, given its number.

    Raises:
        InvalidInputError: If pairs are asked of a posterior that is not Gaussian, or an odd number of them.
    """

    def __init__(
        self, posterior: Posterior, count: int, seed: int, *, antithetic: bool = False, adjust: Adjust | None = None
    ) -> None:
        self._posterior = posterior
        self._seed = seed
        self._adjust = adjust
        self.paired = antithetic
        self._whole = _taken_whole(posterior, count)
        self.count = count if self._whole is None else len(self._whole)
        # Points are left out: they have one sample, and no errors that would be paired with those of others.
        without_noise = isinstance(posterior, AbstractIndependentGaussian) and not posterior.noisy_names
        self.independent = without_noise and not posterior.is_point
        if antithetic and (count % 2 or not isinstance(posterior, AbstractGaussianPosterior)):
            message = (
                f"antithetic pairs need a Gaussian posterior and an even number of samples, got a {posterior.kind!r} "
                f"posterior and {count}"
            )
            raise InvalidInputError(message)

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        """Yield the tensors of one network after the other, the same ones each time."""
        for index, tensors in enumerate(self._drawn()):
            yield tensors if self._adjust is None else self._adjust(tensors, index)

    def _drawn(self) -> Iterator[dict[str, Tensor]]:
        if self._whole is not None:
            for member in self._whole:
                yield {**member.mean, **member.buffers}
            return
        generator = torch.Generator(self._posterior.device).manual_seed(self._seed)
        size = sum(tensor.numel() for tensor in self._posterior.mean.values())
        least = 2 if self.paired else 1
        together = max(1, min(_MOST_TOGETHER, _DRAWN_TOGETHER // max(1, size)) // least) * least
        for first in range(0, self.count, together):
            number = min(together, self.count - first)
            drawn = self._posterior.from_noise(self._noise(first, number, generator))
            for index in range(number):
                yield {name: tensor[index] for name, tensor in drawn.items()}

    def _noise(self, first: int, number: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the noise of several networks, from one on."""
        if not self.paired:
            noise = self._posterior.draw_noise((number,), generator=generator)
            if not isinstance(self._posterior, AbstractMixture):
                return noise
            return self._posterior.at_quantiles(noise, _systematic(self.count, self._seed)[first : first + number])
        half = self._posterior.draw_noise((number // 2,), generator=generator)
        return {name: torch.stack([tensor, -tensor], 1).flatten(0, 1) for name, tensor in half.items()}


def _taken_whole(posterior: Posterior, count: int) -> Sequence[Posterior] | None:
    """Return the networks of a mixture of equally weighted single networks, if they are no more than asked for."""
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
    """Runs drawn networks one after the other: one in memory at a time.

    Args:
        drawn: The networks.
        model: The model.
        options: The precision.
    """

    def __init__(self, drawn: SampledNetworks, model: FunctionalModel, options: EvaluationOptions) -> None:
        self._drawn = drawn
        self._options = options
        self._model = model.compiled() if options.compiled else model
        self.count = drawn.count
        self.chunk = 1
        self.paired = drawn.paired
        self.independent = drawn.independent

    @override
    def outputs(self, batches: Sequence[tuple[Tensor, Tensor]]) -> Iterator[Outputs]:
        for index, tensors in enumerate(self._drawn):
            if index == 0:
                self._model.check(tensors, "the posterior")
            for number, (inputs, _) in enumerate(batches):
                with self._options.arithmetic(inputs.device):
                    values = self._model(tensors, inputs)
                yield Outputs(index, number, values.unsqueeze(0))


@final
class VectorizedNetworks(AbstractNetworks):
    """Runs several drawn networks at once, their tensors stacked (``vmap``).

    Args:
        drawn: The networks.
        model: The model.
        options: The precision.
        chunk: How many at once.
    """

    def __init__(self, drawn: SampledNetworks, model: FunctionalModel, options: EvaluationOptions, chunk: int) -> None:
        self._drawn = drawn
        self._model = model
        self._options = options
        self.count = drawn.count
        self.chunk = chunk
        self.paired = drawn.paired
        self.independent = drawn.independent

    @override
    def outputs(self, batches: Sequence[tuple[Tensor, Tensor]]) -> Iterator[Outputs]:
        held: list[Mapping[str, Tensor]] = []
        for index, tensors in enumerate(self._drawn):
            if index == 0:
                self._model.check(tensors, "the posterior")
            held.append(tensors)
            if len(held) == self.chunk or index == self.count - 1:
                yield from self._at_once(held, index + 1 - len(held), batches)
                held = []

    def is_possible(self, inputs: Tensor) -> bool:
        """Return whether this model can be run so: not if its control flow depends on data, or it changes things.

        Args:
            inputs: A batch; two of its examples are tried.
        """
        tensors = next(iter(self._drawn))
        try:
            for _ in self._at_once([tensors, tensors], 0, [(inputs[:2], inputs[:2])]):
                pass
        except (RuntimeError, ValueError, TypeError):
            return False
        return True

    def _at_once(
        self, held: Sequence[Mapping[str, Tensor]], first: int, batches: Sequence[tuple[Tensor, Tensor]]
    ) -> Iterator[Outputs]:
        stacked = {name: torch.stack([tensors[name] for tensors in held]) for name in held[0]}

        def call(tensors: dict[str, Tensor], inputs: Tensor) -> Tensor:
            return self._model(tensors, inputs)

        run = torch.vmap(call, in_dims=(0, None))
        for number, (inputs, _) in enumerate(batches):
            with self._options.arithmetic(inputs.device):
                values: Tensor = run(stacked, inputs)
            yield Outputs(first, number, values)
