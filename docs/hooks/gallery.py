"""Writes the gallery: all figures of the pages, each with a link to the section where it is explained."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Any, Final

from markdown.extensions.toc import slugify
from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

_PAGE: Final = "gallery.md"
_FIGURE: Final = re.compile(r"^!\[([^\]]+)\]\(([^)]+?\.(?:svg|png))(#only-light|#only-dark)?\)$", re.MULTILINE)
_HEADING: Final = re.compile(r"^#+ (.*)$", re.MULTILINE)
_HOME: Final = "index.md"  # its figure is that of the results


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Return the files of the site, with the figures of all pages inserted in the gallery."""
    gallery = files.get_file_from_path(_PAGE)
    if gallery is None:
        return files
    parts = [gallery.content_string.rstrip()]
    pages = [file for file in files.documentation_pages() if file.src_uri not in {_PAGE, _HOME}]
    order = {path: index for index, path in enumerate(_paths(config.nav))}
    for page in sorted(pages, key=lambda file: order.get(file.src_uri, len(order))):
        parts += _section(page.src_uri, re.sub(r"^```.*?^```", "", page.content_string, flags=re.DOTALL | re.MULTILINE))
    files.remove(gallery)
    files.append(File.generated(config, _PAGE, content="\n\n".join(parts) + "\n"))
    return files


def _paths(nav: Any) -> list[str]:
    """Return the pages of the navigation in their order."""
    if isinstance(nav, str):
        return [nav]
    entries = nav.values() if isinstance(nav, dict) else nav or []
    return [path for entry in entries for path in _paths(entry)]


def _section(path: str, text: str) -> list[str]:
    """Return the Markdown blocks with the figures of a page."""
    figures = list(_FIGURE.finditer(text))
    if not figures:
        return []
    headings = list(_HEADING.finditer(text))
    cards: dict[str, str] = {}
    for figure in figures:
        alt, source, scheme = figure.groups(default="")
        above = [heading for heading in headings if heading.start() < figure.start()]
        target = path if len(above) == 1 else f"{path}#{slugify(_plain(above[-1][1]), '-')}"
        image = f"![{alt}]({posixpath.normpath(posixpath.join(posixpath.dirname(path), source))}{scheme})"
        link = f"[{image}]({target})"
        cards[f"{target} {alt}"] = cards.get(f"{target} {alt}", "") + link
    lines = [f"-   {links}\n\n    {key.partition(' ')[2]}." for key, links in cards.items()]
    return [f"## {headings[0][1]}", '<div class="grid cards figures" markdown>', "\n\n".join(lines), "</div>"]


def _plain(heading: str) -> str:
    return re.sub(r"[`*]|\{.*\}", "", heading).strip()
