"""The texts and names of the project, and the uses of the words in `vocabulary.toml`.

``python -m tests.prose.vocabulary`` prints how often each word is used, how many uses are allowed, and the limit.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
VOCABULARY = Path(__file__).with_name("vocabulary.toml")
FOLDERS = ("rebasin_core", "plugins", "docs", "tests")


@final
@dataclass(frozen=True, slots=True)
class Text:
    """A docstring, string, comment, page or name.

    Attributes:
        file: Path from the root of the repository.
        line: Number of its first line.
        words: The text; of a name, its words.
        is_name: Whether it is a name that the code defines.
    """

    file: str
    line: int
    words: str
    is_name: bool = False


@final
@dataclass(frozen=True, slots=True)
class Use:
    """One use of a word.

    Attributes:
        file: Path from the root of the repository.
        line: Number of the line.
        word: The word.
        context: The words around it.
    """

    file: str
    line: int
    word: str
    context: str


@cache
def vocabulary() -> dict[str, list[Any]]:
    """Return the words and terms."""
    return tomllib.loads(VOCABULARY.read_text(encoding="utf-8"))


@cache
def texts() -> list[Text]:
    """Return all texts of the package, the plugins, the pages, the tests, README and changelog."""
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*"))]
    found = []
    for path in [*files, ROOT / "README.md", ROOT / "CHANGELOG.md"]:
        if path.parent == VOCABULARY.parent:
            continue
        name = path.relative_to(ROOT).as_posix()
        if path.suffix == ".md":
            found.append(Text(name, 1, without_code(path.read_text(encoding="utf-8"))))
        elif path.suffix == ".py":
            source = path.read_text(encoding="utf-8")
            found += [Text(name, line, words) for line, words in prose(source)]
            found += [Text(name, line, words, is_name=True) for line, words in names(source)]
    return found


def without_code(page: str) -> str:
    """Return a page with its code blocks blank, lines kept."""
    return re.sub(r"```.*?```", lambda block: "\n" * block[0].count("\n"), page, flags=re.DOTALL)


def prose(source: str) -> Iterator[tuple[int, str]]:
    """Yield the strings and comments of a source with their lines."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in {tokenize.STRING, tokenize.COMMENT} or tokenize.tok_name[token.type] == "FSTRING_MIDDLE":
            yield token.start[0], token.string


def names(source: str) -> Iterator[tuple[int, str]]:
    """Yield the words of the names that a source defines: ``fit_posterior`` and ``FitPosterior`` as two words."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                pass
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                pass
            case _:
                continue
        yield node.lineno, re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", name)


def uses(entry: dict[str, Any]) -> list[Use]:
    """Return all uses of a word, allowed ones among them."""
    pattern = re.compile(entry["pattern"].replace(" ", r"\s+"), re.IGNORECASE)
    found = []
    for text in texts():
        if text.is_name and not entry.get("names", True):
            continue
        for match in pattern.finditer(text.words):
            line = text.line + text.words[: match.start()].count("\n")
            context = " ".join(text.words[max(0, match.start() - 50) : match.end() + 40].split())
            found.append(Use(text.file, line, " ".join(match[0].split()), context))
    return found


def is_allowed(use: Use, entry: dict[str, Any]) -> bool:
    """Whether the vocabulary allows a use."""
    return any(
        re.fullmatch(each["file"], use.file) and re.search(each["text"], use.context)
        for each in entry.get("allowed", [])
    )


def main() -> None:
    """Print the number of uses of every word: not allowed, allowed, limit."""
    for entry in vocabulary()["words"]:
        allowed = [is_allowed(use, entry) for use in uses(entry)]
        print(f"{allowed.count(False):5d} {allowed.count(True):5d} {entry.get('limit', 0):5d}  {entry['pattern']}")  # ruff: ignore[print]


if __name__ == "__main__":
    main()
