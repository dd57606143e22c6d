"""YAML and JSON documents that know on which line everything stands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, final

import yaml

from rebasin_core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

Location: TypeAlias = "tuple[str | int, ...]"


class _Loader(yaml.SafeLoader):
    """The safe loader, with numbers like 1e-3 read as numbers (YAML 1.2), not as text (YAML 1.1)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN)$"),
    list("-+0123456789."),
)


@final
@dataclass(frozen=True, slots=True)
class Document:
    """A parsed document.

    Attributes:
        source: Where it came from, for messages.
        content: The value.
        lines: The line (from 1) of every place in it.
    """

    source: str
    content: Any
    lines: Mapping[Location, int]

    @classmethod
    def read(cls, path: Path | str) -> Document:
        """Read a file.

        Args:
            path: A YAML or JSON file.

        Returns:
            The document.

        Raises:
            ConfigError: If the file is missing or is not in either format; names the line.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            message = f"cannot read {path}: {error}"
            raise ConfigError(message) from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, source: str) -> Document:
        """Parse a text.

        Args:
            text: YAML, or JSON (which is YAML, but for tabs between its tokens).
            source: Where it came from, for messages.

        Returns:
            The document.

        Raises:
            ConfigError: If it is in neither format, or has the same key twice; names the line.
        """
        if text.lstrip().startswith("{"):
            text = text.replace("\t", " ")
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            lines: dict[Location, int] = {}
            if node is not None:
                _note_lines(node, (), lines, source)
            content = None if node is None else loader.construct_document(node)
        except yaml.MarkedYAMLError as error:
            line = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
            message = f"{source}{line}: {error.problem or error.context or 'not YAML or JSON'}"
            raise ConfigError(message) from error
        except (yaml.YAMLError, ValueError) as error:
            message = f"{source}: not YAML or JSON: {error}"
            raise ConfigError(message) from error
        finally:
            loader.dispose()
        return cls(source, content, lines)

    def where(self, location: Location) -> str:
        """Return the file and line of a place, or of the nearest place around it.

        Args:
            location: Keys and indices from the top.

        Returns:
            ``file:line``.
        """
        while location and location not in self.lines:
            location = location[:-1]
        return f"{self.source}:{self.lines.get(location, 1)}"


def _note_lines(node: yaml.Node, location: Location, lines: dict[Location, int], source: str) -> None:
    lines.setdefault(location, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = (*location, str(key.value))
            if place in lines:
                message = (
                    f"{source}:{key.start_mark.line + 1}: {key.value!r} is given twice (first on line {lines[place]})"
                )
                raise ConfigError(message)
            lines[place] = key.start_mark.line + 1
            _note_lines(value, place, lines, source)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _note_lines(value, (*location, index), lines, source)
