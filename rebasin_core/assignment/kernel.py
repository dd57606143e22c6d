"""The compiled assignment kernel: built with the machine's C compiler on first use, and cached."""

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
# With all vector instructions of this machine, or without if its compiler does not support the option.
_FLAGS: tuple[tuple[str, ...], ...] = (("-O3", "-march=native"), ("-O3",))
# Time limit of the compiler, in seconds.
_SECONDS = 120


class KernelUnavailableError(Exception):
    """The kernel cannot be built or loaded on this machine; the message has the reason."""


@final
@dataclass(frozen=True, slots=True)
class Kernel:
    """The loaded kernel.

    Attributes:
        functions: The function ``rebasin_assignment`` of ``assignment.c``, for float and for double.
        origin: Origin of the kernel, for messages.
    """

    functions: dict[Real, Any]
    origin: str


def load_kernel() -> Kernel:
    """Return the kernel: a cached one that works, or one that is built now. Loaded once per process.

    Returns:
        The kernel.

    Raises:
        KernelUnavailableError: If there is no compiler, it fails, the library cannot be loaded, or
            ``REBASIN_COMPILE=0`` is set.
    """
    found = _found()
    if isinstance(found, str):
        raise KernelUnavailableError(found)
    return found


@functools.cache
def _found() -> Kernel | str:
    """Return the kernel, or the reason why there is none."""
    if is_turned_off():
        return "compiling is turned off by REBASIN_COMPILE=0"
    source = resources.files(__package__).joinpath("assignment.c").read_bytes()
    key = _key(source)
    folder = user_folder()
    for path, content in kept_libraries(folder, key) if folder else []:
        try:
            return Kernel(_functions(content), f"read from {path}")
        except (OSError, AttributeError):  # complete, but built for another machine, for example
            path.unlink(missing_ok=True)
    try:
        content = _built(source)
        functions = _functions(content)
    except (KernelUnavailableError, OSError, AttributeError) as error:
        return str(error)
    kept = folder and keep_library(folder, key, content)
    storage = f"kept as {kept}" if kept else "not kept, since the user's cache folder cannot be used"
    return Kernel(functions, f"built by this process, and {storage}")


def is_turned_off() -> bool:
    """Return whether the user has turned off compilation.

    Returns:
        Whether ``REBASIN_COMPILE=0`` is set.
    """
    return os.environ.get("REBASIN_COMPILE", "1") == "0"


def forget_kernel() -> None:
    """Forget the loaded kernel; the next `load_kernel` searches the cache again."""
    _found.cache_clear()


def _key(source: bytes) -> str:
    """Return a hash of the source, the options and the machine.

    The compiler is not included, since a cached library can also be used on a machine without a compiler.
    """
    machine = (_FLAGS, platform.machine(), ctypes.sizeof(ctypes.c_void_p), platform.libc_ver(), _processor())
    return hashlib.sha256(repr(machine).encode() + source).hexdigest()[:20]


def _built(source: bytes) -> bytes:
    """Return the library for both precisions, as bytes."""
    compiler = next(filter(None, map(shutil.which, [os.environ.get("CC") or "cc", "gcc", "clang"])), None)
    if compiler is None:
        message = "no C compiler was found (CC, cc, gcc, clang)"
        raise KernelUnavailableError(message)
    reason = ""
    for flags in _FLAGS:
        try:
            return _compiled([compiler, *flags, "-std=c99", "-shared", "-fPIC"], source)
        except (OSError, subprocess.SubprocessError) as error:
            reason = getattr(error, "stderr", None) or str(error)
    message = f"{compiler} could not build the kernel: {reason.strip()[:300]}"
    raise KernelUnavailableError(message)


def _compiled(command: Sequence[str], source: bytes) -> bytes:
    with tempfile.TemporaryDirectory(prefix="rebasin-") as temporary:
        folder = Path(temporary)
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
            cwd=temporary,
        )
        return folder.joinpath("assignment.so").read_bytes()


def _functions(content: bytes) -> dict[Real, Any]:
    """Return the kernel's functions, after a test on a small problem."""
    library = _opened(content)
    functions = {real: _typed(getattr(library, _symbol(real))) for real in _REALS}
    for real, function in functions.items():
        if not _is_correct(function, real):
            message = "the kernel returned a wrong result for a test problem; check the compiler and its options"
            raise OSError(message)
    return functions


def _opened(content: bytes) -> ctypes.CDLL:
    """Return a library loaded from its bytes.

    Linux loads it from memory, because the process would crash if the file was truncated or replaced later, and because
    the file system may forbid execution. Other systems load it from a temporary file.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            return _opened_in_memory(content)
    with tempfile.TemporaryDirectory(prefix="rebasin-", ignore_cleanup_errors=True) as temporary:
        path = Path(temporary, "assignment.so")
        path.write_bytes(content)
        return ctypes.CDLL(str(path))


def _opened_in_memory(content: bytes) -> ctypes.CDLL:
    # The file stays open: the loader identifies libraries by path, and the next descriptor would reuse this number.
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


def _is_correct(function: Any, real: Real) -> bool:  # ruff: ignore[any-type] - a foreign function
    """Return whether a kernel solves a problem of two rows."""
    number = ctypes.c_float if real == "float" else ctypes.c_double
    value = (number * 4)(1.0, 5.0, 3.0, 2.0)
    price = (ctypes.c_double * 2)()
    columns = (ctypes.c_int * 2)(-1, -1)
    gap = (ctypes.c_double * 1)(1.0)
    return function(1, 2, value, price, 0, columns, gap) == 0 and list(columns) == [1, 0] and gap[0] == 0


def _symbol(real: Real) -> str:
    return f"rebasin_assignment_{real}"


def _processor() -> str:
    """Return the processor's features, by which the libraries of machines with a shared home folder differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.processor()} {platform.node()}"
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
