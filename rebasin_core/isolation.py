"""Calls of third-party code: all of its exceptions are caught, except the Ctrl-C of the user."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from rebasin_core.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import FrameType

_LONGEST = 2000


@final
@dataclass(slots=True)
class Attempt:
    """Outcome of a block of third-party code.

    Attributes:
        error: The exception that it raised; None if it raised none or has not ended.
    """

    error: BaseException | None = None

    @property
    def problem(self) -> str | None:
        """Type and message of the exception; None if there is none."""
        return None if self.error is None else format_error(self.error)


@contextmanager
def isolated() -> Generator[Attempt]:
    """Run a block of third-party code and catch its exceptions, including `SystemExit` and `KeyboardInterrupt`.

    There is no time limit: the user has to interrupt code that never returns.

    Yields:
        The outcome, which is set when the block ends.

    Raises:
        KeyboardInterrupt: If the user pressed Ctrl-C.
    """
    attempt = Attempt()
    with _detecting_ctrl_c() as is_interrupted:
        try:
            yield attempt
        except KeyboardInterrupt as error:
            if is_interrupted():
                raise
            attempt.error = error
        except BaseException as error:  # ruff: ignore[blind-except] - no exception of a plugin may end the program
            attempt.error = error


def load_object(reference: str, purpose: str) -> object:
    """Import an object.

    Args:
        reference: ``package.module:name``; the current folder is searched too.
        purpose: Noun phrase for the error message, such as "a model".

    Returns:
        The object.

    Raises:
        InvalidInputError: If it cannot be imported.
    """
    name, colon, attribute = reference.partition(":")
    if not (name and colon and attribute):
        message = f"expected package.module:factory, got {reference!r}"
        raise InvalidInputError(message)
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    found: object = None
    with isolated() as attempt:
        found = importlib.import_module(name)
        for part in attribute.split("."):
            found = getattr(found, part)
    if attempt.error is not None:
        message = f"cannot make {purpose} from {reference}: {attempt.problem}"
        raise InvalidInputError(message) from attempt.error
    return found


def format_error(error: BaseException) -> str:
    """Return type and message of an exception, also if converting it to a string fails.

    Args:
        error: The exception.

    Returns:
        ``TypeName: message``, truncated.
    """
    try:
        text = str(error)
    except Exception:  # ruff: ignore[blind-except] - `__str__` is third-party code, too
        text = "(message not available)"
    return f"{type(error).__name__}: {text[:_LONGEST]}"


@contextmanager
def _detecting_ctrl_c() -> Generator[Callable[[], bool]]:
    """Distinguish Ctrl-C, which comes with a signal, from a `KeyboardInterrupt` that the code raises itself."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        # Only the main thread receives signals, unless the process ignores them. Custom handlers are not replaced.
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
