"""Options of the matchers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, final

from pydantic import Field, SerializeAsAny
from typing_extensions import override

from rebasin_core.config.assignment import AssignmentConfig, AutoAssignmentConfig
from rebasin_core.config.base import StrategyConfig
from rebasin_core.evaluation.likelihoods import LikelihoodName
from rebasin_core.matchers.activation import ActivationMatcher
from rebasin_core.matchers.activation_statistics import ResponseMetric
from rebasin_core.matchers.annealing import AnnealingMatcher
from rebasin_core.matchers.channel import Start as ChannelStart
from rebasin_core.matchers.fisher import FisherMatcher
from rebasin_core.matchers.frank_wolfe import ChannelNames, FrankWolfeMatcher, Start
from rebasin_core.matchers.gradient import GradientMatcher
from rebasin_core.matchers.kl import KLMatcher
from rebasin_core.matchers.sinkhorn import SinkhornLoss, SinkhornMatcher
from rebasin_core.matchers.straight_through import StraightThroughMatcher
from rebasin_core.matchers.transport import GroundCost, TransportMatcher
from rebasin_core.matchers.wasserstein import WassersteinMatcher
from rebasin_core.matchers.weight import WeightMatcher
from rebasin_core.matchers.wrappers import ChainMatcher, PortfolioMatcher, RestartsMatcher, Selection
from rebasin_core.tensors.optimal_transport import PlanMethod

if TYPE_CHECKING:
    from rebasin_core.matchers.base import Matcher


class MatcherConfig(StrategyConfig):
    """Base of the options of every matcher."""

    family: ClassVar[str] = "matcher"

    @override
    @abstractmethod
    def build(self) -> Matcher: ...


class ChannelMatcherConfig(MatcherConfig):
    """Options of every matcher that compares channels by coordinate descent."""

    max_sweeps: int = Field(100, ge=1, description="The most sweeps over all groups, at least 1.")
    assignment: SerializeAsAny[AssignmentConfig] = Field(
        default_factory=AutoAssignmentConfig, description="The assignment solver; `auto` if not given."
    )
    start: ChannelStart = Field("outward", description="`outward`, `identity`, or the `best` of both.")


@final
class WeightMatcherConfig(ChannelMatcherConfig):
    """Options of `WeightMatcher`."""

    name: Literal["weight"] = "weight"

    @override
    def build(self) -> Matcher:
        return WeightMatcher(max_sweeps=self.max_sweeps, assignment=self.assignment.build(), start=self.start)


@final
class WassersteinMatcherConfig(ChannelMatcherConfig):
    """Options of `WassersteinMatcher`."""

    name: Literal["wasserstein"] = "wasserstein"

    @override
    def build(self) -> Matcher:
        return WassersteinMatcher(max_sweeps=self.max_sweeps, assignment=self.assignment.build(), start=self.start)


@final
class KLMatcherConfig(ChannelMatcherConfig):
    """Options of `KLMatcher`."""

    name: Literal["kl"] = "kl"
    direction: Literal["candidate_to_reference", "reference_to_candidate"] = Field(
        "candidate_to_reference", description="Which of the two divergences is minimised."
    )

    @override
    def build(self) -> Matcher:
        return KLMatcher(
            direction=self.direction, max_sweeps=self.max_sweeps, assignment=self.assignment.build(), start=self.start
        )


@final
class ActivationMatcherConfig(MatcherConfig):
    """Options of `ActivationMatcher`."""

    name: Literal["activation"] = "activation"
    metric: ResponseMetric = Field("correlation", description="`correlation` or `covariance`.")
    num_samples: int = Field(4, ge=1, description="Networks drawn from each posterior.")

    @override
    def build(self) -> Matcher:
        return ActivationMatcher(metric=self.metric, num_samples=self.num_samples)


_BY_DRAWS = "compares gradients of independently drawn networks, which tell units apart only as draws add up"


@final
class GradientMatcherConfig(MatcherConfig):
    """Options of `GradientMatcher`."""

    exempt_laws: ClassVar[Mapping[str, str]] = {"planted_permutation": _BY_DRAWS, "device_and_dtype": _BY_DRAWS}
    name: Literal["gradient"] = "gradient"
    metric: ResponseMetric = Field("correlation", description="`correlation` or `covariance`.")
    num_samples: int = Field(16, ge=1, description="Networks drawn from each posterior.")
    likelihood: LikelihoodName = Field("categorical", description="What outputs are scored by.")

    @override
    def build(self) -> Matcher:
        return GradientMatcher(metric=self.metric, num_samples=self.num_samples, likelihood=self.likelihood)


@final
class FisherMatcherConfig(ChannelMatcherConfig):
    """Options of `FisherMatcher`."""

    name: Literal["fisher"] = "fisher"

    @override
    def build(self) -> Matcher:
        return FisherMatcher(max_sweeps=self.max_sweeps, assignment=self.assignment.build(), start=self.start)


@final
class FrankWolfeMatcherConfig(MatcherConfig):
    """Options of `FrankWolfeMatcher`."""

    name: Literal["frank_wolfe"] = "frank_wolfe"
    channels: ChannelNames = Field("mean", description="What is compared.")
    max_steps: int = Field(100, ge=0, description="The most steps.")
    start: Start = Field("identity", description="`identity` or `uniform`.")
    tolerance: float = Field(1e-5, ge=0, description="Steps end when one gains less than this part of the objective.")

    @override
    def build(self) -> Matcher:
        return FrankWolfeMatcher(
            channels=self.channels, max_steps=self.max_steps, start=self.start, tolerance=self.tolerance
        )


@final
class RestartsMatcherConfig(MatcherConfig):
    """Options of `RestartsMatcher`."""

    name: Literal["restarts"] = "restarts"
    matcher: SerializeAsAny[MatcherConfig] = Field(
        default_factory=WassersteinMatcherConfig, description="The matcher; `wasserstein` if not given."
    )
    restarts: int = Field(5, ge=1, description="Random beginnings beside the first.")

    @override
    def build(self) -> Matcher:
        return RestartsMatcher(self.matcher.build(), restarts=self.restarts)


@final
class ChainMatcherConfig(MatcherConfig):
    """Options of `ChainMatcher`."""

    name: Literal["chain"] = "chain"
    matchers: tuple[SerializeAsAny[MatcherConfig], ...] = Field(
        default_factory=lambda: (ActivationMatcherConfig(), WassersteinMatcherConfig()),
        min_length=1,
        description="One after the other; `activation` and then `wasserstein` if not given.",
    )

    @override
    def build(self) -> Matcher:
        return ChainMatcher([matcher.build() for matcher in self.matchers])


@final
class PortfolioMatcherConfig(MatcherConfig):
    """Options of `PortfolioMatcher`."""

    name: Literal["portfolio"] = "portfolio"
    matchers: tuple[SerializeAsAny[MatcherConfig], ...] = Field(
        default_factory=lambda: (WassersteinMatcherConfig(), FrankWolfeMatcherConfig()),
        min_length=1,
        description="Each is tried; `wasserstein` and `frank_wolfe` if not given.",
    )
    select: Selection = Field("distance", description="`distance`, or `loss` on the training data.")
    seconds: float | None = Field(None, gt=0, description="No further matcher is begun when so many are spent.")

    @override
    def build(self) -> Matcher:
        return PortfolioMatcher(
            [matcher.build() for matcher in self.matchers], select=self.select, seconds=self.seconds
        )


_BY_LOSS = "minimises the loss half-way on the data, for which a moved copy need not be the best partner"


@final
class StraightThroughMatcherConfig(MatcherConfig):
    """Options of `StraightThroughMatcher`."""

    exempt_laws: ClassVar[Mapping[str, str]] = {"planted_permutation": _BY_LOSS, "device_and_dtype": _BY_LOSS}
    name: Literal["straight_through"] = "straight_through"
    epochs: int = Field(5, ge=1, description="Passes over the data.")
    learning_rate: float = Field(1e-3, gt=0, description="Of Adam.")
    sweeps: int = Field(1, ge=1, description="Sweeps of coordinate descent a step.")
    likelihood: LikelihoodName = Field("categorical", description="What outputs are scored by.")

    @override
    def build(self) -> Matcher:
        return StraightThroughMatcher(
            epochs=self.epochs, learning_rate=self.learning_rate, sweeps=self.sweeps, likelihood=self.likelihood
        )


@final
class SinkhornMatcherConfig(MatcherConfig):
    """Options of `SinkhornMatcher`."""

    name: Literal["sinkhorn"] = "sinkhorn"
    loss: SinkhornLoss = Field("weights", description="`weights`, `midpoint` or `random`.")
    epochs: int = Field(10, ge=1, description="Passes over the data; of 20 steps each for `weights`.")
    learning_rate: float = Field(0.1, gt=0, description="Of Adam, on the logits.")
    temperature: float = Field(1.0, gt=0, description="Of the normalisation.")
    iterations: int = Field(20, ge=1, description="At most so many normalisations of rows and columns.")
    likelihood: LikelihoodName = Field("categorical", description="What outputs are scored by.")

    @override
    def build(self) -> Matcher:
        return SinkhornMatcher(**self.model_dump(exclude={"name"}))


@final
class TransportMatcherConfig(MatcherConfig):
    """Options of `TransportMatcher`."""

    name: Literal["transport"] = "transport"
    cost: GroundCost = Field("weights", description="`weights`, `moments` or `activations`.")
    method: PlanMethod = Field("exact", description="`exact`, `entropic`, `unbalanced` or `partial`.")
    regularization: float = Field(0.05, gt=0, description="Of the entropy, in standard deviations of the cost.")
    relaxation: float = Field(1.0, gt=0, description="Of unbalanced marginals, in the same units.")
    mass: float = Field(0.9, gt=0, le=1, description="The part that is carried by `partial`.")
    num_samples: int = Field(4, ge=1, description="Networks drawn from each posterior, for `activations`.")

    @override
    def build(self) -> Matcher:
        return TransportMatcher(**self.model_dump(exclude={"name"}))


@final
class AnnealingMatcherConfig(MatcherConfig):
    """Options of `AnnealingMatcher`."""

    exempt_laws: ClassVar[Mapping[str, str]] = {"planted_permutation": _BY_LOSS, "device_and_dtype": _BY_LOSS}
    name: Literal["annealing"] = "annealing"
    steps: int = Field(1000, ge=1, description="Exchanges that are tried.")
    temperature: float = Field(0.01, gt=0, description="At the start, in nats.")
    final_temperature: float = Field(1e-5, gt=0, description="At the end.")
    likelihood: LikelihoodName = Field("categorical", description="What outputs are scored by.")

    @override
    def build(self) -> Matcher:
        return AnnealingMatcher(
            steps=self.steps,
            temperature=self.temperature,
            final_temperature=self.final_temperature,
            likelihood=self.likelihood,
        )
