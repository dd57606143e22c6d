"""Source distributions and wheels of the package and of all plugins: built, complete, bounded, installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Mapping
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PLUGINS = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))
PROJECTS = {project.name if project != ROOT else "rebasin-core": project for project in (ROOT, *PLUGINS)}
# Not needed to build a project.
UNUSED = ("build", "dist", "docs", "plugins", "site", "tests", ".*", "*.egg-info", "__pycache__")
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]


def finished(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "REBASIN_PLUGINS"}}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def called(*command: str, cwd: Path) -> str:
    done = finished(*command, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def built(project: Path, folder: Path) -> Path:
    """Build a source distribution from the project, and a wheel from that."""
    copied = shutil.copytree(project, folder / "project", ignore=shutil.ignore_patterns(*UNUSED))
    name = called(sys.executable, "-c", BUILD, "build_sdist", str(folder), cwd=copied).split()[-1]
    with tarfile.open(folder / name) as archive:
        archive.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    return folder / called(sys.executable, "-c", BUILD, "build_wheel", str(folder), cwd=source).split()[-1]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return {name: built(project, tmp_path_factory.mktemp(name)) for name, project in PROJECTS.items()}


def required(wheel: Path) -> list[Requirement]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    return [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]


def test_wheels_contain_all_files_of_the_package(wheels: Mapping[str, Path]) -> None:
    for name, project in PROJECTS.items():
        package = project / name.replace("-", "_")
        expected = {
            path.relative_to(project).as_posix()
            for path in package.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        with zipfile.ZipFile(wheels[name]) as archive:
            found = {entry for entry in archive.namelist() if ".dist-info/" not in entry}
        assert found == expected, name
        assert f"{package.name}/py.typed" in found


def test_plugins_accept_this_version_of_the_core_and_not_the_next_minor_version(wheels: Mapping[str, Path]) -> None:
    version = Version(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])
    following = Version(f"{version.major}.{version.minor + 1}.0")
    for name in set(PROJECTS) - {"rebasin-core"}:
        (core,) = (requirement for requirement in required(wheels[name]) if requirement.name == "rebasin-core")
        assert core.specifier.contains(version), name
        assert not core.specifier.contains(following), name


def test_the_extra_all_has_every_other_extra_for_users(wheels: Mapping[str, Path]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = set(extras) - {"all", "docs", "dev"}
    own = [each for each in required(wheels["rebasin-core"]) if each.name == "rebasin-core"]
    assert [each.extras for each in own if "all" in str(each.marker)] == [names]


def test_installed_wheels_run_and_register_their_plugins(wheels: Mapping[str, Path], tmp_path: Path) -> None:
    called(sys.executable, "-m", "venv", "--without-pip", "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(called(str(python), "-c", where, cwd=tmp_path).strip())
    called(
        sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index",
        *(str(wheel) for wheel in wheels.values()), cwd=tmp_path,
    )  # fmt: skip
    # Dependencies are those of this environment; its paths follow that of the wheels.
    standard = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    paths = [path for path in sys.path if Path(path).is_dir() and path not in standard and Path(path) != ROOT]
    (site / "dependencies.pth").write_text("\n".join(path for path in paths if "lib-dynload" not in path))
    where = called(str(python), "-c", "import rebasin_core; print(rebasin_core.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(tmp_path)
    command = str(tmp_path / "env" / "bin" / "rebasin")
    assert called(command, "--version", cwd=tmp_path) == "rebasin, version 0.1.0\n"
    called(command, "new", "run.yaml", cwd=tmp_path)
    assert (tmp_path / "run.yaml").is_file()
    # Plugins whose library is not installed are listed with an error.
    listed = finished(command, "plugins", cwd=tmp_path).stdout
    assert not [name for name in PROJECTS if f"{name} 0.1.0" not in listed], listed
