"""Errors and exit codes of the command line: each error prints one message on standard error."""

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
from rebasin_core.isolation import format_error

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

DEBUG = "REBASIN_DEBUG"
"""Environment variable; if set to 1, the traceback of an internal error is printed."""

_MAX_LENGTH = 300
_STDOUT = 1  # file descriptor
# Error numbers of a stream, or of the disk behind it, that cannot be written.
_OUTPUT_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE}


@final
class ExitCode(IntEnum):
    """Exit codes of `rebasin`."""

    SUCCESS = 0
    FAILED = 1
    INVALID_INPUT = 2
    STORAGE = 3
    INTERNAL = 70
    INTERRUPTED = 130


@final
class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a command that can be resumed.

    Args:
        kept: Message that describes the partial results and how to resume; empty if there are none.
    """

    def __init__(self, kept: str) -> None:
        super().__init__(kept)
        self.kept = kept


@contextmanager
def on_interrupt(kept: Callable[[], str]) -> Generator[None]:
    """Add a message about partial results to an interruption of the enclosed block.

    Args:
        kept: Returns the message: the partial results and how to resume; empty if there are none.

    Yields:
        Nothing.

    Raises:
        Interrupted: If the block is interrupted.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(kept()) from error


def exit_code(error: RebasinError) -> ExitCode:
    """Return the exit code of an error.

    Args:
        error: The error that ended the command.

    Returns:
        The code.
    """
    if isinstance(error, StorageError):
        return ExitCode.STORAGE
    failed = isinstance(error, DivergenceError | LawViolationError | PluginError)
    return ExitCode.FAILED if failed else ExitCode.INVALID_INPUT


def guarded(command: Callable[[], object]) -> int:
    """Run a command, report any exception, and return the exit code.

    Args:
        command: The command; if it returns an integer, that is the exit code.

    Returns:
        The exit code.
    """
    open_closed_streams()
    try:
        result = command()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BaseException as error:  # ruff: ignore[blind-except] - the outermost handler of the program
        return _handle(error)
    return result if isinstance(result, int) else ExitCode.SUCCESS


def open_closed_streams() -> None:
    """Replace closed standard streams by the null device.

    Otherwise the next files to be opened would get their descriptors, and printed text would be written to results.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if descriptor == 0 else os.O_WRONLY)
    sys.stdout = _opened(sys.stdout)
    sys.stderr = _opened(sys.stderr)


def print_error(text: str) -> None:
    """Print a line on standard error. Errors of the stream are ignored.

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
        stream.reconfigure(errors="backslashreplace")  # names can have characters that the terminal cannot encode
    return stream


def _handle(error: BaseException) -> int:
    """Print the message of an exception that ended a command, and return the exit code."""
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
            text, code = f"interrupted. {_kept(error)}", ExitCode.INTERRUPTED
        case OSError() if error.errno in _OUTPUT_ERRORS:
            _discard_output()
            text, code = f"error: cannot write the output: {error.strerror}", ExitCode.STORAGE
        case _ if _is_out_of_memory(error):
            text, code = f"error: out of memory ({_summarized(error)})", ExitCode.FAILED
        case _:
            text, code = _internal(error), ExitCode.INTERNAL
    print_error(text)
    return code


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from rebasin_core.tensors.memory import is_out_of_memory

    return is_out_of_memory(error)


def _kept(error: BaseException) -> str:
    """Return the message about partial results; click wraps an interruption in its own exception."""
    interruption = error if isinstance(error, Interrupted) else error.__context__
    return (interruption.kept if isinstance(interruption, Interrupted) else "") or "Nothing was written"


def _internal(error: BaseException) -> str:
    """Save or print the traceback of an unexpected exception, and return its one-line message."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    report = _report_traceback("".join(traceback.format_exception(error)))
    return f"internal error: {_summarized(error)}{where}. This is a bug in rebasin-core, a plugin or a model. {report}"


def _report_traceback(text: str) -> str:
    """Print a traceback, or write it to a file, and return a sentence that locates it."""
    if os.environ.get(DEBUG, "0") not in {"", "0"}:
        print_error(text)
        return "The traceback is above"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="rebasin-error-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(text)
    except OSError:
        return f"Run the command with {DEBUG}=1 to see the traceback"
    return f"Please report it, with the traceback in {file.name} ({DEBUG}=1 prints it)"


def _summarized(error: BaseException) -> str:
    text = " ".join(format_error(error).split())
    return text if len(text) <= _MAX_LENGTH else f"{text[: _MAX_LENGTH - 3]}..."


def _discard_output() -> None:
    """Redirect standard output to the null device; otherwise Python retries the write at exit.

    If a program has replaced `sys.stdout` by another file, that file is left unchanged.
    """
    with suppress(OSError, ValueError):
        if sys.stdout.fileno() == _STDOUT:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, _STDOUT)
            os.close(null)
