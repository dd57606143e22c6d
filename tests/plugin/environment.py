"""Virtual environments with installed distributions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = Path(__file__).parent / "distributions"


class Environment:
    """A virtual environment with its own rebasin-core and the third-party libraries of the current environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder, with_pip=False)
        self.bin = folder / "bin"
        site = next((folder / "lib").glob("python*/site-packages"))
        # Torch is too large to install again: the packages of the current environment are appended to the path.
        (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def install(self, *sources: Path) -> None:
        # Build from copies, because building writes files into the source folder.
        copies = []
        for source in sources:
            copy = self.folder / "sources" / source.name
            ignore = shutil.ignore_patterns("build", "*.egg-info", "__pycache__", ".git", "tests", "site", "docs", ".*")
            shutil.copytree(source, copy, ignore=ignore)
            copies.append(str(copy))
        command = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install", "--quiet"]
        options = ["--no-deps", "--no-build-isolation", "--no-index", "--ignore-installed"]
        subprocess.run([*command, *options, *copies], check=True, capture_output=True, timeout=250)

    def run(self, *arguments: str, plugins: str = "all") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "REBASIN_PLUGINS": plugins}
        return subprocess.run(
            [str(self.bin / "python"), "-W", "default", *arguments],
            capture_output=True, text=True, check=False, timeout=250, env=environment, cwd=self.folder,
        )  # fmt: skip
