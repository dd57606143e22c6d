"""Help, the version and completion in shells need none of the libraries that compute."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HELP = """
import sys
from click import Group
from click.testing import CliRunner
from rebasin_core.cli.main import cli

def names(command, path=()):
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from names(child, (*path, name))

for path in names(cli):
    found = CliRunner().invoke(cli, [*path, "--help"], prog_name="rebasin")
    assert found.exit_code == 0, found.output
    print(found.output.splitlines()[0])
print("imported:", *sys.modules)
"""
HEAVY = {"torch", "numpy", "scipy", "pydantic", "pluggy", "yaml", "rebasin_core.strategy"}


def test_help_of_every_command_imports_no_library_that_computes() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    *usages, modules = done.stdout.splitlines()
    assert {"Usage: rebasin align [OPTIONS] REFERENCE CANDIDATE", "Usage: rebasin store gc [OPTIONS] [ADDRESS]"} <= set(
        usages
    )
    assert len(usages) > 20
    assert "rebasin_core.cli.main" in modules.split()
    assert not HEAVY & set(modules.split())


def completed(words: str, cwd: Path, instruction: str = "bash_complete") -> subprocess.CompletedProcess[str]:
    """Complete the last of some words, as the script of the shell does."""
    variables = {"_REBASIN_COMPLETE": instruction, "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    command = [sys.executable, "-c", "from rebasin_core.cli import main\nmain()"]
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **variables}, capture_output=True, text=True, check=False, timeout=100
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("rebasin al", "plain,align\n"),
        ("rebasin store v", "plain,verify\n"),
        ("rebasin align --ma", "plain,--matcher\nplain,--max-shard\n"),
        ("rebasin merge --repair re", "plain,reset\nplain,repair\n"),
    ],
)
def test_shells_complete_commands_options_and_choices(tmp_path: Path, words: str, expected: str) -> None:
    done = completed(words, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


def test_the_script_for_a_shell_is_printed(tmp_path: Path) -> None:
    done = completed("", tmp_path, "bash_source")
    assert (done.returncode, done.stderr) == (0, "")
    assert "_REBASIN_COMPLETE=bash_complete" in done.stdout
    assert completed("", tmp_path, "no_such_shell").returncode == 1


def test_the_address_of_a_store_is_the_argument_or_the_environment_variable(tmp_path: Path) -> None:
    def listed(*arguments: str, **variables: str) -> str:
        command = [sys.executable, "-m", "rebasin_core", "store", "ls", *arguments]
        environment = {name: value for name, value in os.environ.items() if name != "REBASIN_STORE"} | variables
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        return done.stderr

    assert "no store at 'rebasin-store'" in listed()
    assert "no store at 'elsewhere'" in listed(REBASIN_STORE="elsewhere")
    assert "no store at 'given'" in listed("given", REBASIN_STORE="elsewhere")
