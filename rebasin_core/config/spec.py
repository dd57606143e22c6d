"""Options of the ways to get a permutation specification."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, final

from pydantic import Field
from typing_extensions import override

from rebasin_core.config.base import StrategyConfig
from rebasin_core.specs.files import FileSpecFactory
from rebasin_core.specs.table import TableSpecFactory
from rebasin_core.specs.tracing.factory import TracedSpecFactory

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


@final
class TracedSpecConfig(SpecConfig):
    """Options of `TracedSpecFactory`: the specification is derived from the model's graph."""

    name: Literal["traced"] = "traced"
    freeze: tuple[str, ...] = Field((), description="Patterns of parameters and buffers that must not move.")
    method: Literal["export", "execution"] = Field(
        "export", description="Trace with torch.export, or record one execution (control flow that depends on data)."
    )

    @override
    def build(self) -> SpecFactory:
        return TracedSpecFactory(freeze=self.freeze, method=self.method)


@final
class FileSpecConfig(SpecConfig):
    """Options of `FileSpecFactory`: a specification written by `save_spec` or `rebasin spec --output`."""

    name: Literal["file"] = "file"
    path: Path = Field(description="The JSON file.")

    @override
    def build(self) -> SpecFactory:
        return FileSpecFactory(self.path)
