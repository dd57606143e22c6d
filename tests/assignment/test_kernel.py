"""The compiled kernel: its cache, damaged libraries, and messages about the solver in use."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from rebasin_core import assignment
from rebasin_core.assignment import CompiledAssignment, kernel, kernel_cache, which_solver
from rebasin_core.cli.main import cli
from rebasin_core.errors import ConfigError, SlowSolverWarning

pytestmark = pytest.mark.usefixtures("cache")
MATRIX = torch.tensor([[1.0, 2.0], [3.0, 5.0]])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Provide an empty cache folder, and forget the loaded kernel before and after the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("REBASIN_COMPILE", raising=False)
    forget()
    yield tmp_path / "cache" / "rebasin_core"
    forget()


def forget() -> None:
    kernel.forget_kernel()
    which_solver.cache_clear()


def kept(cache: Path) -> Path:
    """Return the only file in the cache."""
    (path,) = cache.iterdir()
    return path


def solves() -> bool:
    single = CompiledAssignment().solve(MATRIX).index.tolist()
    return single == CompiledAssignment().solve(MATRIX.double()).index.tolist() == [0, 1]


# Imports only the kernel's module in a new process, since importing torch takes seconds.
ALONE = """
import importlib.util, sys
for name in ("rebasin_core", "rebasin_core.assignment"):
    folder = f"{sys.argv[1]}/{name.replace('.', '/')}"
    spec = importlib.util.spec_from_file_location(name, f"{folder}/__init__.py", submodule_search_locations=[folder])
    sys.modules[name] = importlib.util.module_from_spec(spec)
from rebasin_core.assignment import kernel
def works():
    return all(kernel._is_correct(function, real) for real, function in kernel.load_kernel().functions.items())
"""
ROOT = str(Path(assignment.__file__).parents[2])


def start(code: str, *prefix: str, **environment: str) -> subprocess.Popen[str]:
    command = [*prefix, sys.executable, "-c", ALONE + code, ROOT]
    return subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> str:
    output = process.communicate()[0].strip()
    assert process.returncode == 0, output
    return output


def test_the_kernel_is_built_once_and_cached(cache: Path) -> None:
    assert solves()
    assert which_solver().reason == f"the kernel was built by this process, and kept as {kept(cache)}"
    before = kept(cache).stat()
    forget()
    assert solves()
    assert which_solver().reason == f"the kernel was read from {kept(cache)}"
    assert kept(cache).stat().st_mtime_ns == before.st_mtime_ns
    assert kept(cache).stat().st_ino == before.st_ino


# In a separate process, since loading a damaged library could crash it.
DAMAGED = """
import os, pathlib
folder = pathlib.Path(os.environ["XDG_CACHE_HOME"], "rebasin_core")
def kept():
    (path,) = folder.glob("assignment-*")
    return path
