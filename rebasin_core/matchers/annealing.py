"""Simulated annealing over permutations, by the loss at the midpoint."""

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
    r"""Minimizes the loss at the midpoint by simulated annealing; a baseline.

    Each step proposes to swap two units of one group. A proposal that lowers the loss is accepted, one that raises it
    by $\Delta L$ is accepted with probability $e^{-\Delta L / T}$, and $T$ decreases geometrically. Every step runs the
    network on all data, so pass a small dataset. The best permutation seen is returned. Large networks need more swaps
    than are affordable. Batch normalization uses the statistics of each batch.

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
    """Number of proposed swaps."""

    temperature: Annotated[PositiveFloat, Field(allow_inf_nan=False)] = 0.01
    """Initial temperature $T$, in nats."""

    final_temperature: PositiveFloat = 1e-5
    """Final temperature $T$, in nats; at most ``temperature``."""

    likelihood: Likelihood = CategoricalLikelihood()
    """Likelihood of the targets given the network's outputs."""

    @model_validator(mode="after")
    def _cools(self) -> Self:
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
        identity_loss = loss.of(identity)
        current = problem.initial or identity
        current_loss = loss.of(current)
        best, lowest = (current, current_loss) if current_loss < identity_loss else (identity, identity_loss)
        trace = [-identity_loss]
        with interruptible(problem) as interruption:
            for step in tqdm(range(self.steps), desc="annealing", leave=False, disable=not problem.progress):
                proposal = _swapped(current, problem.generator)
                if proposal is None:
                    break
                proposed_loss = loss.of(proposal)
                rise = proposed_loss - current_loss
                temperature = self.temperature * (self.final_temperature / self.temperature) ** (step / self.steps)
                uniform = torch.rand((), generator=problem.generator, device=problem.generator.device).item()
                if rise < 0 or uniform < math.exp(-rise / temperature):
                    current, current_loss = proposal, proposed_loss
                if current_loss < lowest:
                    best, lowest = current, current_loss
                    trace.append(-lowest)
        return MatchResult(
            permutation=best,
            objective=-lowest,
            identity_objective=-identity_loss,
            outcome=interruption.outcome(MatchOutcome.BUDGET),
            trace=tuple(trace),
            seconds={"total": perf_counter() - start},
        )


def _swapped(permutation: Permutation, generator: torch.Generator) -> Permutation | None:
    """Return a permutation with two units of a random group swapped; None if no group has two units.

    A group is chosen with probability proportional to its number of units.
    """
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
