"""The page on checkpoints: its code and its commands run, in their order, and print the texts of the page."""

from __future__ import annotations

import re
import shlex
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

import rebasin_core as rc
from rebasin_core.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "checkpoints.md"
BLOCK = re.compile(
    r'^(?P<skipped><!-- not run: .*? -->\n)?```(?P<language>\w+)(?: title="(?P<file>[^"]+)")?\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[-+]\d+)?")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        language: Its language.
        text: Its lines.
        file: The file that it is, if it has a title.
        is_run: Whether the page states no reason for not running it.
    """

    language: str
    text: str
    file: str | None
    is_run: bool


def blocks() -> list[Block]:
    found = BLOCK.finditer(PAGE.read_text(encoding="utf-8"))
    return [Block(each["language"], each["text"], each["file"], each["skipped"] is None) for each in found]


def assert_same_text(found: str, expected: str) -> None:
    """Words are equal, and numbers nearly: their last digits differ between processors."""
    assert [NUMBER.sub("#", line).split() for line in found.splitlines() if line] == [
        NUMBER.sub("#", line).split() for line in expected.splitlines() if line
    ]
    for number, stated in zip(NUMBER.findall(found), NUMBER.findall(expected), strict=True):
        is_rounding_error = "e" in stated
        assert is_rounding_error or float(number) == pytest.approx(float(stated), rel=0.05, abs=0.02)


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command in this process."""
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, command


@pytest.mark.timeout(300)
def test_code_and_commands_print_the_texts_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # the command replaces it
    monkeypatch.setenv("COLUMNS", "200")
    namespace: dict[str, object] = {}
    printed = ""
    for block in blocks():
        if block.file is not None:
            Path(block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.text, str(PAGE), "exec"), namespace)
            printed = capfd.readouterr().out
        elif block.language == "console" and block.is_run:
            lines = block.text.replace("\\\n", "").splitlines()
            for line in lines:
                if line.startswith("$ "):
                    run(line[2:], monkeypatch)
            printed = capfd.readouterr().out
            texts = [line for line in lines if not line.startswith("$ ")]
            assert_same_text(printed, "\n".join(texts))
        elif block.language == "text" and block.is_run:
            assert printed
            assert_same_text(printed, block.text)


def test_the_recipe_of_the_page_is_valid(tmp_path: Path) -> None:
    (recipe,) = [block for block in blocks() if block.language == "yaml"]
    (tmp_path / "merge.yaml").write_text(recipe.text, encoding="utf-8")
    found = rc.api.checkpoints.load_recipe(tmp_path / "merge.yaml")
    assert found.output == tmp_path / "from_recipe.safetensors"
