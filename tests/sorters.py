"""A third-party family of strategies, for tests."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self, final

from pydantic import Field, PositiveInt, model_validator
from typing_extensions import override

from rebasin_core.errors import UnknownNameError
from rebasin_core.strategy import Strategy


class Sorter(Strategy):
    """Interface of the family."""

    family: ClassVar[str] = "sorter"

    @abstractmethod
    def sort(self, values: list[float]) -> list[float]:
        """Return the sorted values."""


@final
class PlainSorter(Sorter):
    """Sorts values."""

    name: Literal["plain"] = "plain"

    descending: bool = False
    """Whether the largest value comes first."""

    limit: float = math.inf
    """Values above this one are dropped."""

    weights: Mapping[str, float] = Field(default_factory=dict)
    """Weights by name."""

    folder: Path = Path("data")
    """A folder."""

    low: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Lower quantile."""

    high: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Upper quantile."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            message = f"expected `low` to be at most `high`, got {self.low} and {self.high}"
            raise ValueError(message)
        return self

    @override
    def sort(self, values: list[float]) -> list[float]:
        return sorted((value for value in values if value <= self.limit), reverse=self.descending)


@final
class TwiceSorter(Sorter):
    """Applies several sorters in sequence."""

    name: Literal["twice"] = "twice"

    first: Sorter
    """The first sorter."""

    others: Annotated[tuple[Sorter, ...], Field(min_length=1)]
    """The following sorters, in sequence."""

    times: PositiveInt = 1
    """Number of repetitions."""

    @override
    def sort(self, values: list[float]) -> list[float]:
        for sorter in (self.first, *self.others):
            values = sorter.sort(values)
        return values


SORTERS: dict[str, type[Strategy]] = {"plain": PlainSorter, "twice": TwiceSorter}


def lookup(family: str, name: str) -> type[Strategy]:
    if name not in SORTERS:
        message = f"no {family} {name!r}"
        raise UnknownNameError(message)
    return SORTERS[name]


def sorter(value: object) -> Sorter:
    return Sorter.of(value, lookup)
