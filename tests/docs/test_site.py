"""The built pages show the contents of their sources.

``mkdocs build --strict --site-dir DIR`` builds them; the environment variable ``REBASIN_SITE`` names that folder. The
script ``.ci/run`` does both.
"""

from __future__ import annotations

import inspect
import json
import os
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import final
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from typing_extensions import override

from tests.docs.test_pages import ENTRIES, ROOT

if "REBASIN_SITE" not in os.environ:
    pytest.skip("REBASIN_SITE names no folder with the built pages", allow_module_level=True)
SITE = Path(os.environ["REBASIN_SITE"]).resolve()
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


@final
class Page(HTMLParser):
    """One built page.

    Attributes:
        ids: Anchors.
        links: Targets of links and images.
        prose: The text outside code and scripts.
        code: The text of code.
        names: The types in signatures that are not links: module and name.
        modules: The headings that show modules.
        open: The tags and classes of the elements around the current position.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.ids: list[str] = []
        self.links: list[str] = []
        self.prose = ""
        self.code = ""
        self.names: list[str] = []
        self.modules: list[str] = []
        self.nested_quotes = 0
        self.open: list[tuple[str, str]] = []
        self.feed(path.read_text(encoding="utf-8"))

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given[name] for name in ("href", "src") if name in given]
        if tag == "span" and "." in given.get("title", "") and self._is_in("doc-signature"):
            self.names.append(given["title"])
        self.nested_quotes += tag == "blockquote" and any(name == "blockquote" for name, _ in self.open)
        if tag not in VOID:
            self.open.append((tag, given.get("class", "")))

    @override
    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop()[0] != tag:
            pass

    @override
    def handle_data(self, data: str) -> None:
        tags = {tag for tag, _ in self.open}
        if tags & {"code", "pre"}:
            self.code += data
        elif not tags & {"script", "style", "math"}:
            self.prose += data
        if self._is_in("doc-module-name"):
            self.modules.append(data)

    def _is_in(self, css_class: str) -> bool:
        return any(css_class in classes.split() for _, classes in self.open)


PAGES = {path.relative_to(SITE).as_posix(): Page(path) for path in SITE.rglob("*.html") if path.name != "404.html"}
API = [page for name, page in PAGES.items() if name.startswith("api/")]
ANCHORS = {anchor for page in API for anchor in page.ids}


def test_examples_in_docstrings_are_code() -> None:
    code = "".join(page.code for page in API)
    examples = [
        re.findall(r"^ *(>>> .*?)(?: *#.*)?$", inspect.getdoc(value) or "", re.MULTILINE) for value in ENTRIES.values()
    ]
    assert any(examples)
    assert not [lines[0] for lines in examples if lines and lines[0] not in code]
    assert not [name for name, page in PAGES.items() if ">>>" in page.prose or page.nested_quotes]


def test_methods_that_authors_write_are_on_the_pages() -> None:
    missing = [
        f"{entry}.{name}"
        for entry, value in ENTRIES.items()
        if inspect.isclass(value)
        for name in {*vars(value)} & {*getattr(value, "__abstractmethods__", ())}
        if f"{entry}.{name}" not in ANCHORS or not inspect.getdoc(getattr(value, name))
    ]
    assert not missing


def test_types_in_signatures_are_links() -> None:
    explained = ("rebasin_core.", "torch.Tensor", "torch.nn.Module", "torch.Generator", "pydantic.Positive")
    names = {name for page in API for name in page.names if name.startswith(explained) and "(" not in name}
    # Type variables without a bound stand for any type.
    assert not [name for name in names if len(name.rpartition(".")[2]) > 1]


def test_modules_are_shown_only_where_modules_are_meant() -> None:
    assert not [name for page in API for name in page.modules if not inspect.ismodule(ENTRIES[name])]


def test_no_markup_is_left_in_the_text() -> None:
    markup = re.compile(r":::|```|\]\[|\]\(|\\\(|\\\[|\$\$|\*\*|\{ ?[#:.]")
    assert not [(name, found[0]) for name, page in PAGES.items() if (found := markup.search(page.prose))]


def test_links_and_anchors_resolve() -> None:
    broken = []
    for name, page in PAGES.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
            target = target / "index.html" if target.is_dir() else target
            found = PAGES.get(target.relative_to(SITE).as_posix())
            if not target.exists() or (parts.fragment and found and unquote(parts.fragment) not in found.ids):
                broken.append(f"{name}: {link}")
    assert not broken


def test_every_page_is_in_the_navigation_under_a_name_of_its_own() -> None:
    home = PAGES["index.html"]
    reached = {(SITE / urlsplit(link).path).resolve() for link in home.links if not urlsplit(link).netloc}
    assert not [name for name, page in PAGES.items() if page.path.parent not in reached]

    def named(entry: object) -> list[str]:
        if isinstance(entry, dict):
            return [name for key, value in entry.items() for name in [key, *named(value)]]
        return [name for value in entry for name in named(value)] if isinstance(entry, list) else []

    names = Counter(named(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    assert not [name for name, count in names.items() if count > 1]


def test_tutorials_have_executed_notebooks() -> None:
    names = [page.stem for page in (ROOT / "docs" / "tutorials").glob("*.md") if page.stem != "index"]
    assert len(names) >= 8
    for name in names:
        assert f"{name}.ipynb" in "".join(PAGES[f"tutorials/{name}/index.html"].links)
        notebook = json.loads((SITE / "tutorials" / f"{name}.ipynb").read_text(encoding="utf-8"))
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        assert all(cell["execution_count"] for cell in code)
        assert any("image/svg+xml" in output.get("data", {}) for cell in code for output in cell["outputs"])


def test_all_figures_are_in_the_gallery() -> None:
    def figures(page: Page) -> set[str]:
        return {link.rpartition("/")[2] for link in page.links if re.search(r"\.(svg|png)(#only-\w+)?$", link)}

    drawn = set[str]().union(*(figures(page) for name, page in PAGES.items() if not name.startswith("gallery/")))
    assert len(drawn) > 20
    assert drawn <= figures(PAGES["gallery/index.html"]) | {"favicon.png"}


def test_formulas_use_letters_that_browsers_draw() -> None:
    texts = {name: page.path.read_text(encoding="utf-8") for name, page in PAGES.items()}
    assert not [name for name, text in texts.items() if re.search(r'mathvariant="(?!normal)', text)]
    # Wide formulas scroll in an element around them.
    assert not [name for name, text in texts.items() if re.search(r'(?<!<div class="formula">)<math[^>]*block', text)]


@pytest.mark.parametrize(
    ("term", "page"),
    [
        ("linear mode connectivity", "concepts/"),
        ("midpoint", "concepts/"),
        ("merge two models", "barriers/"),
        ("laplace", "posteriors/"),
        ("elbo", "api/inference/"),
        ("plugin", "extending/"),
        ("loss landscape", "api/merging/"),
    ],
)
def test_a_heading_has_the_words_that_readers_search_for(term: str, page: str) -> None:
    # The search ranks matches in headings first.
    index = json.loads((SITE / "search" / "search_index.json").read_text(encoding="utf-8"))
    titles = [entry["title"].lower() for entry in index["docs"] if entry["location"].partition("#")[0] == page]
    assert any(all(word in title for word in term.split()) for title in titles)
