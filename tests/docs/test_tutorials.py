"""The hook that executes tutorials: captions, color schemes, output and notebooks."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("jupytext")
pytest.importorskip("nbclient")
exceptions = pytest.importorskip("mkdocs.exceptions")

HOOKS = Path(__file__).parents[2] / "docs" / "hooks"
DRAWN = '<svg><path style="stroke: #0072B2"/><g style="fill: #262626"/></svg>'
CAPTION = "*Loss of `a`, see [the page](../page.md). MLP, digits.*\n\nMore text."


def hook(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"hook_{name}", HOOKS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TUTORIALS = hook("tutorials")
GALLERY = hook("gallery")


def cell(source: str, *outputs: Any) -> Any:
    return nbformat.v4.new_code_cell(source, outputs=list(outputs))


def figure() -> Any:
    return nbformat.v4.new_output("display_data", data={"image/svg+xml": DRAWN, "text/plain": "<Figure>"})


def printed(text: str, name: str = "stdout") -> Any:
    return nbformat.v4.new_output("stream", text=text, name=name)


def rendered(*cells: Any) -> tuple[str, dict[str, str]]:
    title = nbformat.v4.new_markdown_cell("# Title\n\nText.")
    text, figures = TUTORIALS._page(nbformat.v4.new_notebook(cells=[title, *cells]), "page")
    return text, figures


def test_a_figure_has_a_version_for_each_scheme_and_the_text_of_its_caption() -> None:
    text, figures = rendered(cell("draw()", figure()), nbformat.v4.new_markdown_cell(CAPTION))
    assert figures.keys() == {"figures/page-1.svg", "figures/page-1-dark.svg"}
    assert "![Loss of a, see the page](figures/page-1.svg#only-light)" in text
    assert "![Loss of a, see the page](figures/page-1-dark.svg#only-dark)" in text
    assert figures["figures/page-1.svg"] == DRAWN
    assert "262626" not in figures["figures/page-1-dark.svg"]
    assert "0072B2" not in figures["figures/page-1-dark.svg"]


@pytest.mark.parametrize("following", ["No caption.", "**Strong** text.", ""])
def test_a_figure_without_a_caption_fails_the_build(following: str) -> None:
    with pytest.raises(exceptions.PluginError, match="expected a caption"):
        rendered(cell("draw()", figure()), nbformat.v4.new_markdown_cell(following))


def test_output_follows_its_code_and_warnings_have_no_paths() -> None:
    warning = "/tmp/123.py:7: MeasurementWarning: too few samples\n  curve = barrier()\n"
    text, _ = rendered(cell("print(1)", printed("1\n"), printed(warning, "stderr")))
    assert "```python\nprint(1)\n```\n\n```{ .text .output }\n1\n```" in text
    assert "```{ .text .output }\nMeasurementWarning: too few samples\n```" in text


def test_representations_of_axes_are_not_shown() -> None:
    value = nbformat.v4.new_output("execute_result", data={"text/plain": "<matplotlib.legend.Legend at 0x7f>"})
    assert "Legend" not in rendered(cell("legend()", value))[0]


def test_notebooks_have_no_links_to_pages() -> None:
    text = "See [the page](../page.md), [`match`][rebasin_core.match] and [a paper](https://arxiv.org/abs/1)."
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    plain = TUTORIALS._without_links(notebook).cells[0].source
    assert plain == "See the page, `match` and [a paper](https://arxiv.org/abs/1)."
    assert notebook.cells[0].source == text


def test_an_error_in_a_tutorial_fails_the_build(tmp_path: Path) -> None:
    with pytest.raises(exceptions.PluginError, match=r"(?s)page.md cannot be executed.*ZeroDivisionError"):
        TUTORIALS._executed("# Title\n\n```python\n1 / 0\n```\n", "page.md", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.nightly
def test_lines_printed_at_different_times_are_one_output(tmp_path: Path) -> None:
    code = "import time\nfor number in range(3):\n    print(number, flush=True)\n    time.sleep(0.5)"
    notebook = TUTORIALS._executed(f"# Title\n\n```python\n{code}\n```\n", "page.md", tmp_path)
    assert [output.text for output in notebook.cells[-1].outputs] == ["0\n1\n2\n"]
    (kept,) = tmp_path.iterdir()
    assert nbformat.read(kept, as_version=4).cells[-1].outputs == notebook.cells[-1].outputs


def test_the_gallery_links_figures_to_their_sections() -> None:
    text = "# Page\n\n## The *loss*\n\n![Loss](a.svg#only-light)\n![Loss](a-dark.svg#only-dark)\n"
    heading, _, card, _ = GALLERY._section("folder/page.md", text)
    assert heading == "## Page"
    target = "folder/page.md#the-loss"
    assert card.splitlines()[0] == (
        f"-   [![Loss](folder/a.svg#only-light)]({target})[![Loss](folder/a-dark.svg#only-dark)]({target})"
    )
    assert GALLERY._section("page.md", "# Page\n\nText.") == []


def test_the_order_of_the_gallery_is_that_of_the_navigation() -> None:
    nav = [{"Start": ["index.md", {"FAQ": "faq.md"}]}, "last.md"]
    assert GALLERY._paths(nav) == ["index.md", "faq.md", "last.md"]
