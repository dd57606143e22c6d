"""A plugin with one matcher, which does nothing: the identity."""

from typing import Literal

from rebasin_core import Matcher, MatcherConfig, MatchOutcome, MatchProblem, MatchResult, Permutation, hookimpl


class IdentityMatcher(Matcher):
    """Moves nothing."""

    def _match(self, problem: MatchProblem) -> MatchResult:
        identity = Permutation.identity(problem.layout)
        return MatchResult(identity, 0.0, 0.0, MatchOutcome.CONVERGED, (0.0,), {})


class IdentityMatcherConfig(MatcherConfig):
    """Options: none."""

    name: Literal["identity"] = "identity"

    def build(self) -> Matcher:
        """Return the matcher."""
        return IdentityMatcher()


@hookimpl
def rebasin_matchers() -> list[type[MatcherConfig]]:
    """Return the matcher."""
    return [IdentityMatcherConfig]
