"""The laws of inference methods."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, cast, final

import torch

from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.evaluation.likelihoods import CategoricalLikelihood
from rebasin_core.evaluation.loss import LossEstimate
from rebasin_core.evaluation.networks import Sampling
from rebasin_core.evaluation.predictive import HeldTask, held_batches, predict
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.tensors.modules import copied, named_tensors
from rebasin_core.testing.cases import network
from rebasin_core.testing.law import device_under_test, expect, expect_equal, law, seeded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from rebasin_core.inference.base import Inference
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.testing.cases import Network


def _fit(config: object, seed: int = 0) -> Posterior:
    case = network()
    inference = cast("Inference", config)
    return inference.fit(case.model, case.data, generator=seeded(seed), spec=_spec(inference, case)).posterior


def _spec(inference: Inference, case: Network) -> PermutationSpec | None:
    """Return the symmetries of the network for methods that use them."""
    return case.spec if inference.uses_spec else None


@law("inference")
def no_side_effects(config: object, folder: Path) -> None:
    """The parameters and the mode of the given model are not changed."""
    del folder
    case = network()
    before = copied(named_tensors(case.model))
    inference = cast("Inference", config)
    inference.fit(case.model, case.data, generator=seeded(), spec=_spec(inference, case))
    expect_equal(named_tensors(case.model), before, "the model after fitting")
    expect(case.model.training, "the model was left in another mode")


@law("inference")
def reproducibility(config: object, folder: Path) -> None:
    """Equal generator states give equal posteriors, and the global generator is not used."""
    del folder
    state = torch.get_rng_state()
    first = _fit(config, 3)
    second = _fit(config, 3)
    expect_equal(first.mean, second.mean, "two fits with the same seed")
    expect_equal(first.stddev, second.stddev, "two fits with the same seed")
    expect(torch.equal(state, torch.get_rng_state()), "the global generator was changed")


@law("inference")
def completeness(config: object, folder: Path) -> None:
    """The posterior has all parameters and buffers of the model, with their shapes."""
    del folder
    posterior = _fit(config)
    FunctionalModel(network().model).check({**posterior.mean, **posterior.buffers}, "the posterior")


@law("inference")
def improvement(config: object, folder: Path) -> None:
    """The training loss of the posterior is lower than that of the initial parameters."""
    del folder
    case = network()
    model = FunctionalModel(case.model, device=device_under_test(), dtype=torch.float64)
    batches = held_batches(model, case.data)
    losses = [
        LossEstimate.of(predict(q, HeldTask(model, batches, CategoricalLikelihood()), Sampling(16))).loss
        for q in (PointPosterior.from_module(case.model), _fit(config))
    ]
    expect(losses[1] < losses[0], f"the training loss went from {losses[0]:.3f} to {losses[1]:.3f}")


@final
class _Interrupting:
    """Data that raise `KeyboardInterrupt` once, in the middle of a pass."""

    def __init__(self, data: list[tuple[Tensor, Tensor]], passes: int) -> None:
        self._data = data
        self._remaining = passes

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self._remaining -= 1
        for index, batch in enumerate(self._data):
            if self._remaining == 0 and index == 1:
                raise KeyboardInterrupt
            yield batch


@law("inference")
def resumption(config: object, folder: Path) -> None:
    """A run that is interrupted in an epoch and resumed gives the posterior of an uninterrupted run."""
    case = network()
    checkpoint = folder / "training.safetensors"
    inference = cast("Inference", config)
    spec = _spec(inference, case)
    whole = inference.fit(case.model, case.data, generator=seeded(1), spec=spec).posterior
    with contextlib.suppress(KeyboardInterrupt):
        # The first pass counts the examples, so the third is the second epoch.
        inference.fit(case.model, _Interrupting(case.data, 3), generator=seeded(1), checkpoint=checkpoint, spec=spec)
    resumed = inference.fit(case.model, case.data, generator=seeded(1), checkpoint=checkpoint, spec=spec).posterior
    expect_equal(resumed.mean, whole.mean, "resumed and uninterrupted")
    expect_equal(resumed.stddev, whole.stddev, "resumed and uninterrupted")


@law("inference")
def point(config: object, folder: Path) -> None:
    """The posterior is a single network if and only if the method says so."""
    del folder
    inference = cast("Inference", config)
    posterior = _fit(config)
    expect(posterior.is_point == inference.is_point, f"`is_point` is {inference.is_point}, got {posterior!r}")


@law("inference")
def specification(config: object, folder: Path) -> None:
    """A method with ``uses_spec = False`` returns the same posterior with and without a specification."""
    del folder
    inference = cast("Inference", config)
    if inference.uses_spec:
        return
    case = network()
    fitted = inference.fit(case.model, case.data, generator=seeded(), spec=case.spec).posterior
    alone = inference.fit(case.model, case.data, generator=seeded()).posterior
    expect_equal(fitted.mean, alone.mean, "a fit with a specification")
    expect_equal(fitted.stddev, alone.stddev, "a fit with a specification")
