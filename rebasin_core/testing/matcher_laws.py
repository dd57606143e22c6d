"""The laws of matchers."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch.func import functional_call

from rebasin_core.evaluation.effect import effect_of
from rebasin_core.evaluation.task import Task
from rebasin_core.tensors.modules import copied
from rebasin_core.testing.cases import Network, gaussian, network
from rebasin_core.testing.law import device_under_test, expect, expect_equal, law, seeded

if TYPE_CHECKING:
    from pathlib import Path

    from rebasin_core.matchers.base import Matcher, MatchResult
    from rebasin_core.posteriors.base import Posterior


def _match(config: object, reference: Posterior, candidate: Posterior, case: Network, seed: int = 0) -> MatchResult:
    matcher = cast("Matcher", config)
    return matcher.match(reference, candidate, case.spec, task=Task(case.model, case.data), generator=seeded(seed))


@law("matcher")
def planted_permutation(config: object, folder: Path) -> None:
    """The permutation of a permuted copy of a generic feed-forward network is recovered exactly."""
    del folder
    case = network()
    for seed in range(3):
        reference = gaussian(seed)
        planted = case.spec.random_permutation(generator=seeded(seed + 10))
        result = _match(config, reference, planted.apply(reference), case, seed)
        expect(result.permutation == planted.inverse(), f"seed {seed}: the planted permutation was not found")


@law("matcher")
def midpoint_not_worse(config: object, folder: Path) -> None:
    """For a planted permutation and data that the network fits, alignment does not increase the midpoint loss."""
    del folder
    case = network()
    for seed in range(3):
        reference = gaussian(seed)
        mean = reference.mean
        data = [(x, functional_call(case.model, mean, (x,)).argmax(-1)) for x, _ in case.data]
        fitted = Network(case.model, case.spec, data)
        candidate = case.spec.random_permutation(generator=seeded(seed + 20)).apply(reference)
        result = _match(config, reference, candidate, fitted, seed)
        effect = effect_of(result.permutation, reference, candidate, Task(case.model, data))
        expect(
            effect is not None and not effect.harmed,
            f"seed {seed}: alignment increased the midpoint loss: {effect}",
        )


@law("matcher")
def no_worse_than_the_identity(config: object, folder: Path) -> None:
    """The objective of the result is at least that of the identity, and never decreases during the search."""
    del folder
    case = network()
    for seed in range(5):
        result = _match(config, gaussian(seed), gaussian(seed + 50), case, seed)
        expect(
            result.objective >= result.identity_objective,
            f"seed {seed}: objective {result.objective} below the identity's {result.identity_objective}",
        )
        decreases = [b - a for a, b in zip(result.trace, result.trace[1:], strict=False) if b < a - 1e-9 * abs(a)]
        expect(not decreases, f"seed {seed}: the objective decreases: {result.trace}")


@law("matcher")
def function_preserved(config: object, folder: Path) -> None:
    """The aligned candidate computes the same function as the candidate."""
    del folder
    case = network()
    candidate = gaussian(1)
    aligned = _match(config, gaussian(0), candidate, case).apply(candidate)
    inputs = case.data[0][0].to(device_under_test())
    before = functional_call(case.model, candidate.mean, (inputs,))
    after = functional_call(case.model, aligned.mean, (inputs,))
    expect_equal({"outputs": after}, {"outputs": before}, "function", tolerance=1e-12)


@law("matcher")
def no_side_effects(config: object, folder: Path) -> None:
    """Reference, candidate and model are not changed."""
    del folder
    case = network()
    reference = gaussian(0)
    candidate = gaussian(1)
    before = [copied(reference.mean), copied(candidate.mean), copied(dict(case.model.named_parameters()))]
    _match(config, reference, candidate, case)
    after: list[dict[str, torch.Tensor]] = [reference.mean, candidate.mean, dict(case.model.named_parameters())]
    for now, then in zip(after, before, strict=True):
        expect_equal(now, then, "after matching")


@law("matcher")
def reproducibility(config: object, folder: Path) -> None:
    """Equal inputs and generator states give equal results, and the global generator is not used."""
    del folder
    case = network()
    state = torch.get_rng_state()
    results = [_match(config, gaussian(0), gaussian(1), case, seed=7) for _ in range(2)]
    expect(results[0].permutation == results[1].permutation, "two runs with the same seed differ")
    expect(torch.equal(state, torch.get_rng_state()), "the global generator was used")


@law("matcher")
def device_and_dtype(config: object, folder: Path) -> None:
    """Matching works in float32 and bfloat16, and the aligned candidate has their dtype and device."""
    del folder
    case = network()
    for dtype in (torch.float32, torch.bfloat16):
        reference = gaussian(0, dtype=dtype)
        planted = case.spec.random_permutation(generator=seeded(3))
        result = _match(config, reference, planted.apply(reference), case)
        aligned = result.apply(planted.apply(reference))
        expect(aligned.dtype == dtype, f"the aligned candidate is in {aligned.dtype}, not {dtype}")
        expect(
            aligned.device.type == device_under_test().type,
            f"the aligned candidate is on {aligned.device}, not {device_under_test()}",
        )
        expect_equal(aligned.mean, reference.mean, f"a planted permutation in {dtype}")


@law("matcher")
def task(config: object, folder: Path) -> None:
    """A matcher with ``uses_task = False`` returns the same permutation and objective with and without a task."""
    del folder
    matcher = cast("Matcher", config)
    if matcher.uses_task:
        return
    case = network()
    reference = gaussian(0)
    candidate = gaussian(1)
    result = _match(config, reference, candidate, case)
    alone = matcher.match(reference, candidate, case.spec, generator=seeded())
    expect(result.permutation == alone.permutation, "the task changed the permutation")
    expect(
        result.objective == alone.objective, f"the objective is {result.objective} with a task, else {alone.objective}"
    )
