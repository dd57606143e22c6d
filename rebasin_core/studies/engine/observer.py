"""Events of a computation, for displays and trackers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rebasin_core.studies.stage import Stage
    from rebasin_core.studies.store import Artifact


@final
@dataclass(frozen=True, slots=True)
class Failure:
    """A stage that failed and is not tried again by this command.

    Attributes:
        stage: The stage.
        error: Name of the class of the last error.
        message: Message of the last error.
        log: Output and traceback of the last attempt.
        attempts: Number of attempts.
        is_permanent: Whether another attempt would fail in the same way, such as a diverged training.
    """

    stage: Stage
    error: str
    message: str
    log: str = ""
    attempts: int = 1
    is_permanent: bool = True

    @override
    def __str__(self) -> str:
        """Return the stage with the error."""
        return f"{self.stage.short}: {self.error}: {self.message}"


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of computing a plan.

    Attributes:
        computed: Identities of the stages that were computed by this command.
        reused: Number of stages of the plan whose results were stored before or by another command.
        failures: Failed stages by identity.
        blocked: Identities of the stages that read, directly or indirectly, a failed stage.
        unfinished: Number of other stages that remain to be computed, after an interruption.
        seconds: Duration.
        work_seconds: Sum of the durations of the computed stages.
    """

    computed: tuple[str, ...] = ()
    reused: int = 0
    failures: Mapping[str, Failure] = field(default_factory=dict)
    blocked: Sequence[str] = ()
    unfinished: int = 0
    seconds: float = 0.0
    work_seconds: float = 0.0


class Observer:
    """Receives the events of a computation; the methods are empty unless they are overridden."""

    def started(self, total: int, needed: int) -> None:
        """A plan of ``total`` stages starts, of which ``needed`` are to be computed."""

    def submitted(self, stage: Stage) -> None:
        """A stage was submitted to a worker."""

    def finished(self, stage: Stage, artifact: Artifact | None) -> None:
        """A stage is stored; None if another command computed it."""

    def retried(self, stage: Stage, reason: str) -> None:
        """A stage is tried again."""

    def failed(self, failure: Failure) -> None:
        """A stage failed."""

    def ended(self, outcome: Outcome) -> None:
        """The computation ended."""
