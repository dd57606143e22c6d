"""The pages say what is so: their code runs, every public name and option is in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel
from sybil import Document, Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

import rebasin_core
from rebasin_core import Registry, RunConfig
from rebasin_core.config import PosteriorSource
from rebasin_core.plugin.hookspecs import HOOKS
from rebasin_core.plugin.registry import FAMILIES

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])
TEXT = {page: page.read_text(encoding="utf-8") for page in PAGES}
API = "\n".join(text for page, text in TEXT.items() if page.parent.name == "api")


@pytest.mark.parametrize("page", [p for p in PAGES if "```python" in TEXT[p]], ids=lambda p: str(p.relative_to(ROOT)))
def test_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # what a page writes shall not stay
    blocks = list(Document.parse(str(page), *Sybil(parsers=[PythonCodeBlockParser()]).parsers))
    assert blocks
    for block in blocks:
        block.evaluate()


def test_every_public_name_is_in_the_api_pages() -> None:
    # Type aliases and the hook marker are explained where they are used.
    elsewhere = {"Axis", "Channels", "hookimpl"}
    missing = [n for n in rebasin_core.__all__ if n not in elsewhere and f"::: rebasin_core.{n}\n" not in API + "\n"]
    assert not missing


def test_every_registered_strategy_is_in_the_api_pages() -> None:
    missing = [e.kind.__name__ for e in Registry(external=False).all() if not re.search(rf"\.{e.kind.__name__}\b", API)]
    assert not missing


def test_every_option_is_described() -> None:
    kinds: list[type[BaseModel]] = [e.kind for e in Registry(external=False).all() if e.family in FAMILIES]
    kinds += [RunConfig, PosteriorSource]
    for kind in kinds:
        blank = [name for name, field in kind.model_fields.items() if name != "name" and not field.description]
        assert not blank, f"{kind.__name__}: {blank}"


def test_every_hook_is_explained() -> None:
    text = TEXT[ROOT / "docs" / "extending" / "index.md"]
    assert not [hook for hook in HOOKS.values() if f"`{hook}`" not in text]


def test_run_files_in_the_pages_are_valid(tmp_path: Path, builtin_registry: Registry) -> None:
    block = re.search(r"```yaml\n(.*?)```", TEXT[ROOT / "docs" / "run-files.md"], re.DOTALL)
    assert block
    (tmp_path / "run.yaml").write_text(block[1])
    rebasin_core.load_run(tmp_path / "run.yaml", registry=builtin_registry)
    for path in sorted((ROOT / "docs").rglob("*.yaml")):
        rebasin_core.load_run(path, registry=builtin_registry)
