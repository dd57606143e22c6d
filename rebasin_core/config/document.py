"""YAML and JSON documents that know on which line everything stands."""

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
    """The safe loader, with the values of JSON only, numbers like 1e-3 as in YAML 1.2, and bounded depth."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    @override
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Return the next node; raise before the stack of calls becomes too deep."""
        if self._depth == MAX_DEPTH:
            mark = None if parent is None else parent.start_mark
            raise yaml.composer.ComposerError(None, None, f"nested more than {MAX_DEPTH} levels deep", mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _scalar(build: Callable[[_Loader, yaml.ScalarNode], object]) -> Callable[[_Loader, yaml.ScalarNode], object]:
    """Return a constructor that says where a text is not what its explicit tag says, such as ``!!int x``."""

    def construct(loader: _Loader, node: yaml.ScalarNode) -> object:
        try:
            return build(loader, node)
        except (ValueError, LookupError) as error:
            problem = f"{shown(node.value)} is no {node.tag.removeprefix(_TAG)}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error

    return construct


# Dates are texts, as in JSON; there is no use here for sets, pairs and bytes.
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
            text: YAML, or JSON (which is YAML, but for tabs between its tokens).
            source: Where it came from, for messages.

        Returns:
            The document.

        Raises:
            ConfigError: If it is in neither format, has the same key twice, or is larger or nested more deeply than a
                document may be; names the line.
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
                lines.note(node, ())
            content = None if node is None else loader.construct_document(node)
        except yaml.MarkedYAMLError as error:
            line = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
            message = f"{source}{line}: {error.problem or error.context or 'not YAML or JSON'}"
            raise ConfigError(message) from error
        except (yaml.YAMLError, ValueError) as error:
            message = f"{source}: not YAML or JSON: {reason(error)}"
            raise ConfigError(message) from error
        finally:
            loader.dispose()
        return cls(source, content, lines.found)

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


@final
class _Lines:
    """The line of every place in a document, aliases followed; a document with too many places is refused."""

    def __init__(self, source: str) -> None:
        self.found: dict[Location, int] = {}
        self._source = source
        self._nodes = 0

    def note(self, node: yaml.Node, location: Location) -> None:
        """Note the lines of a node and of all nodes in it."""
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._fail(node, f"more than {MAX_NODES} entries, each alias counted as what it repeats")
        # An alias of a node within the node itself leads deeper and deeper.
        if len(location) > MAX_DEPTH:
            self._fail(node, f"nested more than {MAX_DEPTH} levels deep")
        self.found.setdefault(location, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                self.note(value, self._noted_key(key, location))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self.note(value, (*location, index))

    def _noted_key(self, key: yaml.Node, location: Location) -> Location:
        """Return the place of a key, after noting it."""
        if not isinstance(key, yaml.ScalarNode):
            self._fail(key, "expected a name before `:`, got a list or a mapping")
        place = (*location, str(key.value))
        if place in self.found:
            self._fail(key, f"{shown(key.value)} is given twice (first on line {self.found[place]})")
        self.found[place] = key.start_mark.line + 1
        return place

    def _fail(self, node: yaml.Node, problem: str) -> NoReturn:
        message = f"{self._source}:{node.start_mark.line + 1}: {problem}"
        raise ConfigError(message)
