"""A virtual environment with installed distributions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "plugins" / "rebasin-example"
DISTRIBUTIONS = Path(__file__).parent / "distributions"


@dataclass(frozen=True)
class Environment:
    """A virtual environment with its own rebasin-core and the third-party libraries of the current environment.

    Attributes:
        python: Its interpreter.
        folder: The folder in which commands run.
    """

    python: Path
    folder: Path

    def run(self, *arguments: str, plugins: str = "all") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "REBASIN_PLUGINS": plugins}
        return subprocess.run(
            [str(self.python), "-W", "default", *arguments],
            capture_output=True, text=True, check=False, timeout=250, env=environment, cwd=self.folder,
        )  # fmt: skip


def create(folder: Path, sources: list[Path]) -> None:
    """Create a virtual environment, and install distributions from their source folders."""
    venv.create(folder, with_pip=False)
    site = next((folder / "lib").glob("python*/site-packages"))
    # Torch is too large to install again: the packages of the current environment are appended to the path.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    # Build from copies, because building writes files into the source folder.
    copies = []
    for source in sources:
        copy = folder / "sources" / source.name
        ignore = shutil.ignore_patterns("build", "*.egg-info", "__pycache__", ".git", "tests", "site", "docs", ".*")
        shutil.copytree(source, copy, ignore=ignore)
        copies.append(str(copy))
    command = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--ignore-installed"]
    subprocess.run([*command, *options, *copies], check=True, capture_output=True, timeout=250)
