"""Options of the barrier estimators."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, final

from pydantic import AfterValidator, Field
from typing_extensions import override

from rebasin_core.barriers.marginalized import MarginalizedBarrier
from rebasin_core.barriers.path import PathName, places
from rebasin_core.barriers.pointwise import PointwiseBarrier
from rebasin_core.config.base import StrategyConfig

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


@final
class MarginalizedBarrierConfig(BarrierConfig):
    """Options of `MarginalizedBarrier`."""

    name: Literal["marginalized"] = "marginalized"
    num_points: NumPoints = Field(11, ge=3, description="Places on the path, ends included: odd, at least 3.")
    num_samples: int = Field(32, ge=2, description="Samples at each place, at least 2.")
    path: PathName = Field(
        "auto", description="The kind of path; `auto` takes the 2-Wasserstein geodesic where it is known."
    )

    @override
    def build(self) -> BarrierEstimator:
        return MarginalizedBarrier(num_points=self.num_points, num_samples=self.num_samples, path=self.path)


@final
class PointwiseBarrierConfig(BarrierConfig):
    """Options of `PointwiseBarrier`."""

    name: Literal["pointwise"] = "pointwise"
    num_points: NumPoints = Field(25, ge=3, description="Places on the path, ends included: odd, at least 3.")

    @override
    def build(self) -> BarrierEstimator:
        return PointwiseBarrier(num_points=self.num_points)
