"""The pages are true: their code runs, every public name and option is in them."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest
from matplotlib import pyplot as plt
from sybil import Document, Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

import rebasin_core
from rebasin_core import Registry, RunConfig, StudyConfig, api, config, evaluation, plugin, studies, testing
from rebasin_core.config import PosteriorSource
from rebasin_core.plugin.hookspecs import HOOKS
from rebasin_core.plugin.registry import FAMILIES
from rebasin_core.strategy import Options
from rebasin_core.studies import results, store

ROOT = Path(__file__).parents[2]
WITH_COMMANDS = ROOT / "docs" / "checkpoints.md"  # run by `test_checkpoints_page.py`
LONG = {"batch-normalization", "transformer"}  # tutorials, which the build of the site executes, too
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])
TEXT = {page: page.read_text(encoding="utf-8") for page in PAGES}
API = "\n".join(text for page, text in TEXT.items() if page.parent.name == "api")
PUBLIC = [
    rebasin_core,
    *(value for name in rebasin_core.__all__ if inspect.ismodule(value := getattr(rebasin_core, name))),
    *(api, config, evaluation, plugin, results, studies, store, testing),
]


def resolved(path: str) -> object:
    """Return the object of an entry such as ``rebasin_core.matchers.WeightMatcher``."""
    value: object = rebasin_core
    for depth, name in enumerate(path.split(".")[1:], start=2):
        value = getattr(value, name, None) or importlib.import_module(".".join(path.split(".")[:depth]))
    return value


ENTRIES = {path: resolved(path) for path in re.findall(r"^::: (\S+)$", API, re.MULTILINE)}


def top_name(value: object) -> str | None:
    """Return the name of a value at the top, if it has one."""
    names = [name for name in rebasin_core.__all__ if getattr(rebasin_core, name) is value]
    return f"rebasin_core.{names[0]}" if names else None


def is_documented_kind(value: object, module: ModuleType) -> bool:
    """Whether a value is a class or a function of this project; type aliases are explained where they are used."""
    is_own = getattr(value, "__module__", "").startswith("rebasin_core")
    # The errors have no `__all__`: all classes of the module are public.
    return is_own and (inspect.isclass(value) or (hasattr(module, "__all__") and inspect.isroutine(value)))


@pytest.mark.filterwarnings("ignore::rebasin_core.errors.AlignmentWarning")  # which a tutorial shows
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.nightly if page.stem in LONG else ())
        for page in PAGES
        if "```python" in TEXT[page] and page != WITH_COMMANDS
    ],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # files that a page writes are removed
    blocks = list(Document.parse(str(page), *Sybil(parsers=[PythonCodeBlockParser()]).parsers))
    assert blocks
    plt.switch_backend("agg")
    for block in blocks:
        block.evaluate()
    plt.close("all")


def test_every_entry_of_the_api_pages_exists_under_its_shortest_name() -> None:
    assert not [entry for entry, value in ENTRIES.items() if top_name(value) not in {None, entry}]


def test_every_public_name_is_in_the_api_pages() -> None:
    documented = {id(value) for value in ENTRIES.values()}
    missing = [
        f"{module.__name__}.{name}"
        for module in PUBLIC
        for name in getattr(module, "__all__", vars(module))
        if is_documented_kind(getattr(module, name), module) and id(getattr(module, name)) not in documented
    ]
    assert not missing


def test_every_registered_strategy_is_in_the_api_pages() -> None:
    documented = {id(value) for value in ENTRIES.values()}
    missing = [entry.kind.__name__ for entry in Registry(external=False).all() if id(entry.kind) not in documented]
    assert not missing


def test_examples_are_in_a_section_that_the_pages_show() -> None:
    # The parser of docstrings does not know `Example:`, and would show code as prose.
    sources = [*(ROOT / "rebasin_core").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
    assert not [path for path in sources if re.search(r"^\s+Example:$", path.read_text(encoding="utf-8"), re.MULTILINE)]


def test_every_option_is_described() -> None:
    kinds: list[type[Options]] = [e.kind for e in Registry(external=False).all() if e.family in FAMILIES]
    kinds += [RunConfig, StudyConfig, PosteriorSource]
    for kind in kinds:
        blank = {*kind.model_fields} - {"name", *kind.descriptions()}
        assert not blank, f"{kind.__name__}: {blank}"


def test_every_hook_is_explained() -> None:
    text = TEXT[ROOT / "docs" / "extending" / "index.md"]
    assert not [hook for hook in HOOKS.values() if f"`{hook}`" not in text]


def test_run_files_and_study_files_in_the_pages_are_valid(tmp_path: Path, builtin_registry: Registry) -> None:
    block = re.search(r"```yaml\n(.*?)```", TEXT[ROOT / "docs" / "run-files.md"], re.DOTALL)
    assert block
    (tmp_path / "run.yaml").write_text(block[1])
    rebasin_core.load_run(tmp_path / "run.yaml", registry=builtin_registry)
    for path in sorted((ROOT / "docs").rglob("*.yaml")):
        is_study = re.search(r"^base:", path.read_text(encoding="utf-8"), re.MULTILINE)
        if is_study:
            rebasin_core.load_study(path, registry=builtin_registry).cells()
        else:
            rebasin_core.load_run(path, registry=builtin_registry)
