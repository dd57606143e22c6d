"""The compiled assignment kernel: built with the machine's C compiler on first use, and kept."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess  # ruff: ignore[suspicious-subprocess-import] - runs the user's C compiler on our source
import tempfile
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

Real: TypeAlias = Literal["float", "double"]

# The machine's own vector instructions, and without them if its compiler does not know the option.
_FLAGS: tuple[tuple[str, ...], ...] = (("-O3", "-march=native"), ("-O3",))
_SECONDS = 120
_PRIVATE = 0o700


class KernelUnavailableError(Exception):
    """The kernel cannot be built here; says why."""


@functools.cache
def load_kernel(real: Real) -> Any:  # ruff: ignore[any-type] - a foreign function
    """Return the kernel for matrices of single or double precision.

    Args:
        real: The C type.

    Returns:
        The function ``rebasin_assignment`` of ``assignment.c``.

    Raises:
        KernelUnavailableError: If there is no compiler, it fails, or ``REBASIN_COMPILE=0`` is set.
    """
    if os.environ.get("REBASIN_COMPILE", "1") == "0":
        message = "compiling is turned off by REBASIN_COMPILE=0"
        raise KernelUnavailableError(message)
    compiler = next(filter(None, map(shutil.which, [os.environ.get("CC") or "cc", "gcc", "clang"])), None)
    if compiler is None:
        message = "no C compiler was found (CC, cc, gcc, clang)"
        raise KernelUnavailableError(message)
    source = resources.files(__package__).joinpath("assignment.c").read_bytes()
    problem = ""
    for flags in _FLAGS:
        command = [compiler, *flags, "-std=c99", "-shared", "-fPIC", f"-DREAL={real}"]
        try:
            return _typed(ctypes.CDLL(str(_built(command, source))))
        except (OSError, subprocess.SubprocessError) as error:
            problem = getattr(error, "stderr", None) or str(error)
    message = f"{compiler} could not build the kernel: {problem.strip()[:300]}"
    raise KernelUnavailableError(message)


def _typed(library: ctypes.CDLL) -> Any:  # ruff: ignore[any-type] - a foreign function
    function = library.rebasin_assignment
    integer, pointer = ctypes.c_int, ctypes.c_void_p
    function.argtypes = [integer, integer, pointer, pointer, integer, pointer, pointer]
    function.restype = integer
    return function


def _built(command: Sequence[str], source: bytes) -> Path:
    """Return the library, from the folder of earlier ones if it is there."""
    key = hashlib.sha256(repr((command, _processor())).encode() + source).hexdigest()[:20]
    folder = _folder()
    path = folder / f"assignment-{key}.so"
    if not path.is_file():
        with tempfile.TemporaryDirectory(dir=folder) as room:
            written = Path(room, "assignment.c")
            built = Path(room, path.name)
            written.write_bytes(source)
            subprocess.run(  # ruff: ignore[subprocess-without-shell-equals-true] - our source, the user's compiler
                [*command, "-o", str(built), str(written)], check=True, capture_output=True, text=True, timeout=_SECONDS
            )
            built.replace(path)
    return path


def _folder() -> Path:
    """Return the user's cache folder; one for this process alone if that cannot be trusted or written."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "rebasin_core"
        folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        mine = not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()
        others = folder.stat().st_mode & 0o022
    except (OSError, RuntimeError):  # also without a home
        return _own_folder()
    return folder if mine and not others and os.access(folder, os.W_OK) else _own_folder()


@functools.cache
def _own_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="rebasin-"))


def _processor() -> str:
    """Return what tells processors apart, so that a shared home folder serves each with its own instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.node()}"
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
