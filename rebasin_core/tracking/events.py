"""Values that a tracker receives: a study, its stages that finished or failed, and its summary."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, TypeAlias, final

if TYPE_CHECKING:
    from pathlib import Path

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
"""A value that a JSON file can contain."""


@dataclass(frozen=True, slots=True)
class AbstractEvent:
    """A value that can be converted to JSON."""

    def to_json(self) -> dict[str, JSON]:
        """Return the event as JSON values.

        Returns:
            The attributes by name. Infinities and NaN become strings, such as ``"Infinity"``, and paths, too.
        """
        names = [item.name for item in fields(self)]
        return {name: as_json(getattr(self, name)) for name in names}


@final
@dataclass(frozen=True, slots=True)
class StudyInfo(AbstractEvent):
    """A study that starts.

    Attributes:
        id: Identity of the study: a digest of its content. Equal if the same study is run again.
        name: Name of the study, such as the name of its file without suffix.
        settings: Content of the study file, or run file.
        stages: Number of stages of each kind.
        reused: Number of stages whose results were stored before; a tracker receives no events about them.
        address: Address of the store.
        version: Version of this package.
    """

    id: str
    name: str
    settings: Mapping[str, object] = field(default_factory=dict)
    stages: Mapping[str, int] = field(default_factory=dict)
    reused: int = 0
    address: str = ""
    version: str = ""


_FRACTION = 1000


@final
@dataclass(frozen=True, slots=True)
class Series(AbstractEvent):
    """A sequence of values, such as the training objective in each epoch.

    Attributes:
        values: The values.
        steps: Epoch, or point t of a path, of each value, ascending; 0, 1, 2, ... if None.
        axis: Name of the steps, such as ``epoch`` or ``t``.
    """

    values: Sequence[float]
    steps: Sequence[float] | None = None
    axis: str = "epoch"

    def points(self) -> list[tuple[float, float]]:
        """Return the pairs of a step and its value.

        Returns:
            One pair for each value.
        """
        steps = self.steps if self.steps is not None else range(len(self.values))
        return list(zip(steps, self.values, strict=False))

    def integer_points(self) -> list[tuple[int, float]]:
        """Return the pairs of an integer step and its value, for tools whose steps are integers.

        Returns:
            One pair for each value. If not all steps are integers, such as points t of a path, they are multiplied by
            1000 and rounded.
        """
        points = self.points()
        scale = 1 if all(float(step).is_integer() for step, _ in points) and self.axis != "t" else _FRACTION
        return [(round(scale * step), value) for step, value in points]


@final
@dataclass(frozen=True, slots=True)
class StageEvent(AbstractEvent):
    """A stage that was computed. Its results are stored before the event is sent.

    Attributes:
        kind: Kind of the stage, such as ``train`` or ``curve``.
        label: Name of the stage for people, unique in the study.
        id: Identity of the stage: a digest of all that determines its result.
        factors: Options and seeds that distinguish the stage from others of its kind, by name.
        seconds: Duration of the computation.
        device: Device of the computation, such as ``cuda:0``.
        threads: Number of threads of the computation.
        metrics: Results that are single numbers, by name, such as ``height`` and ``height_stderr``.
        series: Results that are sequences, by name, such as ``objective``.
        files: Files that may be attached, by name, such as ``loss.svg``; they must not be changed.
    """

    kind: str
    label: str
    id: str
    factors: Mapping[str, object] = field(default_factory=dict)
    seconds: float = 0.0
    device: str = ""
    threads: int = 1
    metrics: Mapping[str, float] = field(default_factory=dict)
    series: Mapping[str, Series] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True)
class StageFailure(AbstractEvent):
    """A stage that failed and is not tried again.

    Attributes:
        kind: Kind of the stage.
        label: Name of the stage for people.
        id: Identity of the stage.
        factors: Options and seeds that distinguish the stage from others of its kind, by name.
        error: Type and message of the last error.
        attempts: How often the stage was tried.
        seconds: Duration of all attempts.
        log: Output and traceback; empty if there are none.
    """

    kind: str
    label: str
    id: str
    factors: Mapping[str, object] = field(default_factory=dict)
    error: str = ""
    attempts: int = 1
    seconds: float = 0.0
    log: str = ""


@final
@dataclass(frozen=True, slots=True)
class StudySummary(AbstractEvent):
    """Counts and durations of a finished or interrupted study.

    Attributes:
        computed: Number of stages that were computed.
        reused: Number of stages whose results were stored before.
        failed: Number of stages that failed.
        blocked: Number of stages that were not computed because a stage that they read failed, or the study was
            interrupted.
        seconds: Duration of the study.
        work_seconds: Sum of the durations of the computed stages.
        interrupted: Whether the study was interrupted.
        files: Figures of the results that may be attached, by name, such as ``barrier_width.svg``; they must not be
            changed, and are deleted after the recorder is closed. Empty if no stage was computed, the study was
            interrupted, or no tracker uses files.
    """

    computed: int
    reused: int = 0
    failed: int = 0
    blocked: int = 0
    seconds: float = 0.0
    work_seconds: float = 0.0
    interrupted: bool = False
    files: Mapping[str, Path] = field(default_factory=dict)


def as_json(value: object) -> JSON:
    """Return any value as JSON.

    Args:
        value: The value.

    Returns:
        The value itself if JSON has it; mappings and sequences are converted recursively, infinities and NaN are
        strings, and other values become their text.
    """
    match value:
        case float():
            return float(value) if math.isfinite(value) else json.dumps(float(value))
        case None | bool() | int() | str():
            return value
        case AbstractEvent():
            return value.to_json()
        case Mapping():
            return {str(key): as_json(item) for key, item in value.items()}
        case Sequence() if not isinstance(value, bytes | bytearray):
            return [as_json(item) for item in value]
        case _:
            return str(value)


def flattened(settings: Mapping[str, object], *, prefix: str = "") -> dict[str, bool | int | float | str | None]:
    """Return nested settings as one level of names, as trackers expect them.

    Args:
        settings: The settings.
        prefix: Prefix of all names.

    Returns:
        Values by dotted names, such as ``inference.kl_weight``. Lists become JSON text, infinities and NaN strings.

    Examples:
        >>> flattened({"inference": {"kl_weight": 0.1}, "hidden": [8, 8]})
        {'inference.kl_weight': 0.1, 'hidden': '[8, 8]'}
    """
    found: dict[str, bool | int | float | str | None] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found.update(flattened(value, prefix=f"{prefix}{key}."))
        else:
            plain = as_json(value)
            found[f"{prefix}{key}"] = json.dumps(plain) if isinstance(plain, list | dict) else plain
    return found