assert works()
whole, path = kept().read_bytes(), kept()
damages = {
    "truncated": whole[: len(whole) // 2],
    "empty": b"",
    "one byte": whole[:6000] + bytes([whole[6000] ^ 1]) + whole[6001:],
    "other processor": whole[:18] + bytes([243, 0]) + whole[20:],
}
for name, content in damages.items():
    path.write_bytes(content)
    kernel.forget_kernel()
    assert works()
    assert kept().read_bytes() == whole, name
    print(name)
path.write_bytes(b"")  # while it is in use
assert works()
print("in use")
"""


def test_damage_is_detected_before_loading_and_the_kernel_is_built_again() -> None:
    expected = ["truncated", "empty", "one byte", "other processor", "in use"]
    assert ended(start(DAMAGED)).splitlines() == expected


@pytest.mark.parametrize("kind", ["other symbol", "other processor", "wrong results"])
def test_another_library_with_a_valid_hash_is_replaced_by_the_kernel(cache: Path, tmp_path: Path, kind: str) -> None:
    assert solves()
    path = kept(cache)
    content = bytearray(path.read_bytes())
    if kind == "other processor":
        content[18:20] = b"\xf3\x00"
    else:
        source = tmp_path / "other.c"
        symbols = ["float", "double"] if kind == "wrong results" else []
        bodies = (f"int rebasin_assignment_{real}() {{ return 0; }}\n" for real in symbols)
        source.write_text("int something_else;\n" + "".join(bodies), encoding="utf-8")
        library = tmp_path / "other.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
        content[:] = library.read_bytes()
    path.unlink()
    key = path.name.split("-")[1]
    assert kernel_cache.keep_library(cache, key, bytes(content))
    forget()
    assert solves()
    assert "built by this process" in which_solver().reason
    assert kept(cache) == path


def test_a_cached_kernel_needs_no_compiler(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert solves()
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CC", "")
    forget()
    assert solves()
    assert which_solver().reason == f"the kernel was read from {kept(cache)}"


def test_without_a_compiler_scipy_is_used_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.warns(SlowSolverWarning, match=r"no C compiler was found \(CC, cc, gcc, clang\).*REBASIN_COMPILE=0"):
        assert assignment.solve_assignment(MATRIX).tolist() == [0, 1]
    assert assignment.solve_assignment(MATRIX).tolist() == [0, 1]  # a second warning would be an error
    assert str(which_solver()) == "`scipy`: no C compiler was found (CC, cc, gcc, clang)"
    with pytest.raises(ConfigError, match="no C compiler was found"):
        CompiledAssignment()


def test_a_failing_compiler_is_reported_and_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = tmp_path / "calls"
    broken = tmp_path / "broken-cc"
    broken.write_text(f"#!/bin/sh\necho x >> {calls}\necho internal error >&2\nexit 1\n", encoding="utf-8")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    for _ in range(3):
        with pytest.raises(ConfigError, match="internal error"):
            CompiledAssignment()
    assert calls.read_text(encoding="utf-8").split() == ["x"] * len(kernel._FLAGS)


def test_an_invalid_library_of_a_compiler_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tmp_path / "wrong-cc"
    wrong.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho nonsense > "$2"\n', encoding="utf-8")
    wrong.chmod(0o755)
    monkeypatch.setenv("CC", str(wrong))
    with pytest.raises(ConfigError, match="the assignment solver `compiled` is not available"):
        CompiledAssignment()


def test_compiling_can_be_turned_off_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REBASIN_COMPILE", "0")
    assert str(which_solver()) == "`scipy`: compiling is turned off by REBASIN_COMPILE=0"
    with pytest.raises(ConfigError, match="turned off"):
        CompiledAssignment()


@pytest.mark.parametrize("folder", ["a file", "writable by others", "below a file"])
def test_without_a_usable_cache_folder_no_files_remain(
    cache: Path, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if folder == "writable by others":
        cache.mkdir(parents=True)
        cache.chmod(0o777)
    else:
        (cache.parent if folder == "below a file" else tmp_path / "cache").write_text("", encoding="utf-8")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    assert solves()
    assert "not kept" in which_solver().reason
    assert list(temporary.iterdir()) == []
    assert not cache.is_dir() or list(cache.iterdir()) == []


def test_old_kernels_and_unfinished_files_are_removed_when_one_is_built(cache: Path) -> None:
    cache.mkdir(parents=True, mode=0o700)
    days = {"assignment-0123.so": 100, "assignment-4567-89.so": 100, ".assignment-x.part": 1, "notes.txt": 1000}
    young = {"assignment-young.so": 10, ".assignment-y.part": 0}
    for name, age in (days | young).items():
        (cache / name).write_text("", encoding="utf-8")
        os.utime(cache / name, (time.time() - age * 86400,) * 2)
    assert solves()
    assert {path.name for path in cache.iterdir()} - {"notes.txt", *young} == {
        Path(which_solver().reason.split()[-1]).name
    }


def test_loading_a_kernel_updates_its_modification_time(cache: Path) -> None:
    assert solves()
    os.utime(kept(cache), (time.time() - 80 * 86400,) * 2)
    forget()
    assert solves()
    assert time.time() - kept(cache).stat().st_mtime < 100


def test_concurrent_processes_all_load_the_kernel(cache: Path) -> None:
    processes = [start("print(works())") for _ in range(4)]
    assert [ended(process) for process in processes] == ["True"] * 4
    assert [path.suffix for path in cache.iterdir()] == [".so"]


def test_a_file_system_that_forbids_execution_does_not_matter(tmp_path: Path) -> None:
    folder = tmp_path / "noexec"
    folder.mkdir()
    mount = f"mount -t tmpfs -o noexec none {folder}"
    alone = ("unshare", "--mount", "sh", "-c")
    if sys.platform != "linux" or subprocess.run([*alone, mount], check=False, capture_output=True).returncode:
        pytest.skip("mounting a file system is not permitted on this machine")
    code = "print(works(), kernel.load_kernel().origin)"
    process = start(code, *alone, f'{mount} && exec "$@"', "sh", XDG_CACHE_HOME=str(folder), TMPDIR=str(folder))
    assert ended(process).startswith(f"True built by this process, and kept as {folder}/rebasin_core/assignment-")


def test_the_plugins_command_reports_the_default_solver() -> None:
    assert f"assignment solver `auto` is {which_solver()}" in CliRunner().invoke(cli, ["plugins"]).output
