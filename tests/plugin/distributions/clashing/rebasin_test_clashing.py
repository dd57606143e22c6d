"""A plugin that registers a name that is already used."""

from typing import Literal

from rebasin_core import Matcher, MatchProblem, MatchResult, hookimpl
from rebasin_core.matchers import WeightMatcher


class OtherWeightMatcher(Matcher):
    """Another matcher of the same name."""

    name: Literal["weight"] = "weight"

    def _match(self, problem: MatchProblem) -> MatchResult:
        return WeightMatcher().solve(problem)


@hookimpl
def rebasin_matchers() -> list[type[Matcher]]:
    """Return the matcher."""
    return [OtherWeightMatcher]
