"""Simulated annealing: random exchanges of units, judged by the loss half-way."""

from __future__ import annotations

import math
from time import perf_counter
from typing import TYPE_CHECKING, final

import torch
from tqdm import tqdm
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.likelihoods import as_likelihood
from rebasin_core.matchers.base import Matcher, MatchProblem
from rebasin_core.matchers.midpoint import MidpointLoss
from rebasin_core.matchers.result import MatchOutcome, MatchResult
from rebasin_core.matchers.search import interruptible
from rebasin_core.symmetry.permutation import Permutation

if TYPE_CHECKING:
    from rebasin_core.evaluation.likelihood import Likelihood


@final
class AnnealingMatcher(Matcher):
    r"""Exchanges units of the candidate at random, and keeps what lowers the loss half-way: the old baseline.

    A step exchanges two units of one group, and is taken if the loss falls, or with probability
    $e^{-\Delta L / T}$ if it rises; $T$ falls geometrically. Every step runs the network on all data that are given, so
    give few. The best permutation on the way is returned. It hardly moves large networks: that is what it shows. Batch
    normalisations take the statistics of each batch.

    Args:
        steps: Exchanges that are tried, at least 1.
        temperature: $T$ at the start, positive, in nats.
        final_temperature: $T$ at the end, positive and not larger.
        likelihood: An instance or a name.

    Raises:
        InvalidInputError: If an option is out of range; on matching, without a model and data.

    References:
        R. Entezari, H. Sedghi, O. Saukh, B. Neyshabur (2022), "The role of permutation invariance in linear mode
        connectivity of neural networks", ICLR, arXiv 2110.06296, section 3.2.

    Example:
        >>> AnnealingMatcher(steps=10)  # doctest: +ELLIPSIS
        <...AnnealingMatcher object at ...>
    """

    def __init__(
        self,
        *,
        steps: int = 1000,
        temperature: float = 0.01,
        final_temperature: float = 1e-5,
        likelihood: Likelihood | str = "categorical",
    ) -> None:
        if steps < 1 or not 0 < final_temperature <= temperature < math.inf:
            message = (
                "expected steps of at least 1 and temperatures that fall and stay positive, got "
                f"{steps!r}, {temperature!r} and {final_temperature!r}"
            )
            raise InvalidInputError(message)
        self._steps, self._range = steps, (temperature, final_temperature)
        self._likelihood = as_likelihood(likelihood)

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        start = perf_counter()
        loss = MidpointLoss(problem, self._likelihood)
        identity = Permutation.identity(problem.layout)
        first = loss.of(identity)
        current = problem.initial or identity
        here = loss.of(current)
        best, lowest = (current, here) if here < first else (identity, first)
        trace = [-first]
        first_temperature, last_temperature = self._range
        with interruptible(problem) as interruption:
            for step in tqdm(range(self._steps), desc="annealing", leave=False, disable=not problem.progress):
                attempt = _exchanged(current, problem.generator)
                if attempt is None:
                    break
                there = loss.of(attempt)
                cooling = (last_temperature / first_temperature) ** (step / self._steps)
                draw = torch.rand((), generator=problem.generator, device=problem.generator.device).item()
                if there < here or draw < math.exp(-(there - here) / (first_temperature * cooling)):
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
