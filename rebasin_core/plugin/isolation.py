"""Calls of other people's code: whatever it raises is its own error and ends nothing, but for the user's own Ctrl-C."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import FrameType

_LONGEST = 2000


@final
@dataclass(slots=True)
class Attempt:
    """What came of a block of other people's code.

    Attributes:
        error: What it raised; None if it ended well, or has not ended.
    """

    error: BaseException | None = None

    @property
    def problem(self) -> str | None:
        """What it raised, as one sentence; None if it ended well."""
        return None if self.error is None else described(self.error)


@contextmanager
def isolated() -> Generator[Attempt]:
    """Run a block of other people's code, and keep what it raises: `SystemExit` and `KeyboardInterrupt` included.

    There is no limit on time: code that never returns has to be interrupted by the user.

    Yields:
        What came of the block, once it has ended.

    Raises:
        KeyboardInterrupt: If the user pressed Ctrl-C.
    """
    attempt = Attempt()
    with _watching() as is_interrupted:
        try:
            yield attempt
        except KeyboardInterrupt as error:
            if is_interrupted():
                raise
            attempt.error = error
        except BaseException as error:  # ruff: ignore[blind-except] - the point: nothing of it may end the program
            attempt.error = error


def described(error: BaseException) -> str:
    """Return the kind and the message of an error, also where its message cannot be had.

    Args:
        error: What was raised.

    Returns:
        One sentence.
    """
    try:
        text = str(error)
    except Exception:  # ruff: ignore[blind-except] - `__str__` is other people's code, too
        text = "its message cannot be read"
    return f"{type(error).__name__}: {text[:_LONGEST]}"


@contextmanager
def _watching() -> Generator[Callable[[], bool]]:
    """Tell Ctrl-C from a `KeyboardInterrupt` that code raises itself: only the first comes with a signal."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        # Other threads get no signals, and neither do processes that ignore them. Others' handlers are left alone.
        is_possible = threading.current_thread() is threading.main_thread() and before is not signal.SIG_IGN
        yield lambda: is_possible
        return
    pressed: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield lambda: bool(pressed)
    finally:
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, before)
