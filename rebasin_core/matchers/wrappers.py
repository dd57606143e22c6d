"""Matchers that combine others: random restarts, chains and portfolios."""

from __future__ import annotations

import warnings
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, final

from annotated_types import MinLen
from pydantic import PositiveFloat, PositiveInt
from tqdm import tqdm
from typing_extensions import override

from rebasin_core.errors import AlignmentWarning, InvalidInputError
from rebasin_core.evaluation.effect import MidpointEvaluator, effect_of
from rebasin_core.evaluation.likelihood import Likelihood
from rebasin_core.evaluation.likelihoods import CategoricalLikelihood
from rebasin_core.evaluation.task import Task
from rebasin_core.matchers.activation import ActivationMatcher
from rebasin_core.matchers.base import Matcher, MatchOutcome, MatchProblem, MatchResult
from rebasin_core.matchers.frank_wolfe import FrankWolfeMatcher
from rebasin_core.matchers.search import BestSoFar, interruptible
from rebasin_core.matchers.wasserstein import WassersteinMatcher
from rebasin_core.posteriors.divergence import squared_moment_distance
from rebasin_core.symmetry.kind import Kind
from rebasin_core.symmetry.permutation import Permutation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rebasin_core.symmetry.permutation import GroupElement

Selection: TypeAlias = Literal["distance", "loss"]

_SAMPLES = 8


@final
class RestartsMatcher(Matcher):
    """Runs a matcher again from random permutations, and returns the result with the largest objective.

    The first run starts as the matcher does by itself, or at the initial permutation. Restarts help methods with local
    optima, such as coordinate descent on residual networks. They have no effect on matchers that ignore the initial
    permutation.

    Raises:
        ConfigError: If an option is invalid.

    Examples:
        >>> from rebasin_core.matchers import WeightMatcher
        >>> RestartsMatcher(matcher=WeightMatcher(), restarts=4)
        RestartsMatcher(matcher=WeightMatcher(), restarts=4)
    """

    name: Literal["restarts"] = "restarts"

    matcher: Matcher = WassersteinMatcher()
    """Matcher to run."""

    restarts: PositiveInt = 5
    """Number of runs from random permutations, in addition to the first run."""

    @property
    @override
    def uses_task(self) -> bool:
        return self.matcher.uses_task

    @property
    @override
    def kinds(self) -> frozenset[Kind]:
        return self.matcher.kinds

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        start = perf_counter()
        best = self.matcher.solve(problem)
        last = best
        with interruptible(problem) as interruption:
            for _ in tqdm(range(self.restarts), desc="restarts", leave=False, disable=not problem.progress):
                if last.outcome is MatchOutcome.INTERRUPTED:
                    break
                initial = Permutation.random(problem.layout, generator=problem.generator)
                last = self.matcher.solve(problem.starting_at(initial))
                if last.objective > best.objective:
                    best = last
        interruption.happened |= last.outcome is MatchOutcome.INTERRUPTED
        seconds = {**best.seconds, "total": perf_counter() - start}
        return replace(best, outcome=interruption.outcome(best.outcome), seconds=seconds)


@final
class ChainMatcher(Matcher):
    """Runs matchers in sequence, each initialized at the result of the previous one.

    Without a model and data, the last matcher's result is returned; its objective is at least that of the identity.
    With them, the loss at the midpoint is evaluated after each matcher (see `AlignmentEffect`), since matchers have
    different objectives and a later one can undo an improvement by an earlier one. The result with the lowest loss
    is returned, with an `AlignmentWarning` if it is not the last one; the identity is among the choices. On data for
    which the networks are no better than a constant prediction, the last one is returned.

    Raises:
        ConfigError: If there is no matcher.

    Examples:
        >>> from rebasin_core.matchers import ActivationMatcher, WeightMatcher
        >>> ChainMatcher(matchers=[ActivationMatcher(), WeightMatcher()])
        ChainMatcher(matchers=(ActivationMatcher(), WeightMatcher()))
    """

    name: Literal["chain"] = "chain"

    matchers: Annotated[tuple[Matcher, ...], MinLen(1)] = (ActivationMatcher(), WassersteinMatcher())
    """Matchers in the order in which they run; at least one. Each starts from the group element of the one before: a
    matcher over permutations alone continues an alignment by linear maps."""

    @property
    @override
    def kinds(self) -> frozenset[Kind]:
        return _kinds_of(self.matchers)

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        start = perf_counter()
        if problem.data is not None:
            problem = replace(problem, data=list(problem.data))
        stages = [self.matchers[0].solve(problem)]
        with interruptible(problem) as interruption:
            for matcher in self.matchers[1:]:
                if stages[-1].outcome is MatchOutcome.INTERRUPTED:
                    break
                stages.append(matcher.solve(problem, initial=stages[-1].group_element))
            last = stages[-1]
            if last.objective < last.identity_objective and last.outcome is not MatchOutcome.INTERRUPTED:
                # The last matcher ended below the identity in its own objective: run it from its own initialization.
                stages[-1] = self.matchers[-1].solve(problem.starting_at(None))
            result = self._best(problem, stages)
        seconds = {**result.seconds, "total": perf_counter() - start}
        return replace(result, outcome=interruption.outcome(result.outcome), seconds=seconds)

    def _best(self, problem: MatchProblem, stages: Sequence[MatchResult]) -> MatchResult:
        """Return the result with the lowest loss at the midpoint if it can be evaluated, else the last one."""
        last = stages[-1]
        if problem.model is None or problem.data is None or last.outcome is MatchOutcome.INTERRUPTED:
            return last
        task = Task(problem.model, problem.data, problem.likelihood or CategoricalLikelihood())
        tried = [*stages, last.at_identity(problem.layout)]
        effects = [effect_of(r.group_element, problem.reference, problem.candidate, task) for r in tried]
        found = [effect for effect in effects if effect is not None]
        if len(found) < len(tried) or not found[0].is_meaningful:
            return last
        losses = [effect.aligned for effect in found]
        lowest = min(losses)
        if losses[len(stages) - 1] <= lowest:
            return last
        best = losses.index(lowest)
        found_by = f"the {'permutation' if tried[best].element is None else 'group element'} of"
        name = "the identity" if best == len(stages) else f"{found_by} `{self.matchers[best].name}`"
        message = (
            f"the last matcher of the chain ({last.outcome.value}) does not have the lowest loss at the midpoint: "
            f"unaligned {found[0].unaligned:.4f}, after each matcher {', '.join(f'{x:.4f}' for x in losses[:-1])}; "
            f"{name} is returned"
        )
        warnings.warn(message, AlignmentWarning, stacklevel=2)
        return tried[best]


