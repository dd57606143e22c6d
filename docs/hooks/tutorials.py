"""Executes the tutorials when the pages are built, and adds their output, their figures and their notebooks.

A tutorial is a Markdown page in ``docs/tutorials/``. Jupytext reads it as a notebook, nbclient executes it, and its
page shows the results. An error, or a figure without a caption, fails the build. Executed notebooks are kept in
``.cache/tutorials`` under a digest of the page, the package and the versions of its dependencies.
"""

from __future__ import annotations

import base64
import hashlib
import re
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import jupytext
import nbformat
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from nbclient import NotebookClient
from traitlets.config import Config

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

_TIMEOUT: Final = 600  # seconds for one cell
_INK: Final = "#262626"
_GRID: Final = "#dddddd"
# Figures are drawn for the light scheme; the same figure in these colors is for the dark one.
_DARK: Final = {_INK: "#dadada", _GRID: "#454b58", "#666666": "#a6a6a6", "#0072b2": "#4aa6dc"}
_LINK: Final = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:)[^)]+\)|\[([^\]]+)\]\[[\w.]*\]")
_STYLE: Final = f"""
%config InlineBackend.figure_formats = ["svg"]
import matplotlib
from cycler import cycler
from rebasin_core.report.style import COLORS
matplotlib.rcParams.update({{
    "axes.edgecolor": "{_INK}", "axes.labelcolor": "{_INK}", "axes.titlecolor": "{_INK}", "text.color": "{_INK}",
    "xtick.color": "{_INK}", "ytick.color": "{_INK}", "grid.color": "{_GRID}", "axes.grid": True,
    "axes.axisbelow": True, "axes.spines.right": False, "axes.spines.top": False, "axes.facecolor": "none",
    "figure.facecolor": "none", "figure.figsize": (6.4, 3.6), "figure.constrained_layout.use": True,
    "legend.frameon": False, "image.cmap": "cividis", "svg.hashsalt": "rebasin_core", "font.size": 10,
    "axes.prop_cycle": cycler(color=COLORS),
}})
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Return the files of the site with the executed tutorials, their figures and notebooks."""
    cache = Path(config.config_file_path).parent / ".cache" / "tutorials"
    for page in [file for file in files.documentation_pages() if _is_tutorial(file)]:
        source = page.content_string
        executed = _executed(source, page.src_uri, cache)
        name = Path(page.src_uri).stem
        text, figures = _page(executed, name)
        files.remove(page)
        files.append(File.generated(config, page.src_uri, content=text))
        for figure, content in figures.items():
            files.append(File.generated(config, f"tutorials/{figure}", content=content))
        notebook = nbformat.writes(_without_links(executed))
        files.append(File.generated(config, f"tutorials/{name}.ipynb", content=notebook))
    return files


def _is_tutorial(page: File) -> bool:
    return page.src_uri.startswith("tutorials/") and "```python\n" in page.content_string


def _executed(source: str, name: str, cache: Path) -> Any:
    """Return the executed notebook of a page, from the cache if it is there."""
    kept = cache / f"{_digest(source)}.ipynb"
    if kept.exists():
        return nbformat.read(kept, as_version=4)
    notebook = jupytext.reads(source, fmt="md")
    notebook.cells = [cell for cell in notebook.cells if cell.source.strip()]
    notebook.cells.insert(0, nbformat.v4.new_code_cell(_STYLE))
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}  # files that a tutorial writes are removed
        # The kernel is reached through files, not through network ports.
        local = Config({"AsyncKernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})
        client = NotebookClient(
            notebook,
            timeout=_TIMEOUT,
            startup_timeout=_TIMEOUT,
            kernel_name="python3",
            coalesce_streams=True,
            resources=resources,
            config=local,
        )
        try:
            client.execute()
        except Exception as error:
            message = f"{name} cannot be executed: {type(error).__name__}: {error}"
            raise PluginError(message) from error
    del notebook.cells[0]
    notebook.metadata.pop("jupytext", None)
    cache.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, kept)
    return notebook


def _digest(source: str) -> str:
    """Return a digest of all that determines the results of a page."""
    package = Path(__file__).parents[2] / "rebasin_core"
    digest = hashlib.sha256(f"{source}{_STYLE}{sys.version}".encode())
    for name in ("torch", "numpy", "scipy", "scikit-learn", "matplotlib", "pot"):
        digest.update(f"{name} {metadata.version(name)}".encode())
    for path in sorted(package.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _page(notebook: Any, name: str) -> tuple[str, dict[str, str]]:
    """Return the Markdown of an executed notebook, and the contents of its figures by name."""
    parts: list[str] = []
    figures: dict[str, str] = {}
    cells = notebook.cells
    for index, cell in enumerate(cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        following = cells[index + 1].source if index + 1 < len(cells) else ""
        for output in cell.outputs:
            drawn = _svg(output)
            if drawn is None:
                parts += _text(output)
                continue
            alt = _caption(following, name, cell.source)
            stem = f"figures/{name}-{len(figures) // 2 + 1}"
            figures |= {f"{stem}.svg": drawn, f"{stem}-dark.svg": _dark(drawn)}
            parts.append(f"![{alt}]({stem}.svg#only-light)\n![{alt}]({stem}-dark.svg#only-dark)")
    title, rest = parts[0].split("\n", 1)
    download = f"[Download this page as a notebook]({name}.ipynb){{ .download download }}"
    return "\n\n".join([title, download, rest, *parts[1:]]), figures


def _svg(output: Any) -> str | None:
    drawn = output.get("data", {}).get("image/svg+xml")
    return None if drawn is None else "".join(drawn)


def _text(output: Any) -> list[str]:
    """Return the blocks that show an output other than a figure; of a warning, its class and message."""
    if output.output_type == "stream":
        text = output.text
        if output.name == "stderr":
            text = "\n".join(re.findall(r"\b\w+Warning: .*", text))
    else:
        data = output.data
        if "text/markdown" in data:
            return [data["text/markdown"]]
        if "image/png" in data:
            message = "expected figures as SVG, got PNG"
            raise PluginError(message)
        text = data["text/plain"]
    # A call that draws returns axes, legends or lines, which are in the figure.
    is_shown = text.strip() and "<matplotlib." not in text and not text.startswith(("Text(", "(0."))
    return [f"```{{ .text .output }}\n{text.rstrip()}\n```"] if is_shown else []


def _caption(following: str, name: str, code: str) -> str:
    """Return the first sentence of the caption of a figure: the emphasized paragraph after its code."""
    found = re.match(r"\*(?!\*)(.+?)\*(?:\n\n|$)", following, re.DOTALL)
    if found is None:
        message = f"{name}: expected a caption, a paragraph in asterisks, after the figure of\n{code}"
        raise PluginError(message)
    plain = _LINK.sub(lambda link: link[1] or link[2], " ".join(found[1].split()))
    return re.sub(r"[`$*\\]|\\[()]", "", plain).split(". ")[0].rstrip(".")


def _dark(drawn: str) -> str:
    for light, dark in _DARK.items():
        drawn = re.sub(re.escape(light), dark, drawn, flags=re.IGNORECASE)
    return drawn


def _without_links(notebook: Any) -> Any:
    """Return a copy of a notebook, without links to other pages, which do not exist next to a notebook."""
    copied = nbformat.from_dict(notebook)
    for index, cell in enumerate(copied.cells):
        cell["id"] = base64.b32encode(index.to_bytes(2)).decode().strip("=").lower()  # equal builds give equal files
        if cell.cell_type == "markdown":
            cell.source = _LINK.sub(lambda link: link[1] or link[2], cell.source)
    return copied
