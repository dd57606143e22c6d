"""Choice of the evaluation method, and of the number of networks in one batch."""

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
from rebasin_core.tensors.inputs import input_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.evaluation.batches import Batch
    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.tensors.inputs import AnyInputs

# Multiplications per network and batch below which the overhead of calls exceeds the arithmetic.
_SMALL = {"cpu": 2e7, "cuda": 2e10}
# Maximum number of activations per pass on a CPU: fits the cache, and products are large enough to be efficient.
_CPU_ELEMENTS = 5_000_000
# Memory of a pass, as a multiple of its outputs.
_COPIES = 6
# Memory of a pass in bytes. It does not depend on the free memory: the number of networks per batch determines the
# random numbers of `local`, so results would change with the load of the machine, and the number of its processes.
_MEMORY = {"cpu": 2**30, "cuda": 2**32}
_OTHER_MEMORY = 2**30
# Maximum number of tensors that a message names.
_MAX_NAMED = 8
_DENSE = (
    "the method `local` is not applicable to dense targets, or to targets with class weights or ignored labels; use "
    "`auto`"
)


def networks_of(
    posterior: Posterior,
    model: FunctionalModel,
    batches: Sequence[Batch],
    sampling: Sampling,
    *,
    allow_local: bool = True,
) -> AbstractNetworks:
    """Return networks sampled from a posterior, with the requested evaluation method or, for ``auto``, the best one.

    Args:
        posterior: A distribution over the model's parameters.
        model: The network.
        batches: As from `held_batches`.
        sampling: The posterior samples, and how they are run.
        allow_local: Whether the method ``local`` is applicable; it is not for dense targets, whose elements share the
            noise of their example.

    Returns:
        The networks.

    Raises:
        InvalidInputError: If the requested method is not applicable.
    """
    inputs = batches[0][0]
    options = sampling.options
    missing: list[str] = []
    if (
        allow_local
        and options.method in {"auto", "local"}
        and isinstance(posterior, AbstractIndependentGaussian)
        and sampling.adjust is None
    ):
        layers = local_layers(posterior, model, inputs)
        missing = layers.missing
        if layers.random and not missing and (layers.is_exact or options.method == "local"):
            chunk = options.chunk_size or _chunk(model, inputs, sampling.num_samples, stacked=False)
            return LocalNetworks(posterior, model, layers.random, sampling, chunk=chunk)
    if options.method == "local":
        raise InvalidInputError(_why_not_local(posterior, missing) if allow_local else _DENSE)
    sampled = SampledNetworks(
        posterior,
        sampling.num_samples,
        sampling.seed,
        antithetic=bool(options.antithetic),
        adjust=sampling.adjust,
    )
    # About one multiplication per weight and example.
    small = model.size * len(inputs) < _SMALL.get(inputs.device.type, 0)
    if sampled.count > 1 and (options.method == "vectorized" or (options.method == "auto" and small)):
        chunk = options.chunk_size or _chunk(model, inputs, sampling.num_samples, stacked=True)
        vectorized = VectorizedNetworks(sampled, model, options, min(chunk, sampled.count))
        if options.method == "vectorized" or vectorized.is_possible(inputs):
            return vectorized
    return LoopedNetworks(sampled, model, options)


def _why_not_local(posterior: Posterior, missing: Sequence[str]) -> str:
    others = f" with {', '.join(f'`{name}`' for name in missing[:_MAX_NAMED])} used in another way" if missing else ""
    return (
        "the method `local` needs independent Gaussians over the weights of dense and convolutional layers that are "
        f"used once, and no adjustment of sampled weights; got a {posterior.kind!r} posterior{others}; use `auto`"
    )


def _chunk(model: FunctionalModel, inputs: AnyInputs, count: int, *, stacked: bool) -> int:
    """Return the number of networks per batch, by the memory of a pass and, on a CPU, its cache.

    It only depends on the model, the shape of its inputs and the type of the device.
    """
    elements = model.output_elements(inputs)
    item_size = input_tensors(inputs)[0].element_size()
    per_network = elements * item_size * _COPIES
    if stacked:
        per_network += model.size * item_size * 2
    if inputs.device.type == "cpu":
        count = min(count, max(1, _CPU_ELEMENTS // elements))
    return max(1, min(count, _MEMORY.get(inputs.device.type, _OTHER_MEMORY) // max(per_network, 1)))