@final
class PortfolioMatcher(Matcher):
    r"""Runs several matchers, and returns the result with the smallest distance or the lowest loss.

    Objectives of different matchers cannot be compared. Results are compared by ``select``, which is maximized:

    - ``distance``: $-\lVert M_0 - P M_1 \rVert^2 - \lVert S_0 - P S_1 \rVert^2$ of means and standard deviations.
    - ``loss``: minus the loss of the barycenter of both posteriors on the data, estimated from 8 posterior samples;
      batch-normalization statistics are recomputed. If no barycenter is registered for these types of posteriors, their
      means and standard deviations are averaged (`moment_barycenter`).

    Raises:
        ConfigError: If an option is invalid.
        InvalidInputError: On selecting by ``loss``, without a model and data.

    Examples:
        >>> from rebasin_core.matchers import ActivationMatcher, WeightMatcher
        >>> PortfolioMatcher(matchers=[WeightMatcher(), ActivationMatcher()], select="loss").select
        'loss'
    """

    name: Literal["portfolio"] = "portfolio"

    matchers: Annotated[tuple[Matcher, ...], MinLen(1)] = (WassersteinMatcher(), FrankWolfeMatcher())
    """Matchers to run; at least one."""

    select: Selection = "distance"
    """Criterion by which results are compared: ``distance`` or ``loss``."""

    seconds: PositiveFloat | None = None
    """Time in seconds after which no further matcher is started; the first one always runs. No limit if None."""

    likelihood: Likelihood = CategoricalLikelihood()
    """Likelihood of the targets given the network's outputs."""

    @property
    @override
    def kinds(self) -> frozenset[Kind]:
        return _kinds_of(self.matchers)

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        start = perf_counter()
        outcome = MatchOutcome.CONVERGED
        if problem.data is not None:
            problem = replace(problem, data=list(problem.data))
        value = self._loss(problem) if self.select == "loss" else _negative_distance(problem)
        best = BestSoFar(problem, value)
        seconds: dict[str, float] = {}
        with interruptible(problem) as interruption:
            for number, matcher in enumerate(self.matchers):
                if number and self.seconds is not None and perf_counter() - start > self.seconds:
                    outcome = MatchOutcome.BUDGET
                    break
                found = matcher.solve(problem)
                seconds[f"{number} {type(matcher).__name__}"] = found.seconds.get("total", 0.0)
                best.update(found.group_element)
                if found.outcome is MatchOutcome.INTERRUPTED:
                    outcome = found.outcome
                    break
        return best.result(interruption.outcome(outcome), {"total": perf_counter() - start, **seconds})

    def _loss(self, problem: MatchProblem) -> Callable[[GroupElement], float]:
        if problem.model is None or problem.data is None:
            message = "selecting by `loss` runs the network on data; pass `task`, or select by `distance`"
            raise InvalidInputError(message)
        task = Task(problem.model, problem.data, self.likelihood)
        midpoint = MidpointEvaluator(problem.reference, problem.candidate, task, num_samples=_SAMPLES)
        return lambda element: -midpoint.estimate(element).loss


def _kinds_of(matchers: Sequence[Matcher]) -> frozenset[Kind]:
    """Return the kinds of linear maps over which any of several matchers searches."""
    return frozenset[Kind]().union(*(matcher.kinds for matcher in matchers))


def _negative_distance(problem: MatchProblem) -> Callable[[GroupElement], float]:
    return lambda element: -squared_moment_distance(problem.reference, element.apply(problem.candidate))
