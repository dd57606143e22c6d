"""Options of the matchers."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal, final

from pydantic import Field
from typing_extensions import override

from rebasin_core.config.base import StrategyConfig
from rebasin_core.matchers.activation import ActivationMatcher, ActivationMetric
from rebasin_core.matchers.kl import KLMatcher
from rebasin_core.matchers.wasserstein import WassersteinMatcher
from rebasin_core.matchers.weight import WeightMatcher

if TYPE_CHECKING:
    from rebasin_core.matchers.base import Matcher


class MatcherConfig(StrategyConfig):
    """Base of the options of every matcher."""

    family: ClassVar[str] = "matcher"

    @override
    @abstractmethod
    def build(self) -> Matcher: ...


@final
class WeightMatcherConfig(MatcherConfig):
    """Options of `WeightMatcher`."""

    name: Literal["weight"] = "weight"
    max_sweeps: int = Field(100, ge=1, description="The most sweeps over all groups, at least 1.")

    @override
    def build(self) -> Matcher:
        return WeightMatcher(max_sweeps=self.max_sweeps)


@final
class WassersteinMatcherConfig(MatcherConfig):
    """Options of `WassersteinMatcher`."""

    name: Literal["wasserstein"] = "wasserstein"
    max_sweeps: int = Field(100, ge=1, description="The most sweeps over all groups, at least 1.")

    @override
    def build(self) -> Matcher:
        return WassersteinMatcher(max_sweeps=self.max_sweeps)


@final
class KLMatcherConfig(MatcherConfig):
    """Options of `KLMatcher`."""

    name: Literal["kl"] = "kl"
    direction: Literal["candidate_to_reference", "reference_to_candidate"] = Field(
        "candidate_to_reference", description="Which of the two divergences is minimised."
    )
    max_sweeps: int = Field(100, ge=1, description="The most sweeps over all groups, at least 1.")

    @override
    def build(self) -> Matcher:
        return KLMatcher(direction=self.direction, max_sweeps=self.max_sweeps)


@final
class ActivationMatcherConfig(MatcherConfig):
    """Options of `ActivationMatcher`."""

    name: Literal["activation"] = "activation"
    metric: ActivationMetric = Field("correlation", description="`correlation` or `covariance`.")
    num_samples: int = Field(4, ge=1, description="Networks drawn from each posterior.")

    @override
    def build(self) -> Matcher:
        return ActivationMatcher(metric=self.metric, num_samples=self.num_samples)
