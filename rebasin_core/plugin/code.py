"""Digests of the source code of packages, which identify the results of their code."""

from __future__ import annotations

import hashlib
import inspect
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@cache
def code_of_package(package: str, number: str) -> str:
    """Return the version of a package and a digest of its source files, which detects changes between versions.

    Args:
        package: Name of a top-level module.
        number: Version of the distribution.

    Returns:
        Text of the form ``1.2.3+0123456789ab``; only the version if there are no source files.
    """
    found = hashlib.sha256()
    count = 0
    for name, path in _sources(package):
        found.update(repr((name, hashlib.sha256(path.read_bytes()).hexdigest())).encode())
        count += 1
    return f"{number}+{found.hexdigest()[:12]}" if count else number


def _sources(package: str) -> Iterator[tuple[str, Path]]:
    """Yield the source files of a package in a fixed order, with their names relative to it."""
    module = sys.modules.get(package)
    try:
        path = Path(inspect.getsourcefile(module) or "") if module is not None else Path()
    except TypeError:  # a built-in module, or the module of an interactive session
        return
    if path.name == "__init__.py":
        for file in sorted(path.parent.rglob("*.py")):
            yield file.relative_to(path.parent).as_posix(), file
    elif path.is_file():
        yield path.name, path
