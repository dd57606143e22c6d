"""Converts formulas to MathML when the pages are built: they need no network and no script."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from latex2mathml.converter import convert

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
# The converter knows the letters of other alphabets in braces only.
_ALPHABET = re.compile(r"\\(mathbb|mathcal) ([A-Z])")
_LIMIT = re.compile(r"<msub><mo>(arg)?(max|min)</mo>(<m[io]>[^<]*</m[io]>)</msub>")


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return a page with its formulas converted."""
    del page, config, files
    return _FORMULA.sub(_converted, content)


def _converted(found: re.Match[str]) -> str:
    is_block = found[1] == "div"
    formula = _ALPHABET.sub(r"\\\1{\2}", html.unescape(found[2]).strip())
    if not is_block:
        return convert(formula, display="inline")
    converted = _LIMIT.sub(r"<munder><mo>\1\2</mo>\3</munder>", convert(formula, display="block"))
    return f'<div class="formula">{converted}</div>'
