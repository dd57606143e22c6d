"""A plugin that offers a name which is taken."""

from typing import Literal

from rebasin_core import Matcher, MatcherConfig, WeightMatcher, hookimpl


class OtherWeightConfig(MatcherConfig):
    """Options: none."""

    name: Literal["weight"] = "weight"

    def build(self) -> Matcher:
        """Return the matcher."""
        return WeightMatcher()


@hookimpl
def rebasin_matchers() -> list[type[MatcherConfig]]:
    """Return the matcher."""
    return [OtherWeightConfig]
