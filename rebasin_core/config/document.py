"""YAML and JSON documents with the line number of each entry."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, final

import yaml
from typing_extensions import override

from rebasin_core.errors import ConfigError, FileFormatError
from rebasin_core.tensors.bounds import MAX_DEPTH, MAX_NODES, MAX_YAML_BYTES
from rebasin_core.tensors.reading import read_bounded, reason, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Location: TypeAlias = "tuple[str | int, ...]"
"""Keys and indices that lead from the top of a document to one value: ``("matchers", 0, "max_sweeps")``."""
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Safe YAML loader, restricted to JSON types, with numbers like 1e-3 as in YAML 1.2 and bounded nesting."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    @override
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Return the next node; raise if the document is nested too deeply for recursion."""
        if self._depth == MAX_DEPTH:
            mark = None if parent is None else parent.start_mark
            raise yaml.composer.ComposerError(None, None, f"nested more than {MAX_DEPTH} levels deep", mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _scalar(build: Callable[[_Loader, yaml.ScalarNode], object]) -> Callable[[_Loader, yaml.ScalarNode], object]:
    """Wrap a constructor: a value that does not match its explicit tag (``!!int x``) is an error with a line."""

    def construct(loader: _Loader, node: yaml.ScalarNode) -> object:
        try:
            return build(loader, node)
        except (ValueError, LookupError) as error:
            problem = f"{shown(node.value)} is not of type {node.tag.removeprefix(_TAG)}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error

    return construct


# Dates are strings, as in JSON. Sets, pairs and bytes are not supported.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.yaml_constructors = {
    tag: constructor
    for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.removeprefix(_TAG) in {"null", "str", "seq", "map"}
}
_Loader.add_constructor(f"{_TAG}bool", _scalar(yaml.SafeLoader.construct_yaml_bool))
_Loader.add_constructor(f"{_TAG}int", _scalar(yaml.SafeLoader.construct_yaml_int))
_Loader.add_constructor(f"{_TAG}float", _scalar(yaml.SafeLoader.construct_yaml_float))
_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN)$"),
    list("-+0123456789."),
)


@final
@dataclass(frozen=True, slots=True)
class Document:
    """A parsed document.

    Attributes:
        source: Name of the source, for messages.
        content: The parsed value.
        lines: Line number (from 1) of each entry, by its location: keys and indices from the top.
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
            ConfigError: If the file is missing or in neither format; the message has the line number.
        """
        try:
            text = read_bounded(path, MAX_YAML_BYTES).decode("utf-8")
        except FileFormatError as error:
            raise ConfigError(str(error)) from error
        except UnicodeDecodeError as error:
            message = f"cannot read {shown(Path(path))}: {error}"
            raise ConfigError(message) from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, source: str) -> Document:
        """Parse a text.

        Args:
            text: YAML or JSON. (JSON is YAML, except for tabs between tokens.)
            source: Name of the source, for messages.

        Returns:
            The document.

        Raises:
            ConfigError: If the text is in neither format, has a duplicate key, or exceeds the limits of size or
                nesting; the message has the line number.
        """
        if text.lstrip().startswith("{"):
            text = text.replace("\t", " ")
        try:
            loader = _Loader(text)
        except yaml.reader.ReaderError as error:
            message = f"{source}: not YAML or JSON: {reason(error)}"
            raise ConfigError(message) from error
        try:
            node = loader.get_single_node()
            lines = _Lines(source)
            if node is not None:
                lines.record(node, ())
            content = None if node is None else loader.construct_document(node)
        except ConfigError:
            raise
        except yaml.MarkedYAMLError as error:
            line = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
            message = f"{source}{line}: {error.problem or error.context or 'not YAML or JSON'}"
            raise ConfigError(message) from error
        except (yaml.YAMLError, ValueError) as error:
            message = f"{source}: not YAML or JSON: {reason(error)}"
            raise ConfigError(message) from error
        finally:
            loader.dispose()
        return cls(source, content, lines.by_location)

    def where(self, location: Location) -> str:
        """Return the file and line of an entry, or of the innermost existing entry that would contain it.

        Args:
            location: Keys and indices from the top.

        Returns:
            Text of the form ``file:line``.
        """
        while location and location not in self.lines:
            location = location[:-1]
        return f"{self.source}:{self.lines.get(location, 1)}"


@final
class _Lines:
    """Line number of each entry of a document, with aliases expanded; raises if there are too many entries."""

    def __init__(self, source: str) -> None:
        self.by_location: dict[Location, int] = {}
        self._source = source
        self._nodes = 0

    def record(self, node: yaml.Node, location: Location) -> None:
        """Record the lines of a node and of its descendants."""
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._fail(node, f"more than {MAX_NODES} entries (with aliases expanded)")
        # A node that contains an alias of itself is infinitely deep.
        if len(location) > MAX_DEPTH:
            self._fail(node, f"nested more than {MAX_DEPTH} levels deep")
        self.by_location.setdefault(location, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                self.record(value, self._record_key(key, location))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self.record(value, (*location, index))

    def _record_key(self, key: yaml.Node, location: Location) -> Location:
        """Record the line of a key, and return the location of its value."""
        if not isinstance(key, yaml.ScalarNode):
            self._fail(key, "expected a name before `:`, got a list or a mapping")
        inner = (*location, str(key.value))
        if inner in self.by_location:
            self._fail(key, f"duplicate key {shown(key.value)} (first on line {self.by_location[inner]})")
        self.by_location[inner] = key.start_mark.line + 1
        return inner

    def _fail(self, node: yaml.Node, problem: str) -> NoReturn:
        message = f"{self._source}:{node.start_mark.line + 1}: {problem}"
        raise ConfigError(message)
