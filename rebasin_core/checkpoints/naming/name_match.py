"""The tensors of a network in a file: their names, and differences in names and shapes."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeVar, final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rebasin_core.tensors.names import TensorNames
    from rebasin_core.tensors.prefixes import Shape

T = TypeVar("T")
# Layers and blocks are numbered; names that differ only in these numbers are listed in one line.
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
_MAX_LINES = 40


@final
@dataclass(frozen=True, eq=False)
class NameMatch:
    """The names of a network's tensors in a file; returned by `match_names`.

    Attributes:
        description: Description of the file.
        expected: The names of the network.
        names: The name in the file of each tensor of the network that the file contains, in the network's order.
        tied: Further names of these tensors in the file (tied weights), with the name in the network.
        removed: Prefix that the names in the file have; empty if none.
        added: Prefix that the names in the network have and those in the file do not; empty if none.
        missing: Tensors of the network that the file should contain and does not.
        optional: Tensors of the network that the file does not contain and need not: buffers that are not saved, and
            counters of batches. The network has their values.
        extra: Tensors of the file that the network does not have.
        rule: Rule for the extra tensors.
        resized: Shapes in the file of the tensors that have another shape in the network, by the network's names.
        shapes: Shapes of all tensors of the file.
    """

    description: str
    expected: TensorNames
    names: Mapping[str, str]
    tied: Mapping[str, str]
    removed: str
    added: str
    missing: tuple[str, ...]
    optional: tuple[str, ...]
    extra: tuple[str, ...]
    rule: Literal["keep", "skip", "error"]
    resized: Mapping[str, Shape]
    shapes: Mapping[str, Shape]

    @cached_property
    def targets(self) -> Mapping[str, str]:
        """The name in the network for every name in the file that has one, in the order of the file."""
        named = {name: own for own, name in self.names.items()} | dict(self.tied)
        return {name: named[name] for name in self.shapes if name in named}

    @property
    def kept(self) -> tuple[str, ...]:
        """The extra tensors that are copied to outputs unchanged."""
        return self.extra if self.rule == "keep" else ()

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of a file with the same layout: all tensors of the network, and the extra tensors that are kept."""
        kept = set(self.kept)
        return tuple(name for name in self.shapes if name in self.targets or name in kept)

    def select(self, tensors: Mapping[str, T]) -> dict[str, T]:
        """Return the network's tensors by their names in the network.

        Args:
            tensors: Tensors, or other values, by names in the file.

        Returns:
            The same objects, in the network's order; not copied.
        """
        return {own: tensors[name] for own, name in self.names.items()}

    def restore(self, tensors: Mapping[str, T], extra: Mapping[str, T]) -> dict[str, T]:
        """Return tensors by their names in the file; the inverse of `select`.

        Args:
            tensors: Tensors, or other values, by names in the network.
            extra: The file's tensors, for those that are copied unchanged.

        Returns:
            The same objects, in the order of the file; tied weights under all their names.
        """
        targets = self.targets
        return {
            name: tensors[targets[name]] if name in targets else extra[name]
            for name in self.output_names
            if name not in targets or targets[name] in tensors
        }

    def summary(self) -> str:
        """Return the number of tensors that were found and missing, and the prefix, as one line."""
        known = len(self.expected.known)
        parts = [f"{len(self.names)} of {known} tensors of the network"]
        if self.removed and self.added:
            parts.append(f"prefix `{self.removed}` instead of `{self.added}`")
        elif self.removed:
            parts.append(f"prefix `{self.removed}` removed")
        elif self.added:
            parts.append(f"prefix `{self.added}` added")
        counts = {
            "tied": len(self.tied),
            "missing": len(self.missing),
            "not saved": len(self.optional),
            "of another shape": len(self.resized),
            f"extra ({ {'keep': 'copied', 'skip': 'omitted', 'error': 'an error'}[self.rule] })": len(self.extra),
        }
        parts += [f"{count} {label}" for label, count in counts.items() if count]
        return f"{self.description}: {', '.join(parts)}"

    def table(self, *, full: bool = False) -> str:
        """Return the summary, and a table of the names.

        Layers that differ only in their number are one line, and tensors whose name differs only in the prefix are
        not listed.

        Args:
            full: Whether to list all tensors, one a line.

        Returns:
            Several lines of text; the columns are the state, the name in the network, the name in the file and the
            shape.
        """
        rows = [*self._differences()]
        found = {own: "found" if name == self._usual_name(own) else "respelled" for own, name in self.names.items()}
        rows += [
            (state, own, self.names[own], self.shapes[self.names[own]])
            for own, state in found.items()
            if full or state == "respelled"
        ]
        lines = _grouped(rows) if not full else [(*row[:3], _shown(row[3]), 1) for row in rows]
        cells = [
            (state, own or "-", name or "-", shape + (f"  x{count}" if count > 1 else ""))
            for state, own, name, shape, count in lines
        ]
        hidden = 0 if full else max(0, len(cells) - _MAX_LINES)
        shown = cells[: len(cells) - hidden]
        if not shown:
            return self.summary()
        heads = ("state", "in the network", "in the file", "shape")
        widths = [max(len(row[column]) for row in [heads, *shown]) for column in range(len(heads))]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [heads, *shown]
        ]
        more = [f"... {hidden} more lines"] if hidden else []
        return "\n".join([self.summary(), "", *(line.rstrip() for line in text), *more])

    def _usual_name(self, own: str) -> str:
        """Return the name that a tensor of the network has if only the prefix differs."""
        return self.removed + own.removeprefix(self.added) if own.startswith(self.added) else own

    def _differences(self) -> Iterable[_Row]:
        shapes = self.expected.shapes
        for own in self.missing:
            yield "missing", own, "", shapes.get(own)
        for own, shape in self.resized.items():
            yield f"not {_shown(shapes.get(own))}", own, self.names[own], shape
        for name in self.extra:
            yield {"keep": "copied", "skip": "omitted", "error": "extra"}[self.rule], "", name, self.shapes[name]
        for name, own in self.tied.items():
            yield "tied", own, name, self.shapes[name]
        for own in self.optional:
            yield "not saved", own, "", shapes.get(own)


_Row = tuple[str, str, str, "Shape | None"]


def _grouped(rows: Iterable[_Row]) -> list[tuple[str, str, str, str, int]]:
    """Return rows with their numbers of layers replaced by ``*``, each once, with the number of its occurrences."""
    counts = Counter(
        (state, _NUMBER.sub("*", own), _NUMBER.sub("*", name), _shown(shape)) for state, own, name, shape in rows
    )
    return [(*row, count) for row, count in counts.items()]


def _shown(shape: Shape | None) -> str:
    return "?" if shape is None else str([*shape])
