"""Display of the progress of a study: a bar in a terminal, lines in a log file."""

from __future__ import annotations

import sys
from time import monotonic
from typing import TYPE_CHECKING, NoReturn, final

from tqdm import tqdm
from typing_extensions import override

from rebasin_core.studies.engine.observer import Observer

if TYPE_CHECKING:
    from rebasin_core.studies.engine.observer import Failure, Outcome
    from rebasin_core.studies.stage import Stage
    from rebasin_core.studies.store import Artifact


@final
class Display(Observer):
    """One progress bar for all stages; failures and retries are printed above it."""

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None

    @override
    def started(self, total: int, needed: int) -> None:
        if needed:
            self._bar = tqdm(total=needed, unit="stage", file=sys.stderr, dynamic_ncols=True)

    @override
    def submitted(self, stage: Stage) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(stage.label[:60], refresh=False)

    @override
    def finished(self, stage: Stage, artifact: Artifact | None) -> None:
        if self._bar is not None:
            self._bar.update()

    @override
    def retried(self, stage: Stage, reason: str) -> None:
        tqdm.write(f"again: {stage.short}: {reason}", file=sys.stderr)

    @override
    def failed(self, failure: Failure) -> None:
        tqdm.write(f"failed: {failure}", file=sys.stderr)

    @override
    def ended(self, outcome: Outcome) -> None:
        if self._bar is not None:
            self._bar.close()


@final
class StageLines(Observer):
    """One line on standard error for each finished, repeated or failed stage."""

    def __init__(self) -> None:
        self._needed = 0
        self._done = 0
        self._start = monotonic()

    @override
    def started(self, total: int, needed: int) -> None:
        self._needed = needed
        self._start = monotonic()
        if needed:
            self._print(f"{needed} of {total} stages to compute")

    @override
    def finished(self, stage: Stage, artifact: Artifact | None) -> None:
        self._done += 1
        took = "by another command" if artifact is None else f"{artifact.about.get('seconds', 0.0):.1f} s"
        elapsed = monotonic() - self._start
        self._print(f"[{self._done}/{self._needed}] {stage.label}: {took} (elapsed: {elapsed:.0f} s)")

    @override
    def retried(self, stage: Stage, reason: str) -> None:
        self._print(f"again: {stage.short}: {reason}")

    @override
    def failed(self, failure: Failure) -> None:
        self._print(f"failed: {failure}")

    @staticmethod
    def _print(text: str) -> None:
        print(text, file=sys.stderr, flush=True)  # ruff: ignore[print] - the purpose of this class


def stage_display() -> Observer:
    """Return the display of stages for standard error.

    Returns:
        A bar in a terminal, otherwise lines.
    """
    return Display() if sys.stderr.isatty() else StageLines()
