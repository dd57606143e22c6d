"""Options of the barrier estimators."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SerializeAsAny
from typing_extensions import override

from rebasin_core.barriers.curved import CurvedBarrier, CurveKind
from rebasin_core.barriers.marginalized import MarginalizedBarrier
from rebasin_core.barriers.path import PathName, places
from rebasin_core.barriers.pointwise import PointwiseBarrier
from rebasin_core.barriers.repaired import RepairBarrier, ResetBarrier
from rebasin_core.config.base import StrategyConfig
from rebasin_core.evaluation.metric import Metric
from rebasin_core.evaluation.metrics import NLLMetric
from rebasin_core.evaluation.networks import AllocationName, EvaluationOptions, MethodName, PrecisionName

if TYPE_CHECKING:
    from rebasin_core.barriers.base import BarrierEstimator


class BarrierConfig(StrategyConfig):
    """Base of the options of every barrier estimator."""

    family: ClassVar[str] = "barrier"

    @override
    @abstractmethod
    def build(self) -> BarrierEstimator: ...


def _checked(num_points: int) -> int:
    places(num_points)
    return num_points


NumPoints = Annotated[int, AfterValidator(_checked)]


class EvaluationConfig(BaseModel):
    """Options of how networks are run (`EvaluationOptions`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: MethodName = Field(
        "auto", description="`auto`, `loop`, `vectorized` or `local` (noise at layers' outputs)."
    )
    chunk_size: int | None = Field(None, ge=1, description="Networks at once; found from the free memory if not given.")
    precision: PrecisionName = Field("full", description="`full` or `bfloat16`.")
    antithetic: bool | None = Field(
        None, description="Samples in pairs of opposite noise (Gaussian posteriors); by default for `local` only."
    )
    allocation: AllocationName = Field(
        "even", description="`even`, or `adaptive`: more samples for uncertain examples (`local` only)."
    )
    compiled: bool = Field(default=False, description="Whether `loop` runs the network as `torch.compile` has it.")

    def build(self) -> EvaluationOptions:
        """Return the options."""
        return EvaluationOptions(**self.model_dump())


class AbstractPathBarrierConfig(BarrierConfig):
    """What estimators along a path have in common."""

    tolerance: float | None = Field(
        None,
        gt=0,
        description="Add places around the highest one until the height is this exact, in units of the loss.",
    )
    metric: Metric = Field(
        default_factory=NLLMetric, description="`nll`, or in its place `gibbs`, `error`, `brier`, `squared_error`."
    )
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig, description="How networks are run.")

    @property
    def shared(self) -> dict[str, Any]:
        """The arguments that all of them take."""
        return {"tolerance": self.tolerance, "metric": self.metric, "evaluation": self.evaluation.build()}


@final
class MarginalizedBarrierConfig(AbstractPathBarrierConfig):
    """Options of `MarginalizedBarrier`."""

    name: Literal["marginalized"] = "marginalized"
    num_points: NumPoints = Field(11, ge=3, description="Places on the path, ends included: odd, at least 3.")
    num_samples: int = Field(32, ge=2, description="Samples at each place, at least 2.")
    path: PathName = Field(
        "auto", description="The kind of path; `auto` takes the 2-Wasserstein geodesic where it is known."
    )

    @override
    def build(self) -> BarrierEstimator:
        return MarginalizedBarrier(
            num_points=self.num_points, num_samples=self.num_samples, path=self.path, **self.shared
        )


@final
class PointwiseBarrierConfig(AbstractPathBarrierConfig):
    """Options of `PointwiseBarrier`."""

    name: Literal["pointwise"] = "pointwise"
    num_points: NumPoints = Field(25, ge=3, description="Places on the path, ends included: odd, at least 3.")

    @override
    def build(self) -> BarrierEstimator:
        return PointwiseBarrier(num_points=self.num_points, **self.shared)


@final
class CurvedBarrierConfig(AbstractPathBarrierConfig):
    """Options of `CurvedBarrier`."""

    exempt_laws: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("equal_ends", "closed_form_on_a_quadratic", "direction"), "the curve is trained, and leaves the straight line"
    )
    name: Literal["curved"] = "curved"
    kind: CurveKind = Field("bezier", description="`bezier` or `polygon`, each with one trained bend.")
    epochs: int = Field(10, ge=0, description="Passes over the calibration data.")
    learning_rate: float = Field(1e-3, gt=0, description="Of Adam.")
    num_points: NumPoints = Field(25, ge=3, description="Places on the path, ends included: odd, at least 3.")

    @override
    def build(self) -> BarrierEstimator:
        return CurvedBarrier(
            kind=self.kind,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            num_points=self.num_points,
            **self.shared,
        )


class AbstractWrapperConfig(BarrierConfig):
    """What estimators around estimators have in common."""

    estimator: SerializeAsAny[BarrierConfig] = Field(
        default_factory=MarginalizedBarrierConfig,
        description="The estimator that is wrapped; `marginalized` if not given.",
    )
    per_sample: bool = Field(default=False, description="Adjust every drawn network by its own statistics.")


@final
class ResetBarrierConfig(AbstractWrapperConfig):
    """Options of `ResetBarrier`."""

    name: Literal["reset"] = "reset"

    @override
    def build(self) -> BarrierEstimator:
        return ResetBarrier(self.estimator.build(), per_sample=self.per_sample)


@final
class RepairBarrierConfig(AbstractWrapperConfig):
    """Options of `RepairBarrier`."""

    name: Literal["repair"] = "repair"

    @override
    def build(self) -> BarrierEstimator:
        return RepairBarrier(self.estimator.build(), per_sample=self.per_sample)
