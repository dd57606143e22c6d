"""The tests on every supported version of Python, with the lowest versions of `pyproject.toml`, and the long ones.

    nox -f .ci/noxfile.py                      # all that have an interpreter here; others are named and skipped
    nox -f .ci/noxfile.py -s tests-3.12        # one version
    nox -f .ci/noxfile.py -s lowest            # the lowest versions
    nox -f .ci/noxfile.py -s lowest -- tests/specs -n 2
    nox -f .ci/noxfile.py -s nightly           # the long tests of faults, which no other session runs

Environments are made by uv and kept in `.nox`.
"""

from __future__ import annotations

from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ["3.11", "3.12", "3.13"]
PROJECT = ["-e", ".[dev]", "-e", "plugins/rebasin-example"]
# As pip does it: the sources of POT give warnings of syntax when they are compiled, which would be errors in tests.
COMPILED = ["--compile-bytecode"]

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "uv"
nox.options.error_on_missing_interpreters = False
nox.options.envdir = str(ROOT / ".nox")
nox.options.stop_on_first_error = False
nox.options.download_python = "never"


def run_tests(session: nox.Session) -> None:
    """Run the default tests, or those that are named after ``--``."""
    session.env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    session.run(
        "python", "-c", "import sys, torch; print('Python', sys.version.split()[0], 'torch', torch.__version__)"
    )
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Test with the versions of `constraints.txt`."""
    session.chdir(ROOT)
    session.install("pip", *COMPILED, "-c", "constraints.txt", *PROJECT)
    run_tests(session)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """Test with the lowest versions of all direct dependencies."""
    session.chdir(ROOT)
    session.install("pip>=24", *COMPILED, "--resolution", "lowest-direct", *PROJECT)
    run_tests(session)


@nox.session(python=PYTHONS[0], default=False)
def nightly(session: nox.Session) -> None:
    """Run the long tests of faults, also through Ray and submitit, and those of built distributions."""
    session.chdir(ROOT)
    session.install("pip", *COMPILED, "-c", "constraints.txt", *PROJECT)
    plugins = ["-e", "plugins/rebasin-ray", "-e", "plugins/rebasin-slurm"]
    session.install("--no-deps", *COMPILED, "-r", "plugins/requirements.txt", *plugins)
    # One at a time: the moments of the faults depend on the load of the machine.
    session.run("python", "-m", "pytest", "-m", "nightly", "-n", "0", *session.posargs)
