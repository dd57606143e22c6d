"""Stages: the steps of runs and studies, each identified by everything that determines its result."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, final

from rebasin_core.errors import FileFormatError
from rebasin_core.tensors.digests import canonical_json
from rebasin_core.tensors.reading import parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

Entries = tuple[tuple[str, str], ...]
"""Pairs of a name and a digest or version, sorted by name."""


@final
@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a run or study: training, matching, a loss curve, ...

    The identity of a stage is the SHA-256 of the canonical JSON of `document`: the kind, the options, the identities of
    the stages that it reads, the digests of the contents that it reads, and the versions of the code that it runs. Two
    stages of equal identities have equal results, and a result is stored under the identity. Paths, the device index,
    the number of workers and the order of stages are not part of it.

    Attributes:
        kind: Kind of the stage, such as ``train``; selects the class that computes it.
        options: Canonical JSON of the options that determine the result.
        work: JSON from which a worker constructs the computation. It may contain paths, unlike ``options``.
        reads: Identities of the stages whose results it reads, by role.
        inputs: Digests of the contents of files and data that it reads, by name.
        code: Versions and source digests of the packages whose code it runs.
        label: Text for messages and progress, such as ``train seed 1``; not part of the identity.
        id: The identity, as 64 hexadecimal digits.
    """

    kind: str
    options: str
    work: str
    reads: Entries
    inputs: Entries
    code: Entries
    label: str = field(compare=False)
    id: str = field(init=False)

    def __post_init__(self) -> None:
        """Compute the identity."""
        # Equal to the canonical JSON of `document`, without parsing the options of a hundred thousand stages.
        parts = (
            f'"code":{_object(self.code)}',
            f'"inputs":{_object(self.inputs)}',
            f'"kind":{json.dumps(self.kind)}',
            f'"options":{self.options}',
            f'"reads":{_object(self.reads)}',
        )
        text = f"{{{','.join(parts)}}}"
        object.__setattr__(self, "id", hashlib.sha256(text.encode()).hexdigest())

    @property
    def document(self) -> dict[str, Any]:
        """The identity document, as plain JSON."""
        return {
            "code": dict(self.code),
            "inputs": dict(self.inputs),
            "kind": self.kind,
            "options": json.loads(self.options),
            "reads": dict(self.reads),
        }

    @property
    def short(self) -> str:
        """The label and the first digits of the identity, for messages."""
        return f"{self.label} ({self.id[:8]})"

    def as_json(self) -> list[Any]:
        """Return the stage as plain JSON, from which `from_json` constructs an equal one."""
        parts = [dict(self.reads), dict(self.inputs), dict(self.code)]
        return [self.kind, self.options, self.work, *parts, self.label]

    @classmethod
    def from_json(cls, value: Any) -> Self:  # ruff: ignore[any-type] - JSON
        """Construct a stage from the value of `as_json`."""
        kind, options, work, reads, inputs, code, label = value
        return cls(kind, options, work, entries(reads), entries(inputs), entries(code), label)


_string = json.encoder.encode_basestring_ascii


def entries(values: Mapping[str, str]) -> Entries:
    """Return a mapping as sorted pairs.

    Args:
        values: Digests or versions by name.

    Returns:
        The pairs.
    """
    return tuple(sorted(values.items()))


def without(options: str, name: str) -> str:
    """Return options without one of them, for grouping stages that differ in it only.

    Args:
        options: Canonical JSON of an object.
        name: Name of the option.

    Returns:
        Canonical JSON of the other options.

    Raises:
        FileFormatError: If the text is not a JSON object.
    """
    parsed = parse_json(options)
    if not isinstance(parsed, dict):
        message = f"expected the options of a stage as a JSON object, got {options[:80]!r}"
        raise FileFormatError(message)
    parsed.pop(name, None)
    return canonical_json(parsed)


def _object(pairs: Entries) -> str:
    return f"{{{','.join(f'{_string(name)}:{_string(value)}' for name, value in pairs)}}}"
