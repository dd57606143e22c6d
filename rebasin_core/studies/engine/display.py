"""Display of the progress of a study in a terminal."""

from __future__ import annotations

import sys
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
