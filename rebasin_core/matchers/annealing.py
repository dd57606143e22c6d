"""Simulated annealing: random exchanges of units, judged by the loss half-way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from time import perf_counter
from typing import Annotated, ClassVar, Literal, Self, final

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from tqdm import tqdm
from typing_extensions import override

from rebasin_core.evaluation.likelihood import Likelihood
from rebasin_core.evaluation.likelihoods import CategoricalLikelihood
from rebasin_core.matchers.base import Matcher, MatchOutcome, MatchProblem, MatchResult
from rebasin_core.matchers.midpoint import BY_LOSS, MidpointLoss
from rebasin_core.matchers.search import interruptible
from rebasin_core.symmetry.permutation import Permutation


@final
class AnnealingMatcher(Matcher):
    r"""Exchanges units of the candidate at random, and keeps what lowers the loss half-way: the old baseline.

    A step exchanges two units of one group, and is taken if the loss falls, or with probability
    $e^{-\Delta L / T}$ if it rises; $T$ falls geometrically. Every step runs the network on all data that are given, so
    give few. The best permutation on the way is returned. It hardly moves large networks: that is what it shows. Batch
    normalisations take the statistics of each batch.

    Raises:
        ConfigError: If an option is invalid.
        InvalidInputError: On matching, without a model and data.

    References:
        R. Entezari, H. Sedghi, O. Saukh, B. Neyshabur (2022), "The role of permutation invariance in linear mode
        connectivity of neural networks", ICLR, arXiv 2110.06296, section 3.2.

    Examples:
        >>> AnnealingMatcher(steps=10)
        AnnealingMatcher(steps=10)
    """

    exempt_laws: ClassVar[Mapping[str, str]] = {"planted_permutation": BY_LOSS, "device_and_dtype": BY_LOSS}

    name: Literal["annealing"] = "annealing"

    steps: PositiveInt = 1000
    """Number of exchanges that are tried."""

    temperature: Annotated[PositiveFloat, Field(allow_inf_nan=False)] = 0.01
    """Temperature $T$ at the start, in nats."""

    final_temperature: PositiveFloat = 1e-5
    """Temperature $T$ at the end, in nats; at most ``temperature``."""

    likelihood: Likelihood = CategoricalLikelihood()
    """Likelihood of the targets, by which the network's outputs are scored."""

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.final_temperature > self.temperature:
            message = (
                f"expected a `final_temperature` of at most `temperature` = {self.temperature!r}, got "
                f"{self.final_temperature!r}"
            )
            raise ValueError(message)
        return self

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        start = perf_counter()
        loss = MidpointLoss(problem, self.likelihood)
        identity = Permutation.identity(problem.layout)
        first = loss.of(identity)
        current = problem.initial or identity
        here = loss.of(current)
        best, lowest = (current, here) if here < first else (identity, first)
        trace = [-first]
        with interruptible(problem) as interruption:
            for step in tqdm(range(self.steps), desc="annealing", leave=False, disable=not problem.progress):
                attempt = _exchanged(current, problem.generator)
                if attempt is None:
                    break
                there = loss.of(attempt)
                cooling = (self.final_temperature / self.temperature) ** (step / self.steps)
                draw = torch.rand((), generator=problem.generator, device=problem.generator.device).item()
                if there < here or draw < math.exp(-(there - here) / (self.temperature * cooling)):
                    current, here = attempt, there
                if here < lowest:
                    best, lowest = current, here
                    trace.append(-lowest)
        return MatchResult(
            permutation=best,
            objective=-lowest,
            identity_objective=-first,
            outcome=interruption.outcome(MatchOutcome.BUDGET),
            trace=tuple(trace),
            seconds={"total": perf_counter() - start},
        )


def _exchanged(permutation: Permutation, generator: torch.Generator) -> Permutation | None:
    """Return a permutation with two units of a random group exchanged, large groups more often; None without any."""
    layout = permutation.layout
    names = [name for name, group in layout.groups.items() if group.size > 1]
    if not names:
        return None

    def draw(*weights: float, count: int = 1) -> list[int]:
        probabilities = torch.tensor(weights, device=generator.device)
        return torch.multinomial(probabilities, count, generator=generator).tolist()

    name = names[draw(*(float(permutation.indices[n].numel()) for n in names))[0]]
    index = permutation.indices[name].cpu().clone()
    rows = index.reshape(-1, index.shape[-1])
    row = draw(*[1.0] * len(rows))[0]
    one, other = draw(*[1.0] * rows.shape[1], count=2)
    rows[row, [one, other]] = rows[row, [other, one]]
    return Permutation(layout, {**permutation.indices, name: rows.reshape(index.shape)})
