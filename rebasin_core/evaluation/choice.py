"""Which way to run networks, and how many at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.local import LocalNetworks, local_layers
from rebasin_core.evaluation.networks import (
    AbstractNetworks,
    LoopedNetworks,
    SampledNetworks,
    Sampling,
    VectorizedNetworks,
)
from rebasin_core.posteriors.capabilities import AbstractIndependentGaussian
from rebasin_core.tensors.memory import free_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.posteriors.base import Posterior

# Below this many multiplications a network and batch, calls cost more than arithmetic.
_SMALL = {"cpu": 2e7, "cuda": 2e10}
# Numbers that all layers together return at once on a CPU: as many as stay in its cache, products large enough.
_CPU_ELEMENTS = 5_000_000
# A pass needs several times its parameters and outputs; no more than a part of the free memory is taken.
_COPIES, _SHARE = 6, 0.5
# So many tensors are named in a message.
_MOST_NAMED = 8


def networks_of(
    posterior: Posterior, model: FunctionalModel, batches: Sequence[tuple[Tensor, Tensor]], sampling: Sampling
) -> AbstractNetworks:
    """Return networks sampled from a posterior, to be run by the method of the options or the one that fits best.

    Args:
        posterior: A distribution over the model's parameters.
        model: The network.
        batches: As from `held_batches`.
        sampling: The posterior samples, and how they are run.

    Returns:
        The networks.

    Raises:
        InvalidInputError: If the method cannot be used.
    """
    inputs = batches[0][0]
    options = sampling.options
    missing: list[str] = []
    if (
        options.method in {"auto", "local"}
        and isinstance(posterior, AbstractIndependentGaussian)
        and sampling.adjust is None
    ):
        found = local_layers(posterior, model, inputs)
        missing = found.missing
        if found.random and not missing and (found.is_exact or options.method == "local"):
            chunk = options.chunk_size or _chunk(model, inputs, sampling.num_samples, stacked=False)
            return LocalNetworks(posterior, model, found.random, sampling, chunk=chunk)
    if options.method == "local":
        others = f" with {', '.join(f'`{name}`' for name in missing[:_MOST_NAMED])} used otherwise" if missing else ""
        message = (
            "the method `local` needs independent Gaussians over the weights of dense and convolutional layers that "
            f"are used once, and nothing that changes drawn weights; got a {posterior.kind!r} posterior{others}. Use "
            "`auto`"
        )
        raise InvalidInputError(message)
    drawn = SampledNetworks(
        posterior,
        sampling.num_samples,
        sampling.seed,
        antithetic=bool(options.antithetic),
        adjust=sampling.adjust,
    )
    # Every weight is met about once an example.
    small = model.size * len(inputs) < _SMALL.get(inputs.device.type, 0)
    if drawn.count > 1 and (options.method == "vectorized" or (options.method == "auto" and small)):
        chunk = options.chunk_size or _chunk(model, inputs, sampling.num_samples, stacked=True)
        vectorized = VectorizedNetworks(drawn, model, options, min(chunk, drawn.count))
        if options.method == "vectorized" or vectorized.is_possible(inputs):
            return vectorized
    return LoopedNetworks(drawn, model, options)


def _chunk(model: FunctionalModel, inputs: Tensor, count: int, *, stacked: bool) -> int:
    """Return how many networks fit into memory at once, and on a CPU into its cache."""
    elements = model.output_elements(inputs)
    per_network = elements * inputs.element_size() * _COPIES
    if stacked:
        per_network += model.size * inputs.element_size() * 2
    if inputs.device.type == "cpu":
        count = min(count, max(1, _CPU_ELEMENTS // elements))
    return int(max(1, min(count, _SHARE * free_memory(inputs.device) // max(per_network, 1))))
