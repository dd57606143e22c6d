"""How a command ends: every way is a sentence on the standard error stream and one of the documented exit codes."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from contextlib import contextmanager, suppress
from enum import IntEnum
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, final

import click

from rebasin_core.errors import DivergenceError, LawViolationError, PluginError, RebasinError, StorageError
from rebasin_core.plugin.isolation import described
from rebasin_core.tensors.memory import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

DEBUG = "REBASIN_DEBUG"
"""The environment variable that has the traceback of an internal error printed."""

_LONGEST = 300
_OUTPUT = 1  # the descriptor of the standard output
# What the system says when a stream, or the disk behind it, does not take what is written.
_OUTPUT_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE}


@final
class ExitCode(IntEnum):
    """What the exit codes of `rebasin` mean."""

    DONE = 0
    FAILED = 1
    MISTAKE = 2
    STORAGE = 3
    INTERNAL = 70
    INTERRUPTED = 130


@final
class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a command that knows what is left.

    Args:
        left: A sentence about it.
    """

    def __init__(self, left: str) -> None:
        super().__init__(left)
        self.left = left


@contextmanager
def leaving(left: Callable[[], str]) -> Generator[None]:
    """Say what an interrupted command leaves behind.

    Args:
        left: Returns a sentence about what is kept, and how to go on; empty if nothing is.

    Yields:
        While the work is done.

    Raises:
        Interrupted: If it is interrupted.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(left()) from error


def exit_code(error: RebasinError) -> ExitCode:
    """Return the exit code that an error ends the program with.

    Args:
        error: What was raised.

    Returns:
        The code.
    """
    if isinstance(error, StorageError):
        return ExitCode.STORAGE
    failed = isinstance(error, DivergenceError | LawViolationError | PluginError)
    return ExitCode.FAILED if failed else ExitCode.MISTAKE


def guarded(command: Callable[[], object]) -> int:
    """Run the command line, and turn every way in which it ends into an exit code.

    Args:
        command: Runs it; an exit code that it returns is passed on.

    Returns:
        The exit code.
    """
    open_closed_streams()
    try:
        result = command()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BaseException as error:  # ruff: ignore[blind-except] - the last handler: nobody above could say anything
        return _ending(error)
    return result if isinstance(result, int) else ExitCode.DONE


def open_closed_streams() -> None:
    """Open the null device in place of standard streams that are closed.

    The next files to be opened would get their numbers, and what a library prints would be written into a result.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
    sys.stdout = _opened(sys.stdout)
    sys.stderr = _opened(sys.stderr)


def say(text: str) -> None:
    """Print a line on the standard error stream, if that is possible: nothing may end because of a message.

    Args:
        text: The line.
    """
    if sys.stderr is None:
        return
    with suppress(OSError, ValueError):
        click.echo(text, err=True)


def _opened(stream: TextIO | None) -> TextIO:
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8")
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # a terminal may not know all characters of a name
    return stream


def _ending(error: BaseException) -> int:
    """Say why a command ended, and return its exit code."""
    match error:
        case SystemExit(code=ExitCode() as code):
            return code
        case RebasinError():
            text, code = f"error: {error}", exit_code(error)
        case click.ClickException():
            with suppress(OSError):
                error.show()
            return error.exit_code
        case click.Abort() | KeyboardInterrupt():
            text, code = f"interrupted. {_left(error)}", ExitCode.INTERRUPTED
        case OSError() if error.errno in _OUTPUT_ERRORS:
            _discard_output()
            text, code = f"error: cannot write the output: {error.strerror}", ExitCode.STORAGE
        case _ if is_out_of_memory(error):
            text, code = f"error: memory does not suffice ({_named(error)})", ExitCode.FAILED
        case _:
            text, code = _internal(error), ExitCode.INTERNAL
    say(text)
    return code


def _left(error: BaseException) -> str:
    """Return what an interrupted command left behind; click puts its own exception around an interruption."""
    interruption = error if isinstance(error, Interrupted) else error.__context__
    return (interruption.left if isinstance(interruption, Interrupted) else "") or "Nothing was written"


def _internal(error: BaseException) -> str:
    """Return one line about an error that nobody foresaw, after keeping its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    report = _reported("".join(traceback.format_exception(error)))
    return f"internal error: {_named(error)}{where}. This is a bug in rebasin-core, a plugin or a model. {report}"


def _reported(text: str) -> str:
    """Print a traceback, or write it to a file; return the sentence about it."""
    if os.environ.get(DEBUG, "0") not in {"", "0"}:
        say(text)
        return "The traceback is above"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="rebasin-error-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(text)
    except OSError:
        return f"Run the command with {DEBUG}=1 to see the traceback"
    return f"Please report it, with the traceback in {file.name} ({DEBUG}=1 prints it)"


def _named(error: BaseException) -> str:
    text = " ".join(described(error).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _discard_output() -> None:
    """Let what cannot be written go to the null device, or Python would try once more at the end.

    Another file that a program has put in place of the output is left to that program.
    """
    with suppress(OSError, ValueError):
        if sys.stdout.fileno() == _OUTPUT:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, _OUTPUT)
            os.close(null)
