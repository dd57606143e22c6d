"""Options of the assignment solvers."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal, final

from pydantic import Field
from typing_extensions import override

from rebasin_core.assignment import AuctionAssignment, CompiledAssignment, ScipyAssignment, default_solver
from rebasin_core.config.base import StrategyConfig

if TYPE_CHECKING:
    from rebasin_core.assignment import AssignmentSolver


class AssignmentConfig(StrategyConfig):
    """Base of the options of every assignment solver."""

    family: ClassVar[str] = "assignment"

    @override
    @abstractmethod
    def build(self) -> AssignmentSolver: ...


@final
class AutoAssignmentConfig(AssignmentConfig):
    """Options of `auto`: the fastest exact solver that this machine has, `compiled` or `scipy`."""

    name: Literal["auto"] = "auto"

    @override
    def build(self) -> AssignmentSolver:
        return default_solver()


@final
class ScipyAssignmentConfig(AssignmentConfig):
    """Options of `ScipyAssignment`."""

    name: Literal["scipy"] = "scipy"
    certify: bool = Field(default=False, description="Whether to compute potentials and the gap, too.")

    @override
    def build(self) -> AssignmentSolver:
        return ScipyAssignment(certify=self.certify)


@final
class CompiledAssignmentConfig(AssignmentConfig):
    """Options of `CompiledAssignment`."""

    name: Literal["compiled"] = "compiled"

    @override
    def build(self) -> AssignmentSolver:
        return CompiledAssignment()


@final
class AuctionAssignmentConfig(AssignmentConfig):
    """Options of `AuctionAssignment`."""

    name: Literal["auction"] = "auction"
    free: float = Field(0.02, ge=0, le=1, description="The part of the rows that may be free when the auction ends.")

    @override
    def build(self) -> AssignmentSolver:
        return AuctionAssignment(free=self.free)
