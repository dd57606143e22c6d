"""Options of the ways to get a permutation specification."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal, final

from pydantic import Field
from typing_extensions import override

from rebasin_core.config.base import StrategyConfig
from rebasin_core.specs.table import TableSpecFactory

if TYPE_CHECKING:
    from rebasin_core.specs.base import SpecFactory


class SpecConfig(StrategyConfig):
    """Base of the options of every way to get a specification."""

    family: ClassVar[str] = "spec"

    @override
    @abstractmethod
    def build(self) -> SpecFactory: ...


@final
class TableSpecConfig(SpecConfig):
    """Options of `TableSpecFactory`: a table written into the run file."""

    name: Literal["table"] = "table"
    table: dict[str, str] = Field(description="The axes of every tensor, such as `fc1.weight: hidden, -`.")
    sizes: dict[str, int] = Field(default_factory=dict, description="Sizes of groups that the shapes do not determine.")

    @override
    def build(self) -> SpecFactory:
        return TableSpecFactory(self.table, sizes=self.sizes)
