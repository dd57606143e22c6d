"""Progress of a loop: a bar in a terminal, lines in a log file."""

from __future__ import annotations

import sys
from time import monotonic
from typing import TYPE_CHECKING, NoReturn, Self, final

from tqdm import tqdm

if TYPE_CHECKING:
    from types import TracebackType

# Shorter steps are summarized: at most one line in this number of seconds.
_SECONDS_BETWEEN_LINES = 1.0


@final
class StepProgress:
    """Shows the steps of a loop on standard error: a bar in a terminal, otherwise a line per step.

    Lines follow each other after at least one second. The last step always has a line.

    Args:
        total: Number of steps.
        done: Number of steps that were done before.
        label: Text in front.
        unit: Name of a step.
        is_shown: Whether to show anything.
    """

    def __init__(self, total: int, *, done: int = 0, label: str = "", unit: str = "step", is_shown: bool) -> None:
        self._total = total
        self._done = done
        self._label = f"{label}: " if label else ""
        self._unit = unit
        self._start = monotonic()
        self._next_line = 0.0
        self._bar: tqdm[NoReturn] | None = None
        self._has_lines = is_shown and not sys.stderr.isatty()
        if is_shown and not self._has_lines:
            self._bar = tqdm(total=total, initial=done, desc=label, unit=unit, file=sys.stderr)

    def __enter__(self) -> Self:
        """Return the display itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def advance(self, note: str) -> None:
        """Show that one more step is done.

        Args:
            note: Text after the step, such as its loss.
        """
        self._done += 1
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update()
        now = monotonic()
        if self._has_lines and (now >= self._next_line or self._done == self._total):
            self._next_line = now + _SECONDS_BETWEEN_LINES
            text = f"{self._label}{self._unit} {self._done}/{self._total}, {note}, {now - self._start:.0f} s"
            print(text, file=sys.stderr, flush=True)  # ruff: ignore[print] - the purpose of this class
