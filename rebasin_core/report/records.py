"""The records of a run that reports are made of, as they are read from its folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, ValidationError, model_validator

from rebasin_core.errors import FileFormatError
from rebasin_core.problems import sentences
from rebasin_core.tensors.reading import read_json, shown

if TYPE_CHECKING:
    from pathlib import Path

_ROWS = "expected rows of equal lengths, at least one"
_BINS = "expected lists of equal lengths, and a count above 0"
# Cosines are written with three decimals.
_LARGEST_COSINE = 1.001
Cosine = Annotated[float, Field(ge=-_LARGEST_COSINE, le=_LARGEST_COSINE)]
Count = Annotated[float, Field(ge=0, le=1e15)]


class _Readable(BaseModel):
    """What a file in JSON says."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file.

        Args:
            path: The file.

        Returns:
            Its content.

        Raises:
            FileFormatError: If it is damaged.
        """
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            problems = "; ".join(sentences(error.errors())[:3])
            message = (
                f"{shown(path)} is damaged, or was written by another version ({problems}); run the run file again"
            )
            raise FileFormatError(message) from error


class _Record(_Readable):
    """A record: entries of other names are left alone, since later versions may have more."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


def _as_matrix(rows: list[list[Cosine]]) -> list[list[Cosine]]:
    if not rows or not rows[0] or any(len(row) != len(rows[0]) for row in rows):
        raise ValueError(_ROWS)
    return rows


Matrix = Annotated[list[list[Cosine]], AfterValidator(_as_matrix)]


class MatchRecord(_Record):
    """How a matcher fared."""

    objective: float
    """The value that was found."""

    identity_objective: float
    """The value where nothing moves."""

    sweeps: int
    """The number of sweeps."""

    outcome: str
    """Why it stopped."""

    moved: dict[str, int]
    """Units moved, by group."""


class MeansRecord(_Record):
    """The barrier between the means of two posteriors."""

    height: float
    """Its height."""


class BarrierRecord(_Record):
    """What stands beside a curve."""

    means: MeansRecord | None = None
    """Of runs of distributions."""


class Summary(_Record):
    """What ``summary.json`` says."""

    barriers: dict[str, dict[str, BarrierRecord]] = {}
    """For every split, labels of curves, the unaligned one first."""

    wasserstein_distances: dict[str, float | None]
    """Distances by label."""

    matches: dict[str, MatchRecord] = {}
    """By matcher."""

    @model_validator(mode="after")
    def _two_curves(self) -> Self:
        if not all(2 <= len(labels) <= len(self.wasserstein_distances) for labels in self.barriers.values()):
            message = "expected for each split the unaligned curve, and one for each matcher"
            raise ValueError(message)
        return self


class Bins(_Record):
    """Shares of examples by confidence."""

    count: list[Count]
    confidence: list[float]
    accuracy: list[float]

    @model_validator(mode="after")
    def _of_one_length(self) -> Self:
        if not len(self.count) == len(self.confidence) == len(self.accuracy) or not sum(self.count):
            raise ValueError(_BINS)
        return self


class Scores(_Record):
    """What a file in ``scores/`` says."""

    scores: dict[str, float | None]
    """By name."""

    bins: Bins | None
    """For classes."""


class Sides(_Record):
    """Similarities of units before and after alignment."""

    before: Matrix
    after: Matrix


class Choice(_Record):
    """A strategy of a configuration."""

    name: str
    """Its registered name."""


class Configuration(_Record):
    """What reports say about a configuration."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    architecture: Choice
    data: Choice
    inference: Choice


class Similarities(_Readable, RootModel[dict[str, Sides]]):
    """What a file in ``similarities/`` says, by group."""


class RunRecord(_Record):
    """What ``run.json`` says to a report."""

    config: Configuration
    code: dict[str, str]
    about: dict[str, str]
