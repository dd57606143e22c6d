"""Matchers around matchers: again from other beginnings, one after the other, the best of several."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Literal, TypeAlias, final, get_args

from tqdm import tqdm
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.evaluator import Evaluator
from rebasin_core.evaluation.likelihoods import as_likelihood
from rebasin_core.evaluation.normalization import BatchStatistics
from rebasin_core.matchers.base import Matcher, MatchProblem
from rebasin_core.matchers.result import MatchOutcome, MatchResult
from rebasin_core.matchers.search import BestSoFar, interruptible
from rebasin_core.posteriors.barycenter import barycenter_or_moments
from rebasin_core.posteriors.divergence import squared_moment_distance
from rebasin_core.symmetry.permutation import Permutation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.evaluation.likelihood import Likelihood

Selection: TypeAlias = Literal["distance", "loss"]

_SAMPLES = 8


@final
class RestartsMatcher(Matcher):
    """Matches again from random beginnings, and keeps the result with the best objective.

    The first beginning is the identity (or what was given). Coordinate descent has local optima in residual networks;
    matchers that do not depend on where they begin gain nothing.

    Args:
        matcher: The matcher.
        restarts: Random beginnings beside the first, at least 1.

    Raises:
        InvalidInputError: If there are fewer than one.

    Example:
        >>> from rebasin_core.matchers import WeightMatcher
        >>> RestartsMatcher(WeightMatcher(), restarts=4)  # doctest: +ELLIPSIS
        <...RestartsMatcher object at ...>
    """

    def __init__(self, matcher: Matcher, *, restarts: int = 5) -> None:
        if restarts < 1:
            message = f"expected `restarts` of at least 1, got {restarts!r}"
            raise InvalidInputError(message)
        self._matcher, self._restarts = matcher, restarts

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        start = perf_counter()
        best = self._matcher.solve(problem)
        last = best
        with interruptible(problem) as interruption:
            for _ in tqdm(range(self._restarts), desc="restarts", leave=False, disable=not problem.progress):
                if last.outcome is MatchOutcome.INTERRUPTED:
                    break
                initial = Permutation.random(problem.layout, generator=problem.generator)
                last = self._matcher.solve(problem.starting_at(initial))
                if last.objective > best.objective:
                    best = last
        interruption.happened |= last.outcome is MatchOutcome.INTERRUPTED
        seconds = {**best.seconds, "total": perf_counter() - start}
        return replace(best, outcome=interruption.outcome(best.outcome), seconds=seconds)


@final
class ChainMatcher(Matcher):
    """Lets every matcher begin where the one before it ended.

    The result is the last one's, and never below its objective at the identity.

    Args:
        matchers: At least one.

    Raises:
        InvalidInputError: If there is none.

    Example:
        >>> from rebasin_core.matchers import ActivationMatcher, WeightMatcher
        >>> ChainMatcher([ActivationMatcher(), WeightMatcher()])  # doctest: +ELLIPSIS
        <...ChainMatcher object at ...>
    """

    def __init__(self, matchers: Sequence[Matcher]) -> None:
        if not matchers:
            message = "expected at least one matcher, got none"
            raise InvalidInputError(message)
        self._matchers = tuple(matchers)

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        start = perf_counter()
        result = self._matchers[0].solve(problem)
        with interruptible(problem) as interruption:
            for matcher in self._matchers[1:]:
                if result.outcome is MatchOutcome.INTERRUPTED:
                    break
                result = matcher.solve(problem.starting_at(result.permutation))
            if result.objective < result.identity_objective and result.outcome is not MatchOutcome.INTERRUPTED:
                # A local optimum below the identity: begin there instead.
                result = self._matchers[-1].solve(problem.starting_at(None))
        seconds = {**result.seconds, "total": perf_counter() - start}
        return replace(result, outcome=interruption.outcome(result.outcome), seconds=seconds)


@final
class PortfolioMatcher(Matcher):
    r"""Tries several matchers, and keeps the result that brings the candidate nearest, or that leaves the least loss.

    Objectives of different matchers cannot be compared; two measures can:

    - ``distance``: $-\lVert M_0 - P M_1 \rVert^2 - \lVert S_0 - P S_1 \rVert^2$ of means and standard deviations.
    - ``loss``: minus the loss of the barycenter of both on the given data, estimated from 8 sampled networks; batch
      statistics are recomputed. Where no barycenter is registered for these kinds of posteriors, their means and
      standard deviations are averaged (`moment_barycenter`).

    Args:
        matchers: At least one.
        select: Which measure.
        seconds: No further matcher is begun when so many are spent; the first always is.
        likelihood: For ``loss``: an instance or a name.

    Raises:
        InvalidInputError: If an option is out of range; on matching by ``loss``, without a model and data.

    Example:
        >>> from rebasin_core.matchers import ActivationMatcher, WeightMatcher
        >>> PortfolioMatcher([WeightMatcher(), ActivationMatcher()], select="loss")  # doctest: +ELLIPSIS
        <...PortfolioMatcher object at ...>
    """

    def __init__(
        self,
        matchers: Sequence[Matcher],
        *,
        select: Selection = "distance",
        seconds: float | None = None,
        likelihood: Likelihood | str = "categorical",
    ) -> None:
        if not matchers or select not in get_args(Selection) or (seconds is not None and not seconds > 0):
            message = (
                f"expected at least one matcher, a measure among {get_args(Selection)} and a positive time or None, "
                f"got {len(matchers)}, {select!r} and {seconds!r}"
            )
            raise InvalidInputError(message)
        self._matchers, self._select, self._seconds = tuple(matchers), select, seconds
        self._likelihood = as_likelihood(likelihood)

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        start, outcome = perf_counter(), MatchOutcome.CONVERGED
        if problem.data is not None:
            problem = replace(problem, data=list(problem.data))
        value = self._loss(problem) if self._select == "loss" else _nearness(problem)
        best = BestSoFar(problem, value)
        seconds: dict[str, float] = {}
        with interruptible(problem) as interruption:
            for number, matcher in enumerate(self._matchers):
                if number and self._seconds is not None and perf_counter() - start > self._seconds:
                    outcome = MatchOutcome.BUDGET
                    break
                found = matcher.solve(problem)
                seconds[f"{number} {type(matcher).__name__}"] = found.seconds.get("total", 0.0)
                best.offer(found.permutation)
                if found.outcome is MatchOutcome.INTERRUPTED:
                    outcome = found.outcome
                    break
        return best.result(interruption.outcome(outcome), {"total": perf_counter() - start, **seconds})

    def _loss(self, problem: MatchProblem) -> Callable[[Permutation], float]:
        if problem.model is None or problem.data is None:
            message = "selecting by `loss` runs the network on data: give `model` and `data`, or select by `distance`"
            raise InvalidInputError(message)
        like, data = problem.reference, problem.data
        statistics = BatchStatistics(problem.model, device=like.device, dtype=like.dtype)

        def renewed(tensors: Mapping[str, Tensor], _: int) -> Mapping[str, Tensor]:
            return {**tensors, **statistics.at(tensors, data)}

        adjust = renewed if statistics else None
        evaluator = Evaluator(
            problem.model, data, like, likelihood=self._likelihood, num_samples=_SAMPLES, adjust=adjust
        )

        def value(permutation: Permutation) -> float:
            midpoint, _ = barycenter_or_moments([problem.reference, permutation.apply(problem.candidate)])
            return -evaluator.loss(midpoint).loss

        return value


def _nearness(problem: MatchProblem) -> Callable[[Permutation], float]:
    return lambda permutation: -squared_moment_distance(problem.reference, permutation.apply(problem.candidate))
