"""The JSON files of a run that its report and figures are made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, ValidationError, model_validator

from rebasin_core.errors import FileFormatError
from rebasin_core.problems import messages
from rebasin_core.tensors.reading import read_json, shown

if TYPE_CHECKING:
    from pathlib import Path

_ROWS = "expected rows of equal lengths, at least one"
_BINS = "expected lists of equal lengths, and a count above 0"
# Cosines are written with three decimals, so rounding can exceed 1.
_MAX_COSINE = 1.001
Cosine = Annotated[float, Field(ge=-_MAX_COSINE, le=_MAX_COSINE)]
Count = Annotated[float, Field(ge=0, le=1e15)]


class _Readable(BaseModel):
    """Content of a JSON file."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and validate a file.

        Args:
            path: The file.

        Returns:
            Its content.

        Raises:
            FileFormatError: If the file is damaged.
        """
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            problems = "; ".join(messages(error.errors())[:3])
            message = (
                f"{shown(path)} is damaged, or was written by another version ({problems}); run the run file again"
            )
            raise FileFormatError(message) from error


class _Record(_Readable):
    """A JSON object; unknown keys are ignored, because later versions can add some."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


def _as_matrix(rows: list[list[Cosine]]) -> list[list[Cosine]]:
    if not rows or not rows[0] or any(len(row) != len(rows[0]) for row in rows):
        raise ValueError(_ROWS)
    return rows


Matrix = Annotated[list[list[Cosine]], AfterValidator(_as_matrix)]


class MatchRecord(_Record):
    """Result of a matcher."""

    objective: float
    """Objective of the permutation."""

    identity_objective: float
    """Objective of the identity."""

    sweeps: int
    """Number of sweeps."""

    outcome: str
    """Why the matcher stopped."""

    moved: dict[str, int]
    """Number of permuted units (not fixed points) by group."""


class MeansRecord(_Record):
    """The barrier between the means of two posteriors."""

    height: float
    """Barrier in nats per example."""


class BarrierRecord(_Record):
    """The entry of a curve in ``summary.json``, without the curve."""

    means: MeansRecord | None = None
    """Barrier between the means; None in runs of single networks."""


class Summary(_Record):
    """Content of ``summary.json``."""

    barriers: dict[str, dict[str, BarrierRecord]] = {}
    """Barriers by split and label, the unaligned one first."""

    wasserstein_distances: dict[str, float | None]
    """2-Wasserstein distances by label; None if there is no closed form."""

    matches: dict[str, MatchRecord] = {}
    """Results by matcher."""

    @model_validator(mode="after")
    def _two_curves(self) -> Self:
        if not all(2 <= len(labels) <= len(self.wasserstein_distances) for labels in self.barriers.values()):
            message = "expected the unaligned curve and one curve per matcher for each split"
            raise ValueError(message)
        return self


class Bins(_Record):
    """Bins of a reliability diagram."""

    count: list[Count]
    confidence: list[float]
    accuracy: list[float]

    @model_validator(mode="after")
    def _of_one_length(self) -> Self:
        if not len(self.count) == len(self.confidence) == len(self.accuracy) or not sum(self.count):
            raise ValueError(_BINS)
        return self


class Scores(_Record):
    """Content of a file in ``scores/``."""

    scores: dict[str, float | None]
    """Scores by name."""

    bins: Bins | None
    """Reliability diagram; None for regression."""


class Sides(_Record):
    """Unit similarities of one group before and after alignment."""

    before: Matrix
    after: Matrix


class Training(_Record):
    """History of the training of a posterior."""

    history: list[float]
    """Mean objective of each epoch, in nats per example."""

    validation: list[float] = []
    """Validation loss of each epoch; empty if no examples were held out."""


class Command(_Record):
    """A command that computed or read a run."""

    date: str
    """Date and time (UTC)."""

    command: str
    """The command."""


class Commands(_Record):
    """Content of ``stages/commands.json``."""

    commands: list[Command]
    """The commands, oldest first."""


class Choice(_Record):
    """A component in a configuration, with its options."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    name: str
    """Registered name."""


class Source(_Record):
    """A posterior of a run."""

    seed: int | None = None
    """Seed of the training."""

    path: str | None = None
    """File that it is loaded from; None if it is trained."""


class Configuration(_Record):
    """Configuration of a run; the keys that reports show."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    architecture: Choice
    data: Choice
    inference: Choice
    barrier: Choice
    reference: Source
    candidate: Source


class Similarities(_Readable, RootModel[dict[str, Sides]]):
    """Content of a file in ``similarities/``, by group."""


class RunRecord(_Record):
    """Content of ``run.json``; the keys that reports show."""

    config: Configuration
    code: dict[str, str]
    about: dict[str, str]
