"""The compiled assignment kernel: built with the machine's C compiler on first use, and kept."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess  # ruff: ignore[suspicious-subprocess-import] - runs the user's C compiler on our source
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, final

from rebasin_core.assignment.kernel_cache import keep_library, kept_libraries, user_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

Real: TypeAlias = Literal["float", "double"]

_REALS: tuple[Real, ...] = ("float", "double")
# The machine's own vector instructions, and without them if its compiler does not know the option.
_FLAGS: tuple[tuple[str, ...], ...] = (("-O3", "-march=native"), ("-O3",))
_SECONDS = 120


class KernelUnavailableError(Exception):
    """The kernel cannot be built or loaded here; says why."""


@final
@dataclass(frozen=True, slots=True)
class Kernel:
    """The kernel, for both precisions.

    Attributes:
        functions: ``rebasin_assignment`` of ``assignment.c`` for either type of numbers.
        origin: Where it comes from, in words.
    """

    functions: dict[Real, Any]
    origin: str


def load_kernel() -> Kernel:
    """Return the kernel: a kept one that is whole and works, or one that is built now, once a process.

    Returns:
        The kernel.

    Raises:
        KernelUnavailableError: If there is no compiler, it fails, what it builds cannot be loaded, or
            ``REBASIN_COMPILE=0`` is set.
    """
    found = _found()
    if isinstance(found, str):
        raise KernelUnavailableError(found)
    return found


@functools.cache
def _found() -> Kernel | str:
    """Return the kernel, or why there is none."""
    if is_turned_off():
        return "compiling is turned off by REBASIN_COMPILE=0"
    source = resources.files(__package__).joinpath("assignment.c").read_bytes()
    key = _key(source)
    folder = user_folder()
    for path, content in kept_libraries(folder, key) if folder else []:
        try:
            return Kernel(_functions(content), f"read from {path}")
        except (OSError, AttributeError):  # whole, but not for this machine, say
            path.unlink(missing_ok=True)
    try:
        content = _built(source)
        functions = _functions(content)
    except (KernelUnavailableError, OSError, AttributeError) as error:
        return str(error)
    kept = folder and keep_library(folder, key, content)
    place = f"kept as {kept}" if kept else "not kept, since the user's cache folder cannot be used"
    return Kernel(functions, f"built by this process, and {place}")


def is_turned_off() -> bool:
    """Return whether the user wants no compiled kernel.

    Returns:
        Whether ``REBASIN_COMPILE=0`` is set.
    """
    return os.environ.get("REBASIN_COMPILE", "1") == "0"


def forget_kernel() -> None:
    """Look for the kernel anew when it is next needed."""
    _found.cache_clear()


def _key(source: bytes) -> str:
    """Return what determines a library but for its compiler: without one, a kept library still serves."""
    machine = (_FLAGS, platform.machine(), ctypes.sizeof(ctypes.c_void_p), platform.libc_ver(), _processor())
    return hashlib.sha256(repr(machine).encode() + source).hexdigest()[:20]


def _built(source: bytes) -> bytes:
    """Return the library for both precisions, as bytes."""
    compiler = next(filter(None, map(shutil.which, [os.environ.get("CC") or "cc", "gcc", "clang"])), None)
    if compiler is None:
        message = "no C compiler was found (CC, cc, gcc, clang)"
        raise KernelUnavailableError(message)
    problem = ""
    for flags in _FLAGS:
        try:
            return _compiled([compiler, *flags, "-std=c99", "-shared", "-fPIC"], source)
        except (OSError, subprocess.SubprocessError) as error:
            problem = getattr(error, "stderr", None) or str(error)
    message = f"{compiler} could not build the kernel: {problem.strip()[:300]}"
    raise KernelUnavailableError(message)


def _compiled(command: Sequence[str], source: bytes) -> bytes:
    with tempfile.TemporaryDirectory(prefix="rebasin-") as room:
        folder = Path(room)
        folder.joinpath("assignment.c").write_bytes(source)
        parts: list[str] = []
        for real in _REALS:
            lines = (f"#define REAL {real}", f"#define rebasin_assignment {_symbol(real)}", '#include "assignment.c"')
            parts.append(f"{real}.c")
            folder.joinpath(parts[-1]).write_text("\n".join(lines) + "\n", encoding="utf-8")
        subprocess.run(  # ruff: ignore[subprocess-without-shell-equals-true] - our source, the user's compiler
            [*command, "-o", "assignment.so", *parts],
            check=True,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            cwd=room,
        )
        return folder.joinpath("assignment.so").read_bytes()


def _functions(content: bytes) -> dict[Real, Any]:
    """Return the kernel's functions, tried on a small problem."""
    library = _opened(content)
    functions = {real: _typed(getattr(library, _symbol(real))) for real in _REALS}
    for real, function in functions.items():
        if not _is_right(function, real):
            message = "the kernel solves a small problem wrongly: the compiler is out of order, or its options are"
            raise OSError(message)
    return functions


def _opened(content: bytes) -> ctypes.CDLL:
    """Return a library from its bytes.

    Linux loads it from memory: then nothing that happens to a file later can end this process, and a file system that
    forbids execution does not matter. Elsewhere, and where that is forbidden, it is loaded from a file of its own.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            return _opened_in_memory(content)
    with tempfile.TemporaryDirectory(prefix="rebasin-", ignore_cleanup_errors=True) as room:
        path = Path(room, "assignment.so")
        path.write_bytes(content)
        return ctypes.CDLL(str(path))


def _opened_in_memory(content: bytes) -> ctypes.CDLL:
    # Stays open once it is loaded: libraries are told apart by their names, and the next file would have the same one.
    descriptor = os.memfd_create("rebasin-assignment")
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(content)
        return ctypes.CDLL(f"/proc/self/fd/{descriptor}")
    except OSError:
        os.close(descriptor)
        raise


def _typed(function: Any) -> Any:  # ruff: ignore[any-type] - a foreign function
    integer, pointer = ctypes.c_int, ctypes.c_void_p
    function.argtypes = [integer, integer, pointer, pointer, integer, pointer, pointer]
    function.restype = integer
    return function


def _is_right(function: Any, real: Real) -> bool:  # ruff: ignore[any-type] - a foreign function
    """Return whether a kernel exchanges two rows for which that is best."""
    number = ctypes.c_float if real == "float" else ctypes.c_double
    gain = (number * 4)(1.0, 5.0, 3.0, 2.0)
    price = (ctypes.c_double * 2)()
    columns = (ctypes.c_int * 2)(-1, -1)
    gap = (ctypes.c_double * 1)(1.0)
    return function(1, 2, gain, price, 0, columns, gap) == 0 and list(columns) == [1, 0] and gap[0] == 0


def _symbol(real: Real) -> str:
    return f"rebasin_assignment_{real}"


def _processor() -> str:
    """Return what tells processors apart, so that a shared home folder serves each with its own instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.processor()} {platform.node()}"
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
