"""Specifications in JSON files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from typing_extensions import override

from rebasin_core.errors import FileFormatError, SpecError
from rebasin_core.specs.base import PermutationSpec, SpecFactory, require_spec
from rebasin_core.specs.folding import Foldable
from rebasin_core.symmetry.layout import Layout
from rebasin_core.symmetry.linear import Symmetry
from rebasin_core.tensors.files import write_json
from rebasin_core.tensors.modules import named_tensors
from rebasin_core.tensors.reading import checked_record, read_json, shown

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rebasin_core.specs.operators.base import Rules

_KIND, _VERSION = "specification", 1


@final
class GivenSpec(PermutationSpec):
    """A specification with a given layout, such as one read from a file.

    Args:
        layout: The groups and axes.
        symmetry: The linear symmetries; none if None.
        folded_symmetry: Those of a model whose normalizations are folded; equal to ``symmetry`` if None.
        foldable: Shifts and means that can be folded; none if None.
    """

    def __init__(
        self,
        layout: Layout,
        symmetry: Symmetry | None = None,
        folded_symmetry: Symmetry | None = None,
        *,
        foldable: Foldable | None = None,
    ) -> None:
        self._given = layout
        self._own_symmetry = symmetry or Symmetry(layout)
        self._folded = folded_symmetry or self._own_symmetry
        self._foldable = foldable or Foldable()

    @override
    def _layout(self) -> Layout:
        return self._given

    @override
    def _symmetry(self) -> Symmetry:
        return self._own_symmetry

    @property
    @override
    def folded_symmetry(self) -> Symmetry:
        return self._folded

    @property
    @override
    def foldable(self) -> Foldable:
        return self._foldable


def save_spec(spec: PermutationSpec, path: Path | str) -> None:
    """Write a specification as JSON: its groups, and the axes of every tensor in the notation of tables.

    Args:
        spec: Any specification.
        path: The file; written atomically.

    Raises:
        StorageError: If the file cannot be written.
    """
    write_json(path, spec_document(spec))


def spec_document(spec: PermutationSpec) -> dict[str, Any]:
    """Return a specification as plain JSON, as `save_spec` writes it.

    Args:
        spec: Any specification.

    Returns:
        The document, which `spec_from_document` reads.

    Raises:
        InvalidInputError: If the value is not a specification.
    """
    require_spec(spec)
    document = {"kind": _KIND, "version": _VERSION, **spec.layout.as_json()}
    if spec.symmetry.linear:
        document["symmetry"] = _symmetry_document(spec, spec.symmetry)
    if spec.folded_symmetry is not spec.symmetry and spec.folded_symmetry != spec.symmetry:
        document["folded_symmetry"] = _symmetry_document(spec, spec.folded_symmetry)
    if spec.foldable != Foldable():
        document["foldable"] = spec.foldable.as_json()
    return document


def _symmetry_document(spec: PermutationSpec, symmetry: Symmetry) -> dict[str, Any]:
    """Return a symmetry as plain JSON, without its layout if that is the one of the permutations."""
    document = symmetry.as_json()
    if symmetry.layout.fingerprint == spec.layout.fingerprint:
        del document["layout"]
    return document


def spec_from_document(document: object) -> PermutationSpec:
    """Return the specification in a document of `spec_document`.

    Args:
        document: The document.

    Returns:
        The specification. Verify it with `check_spec`.

    Raises:
        FileFormatError: If the document has another format.
        SpecError: If its groups and axes contradict each other.
    """
    entries = checked_record(document, _KIND, _VERSION)
    layout = Layout.from_json(entries)
    given = {name: entries[name] for name in ("symmetry", "folded_symmetry") if isinstance(entries.get(name), dict)}
    found = {name: Symmetry.from_json({"layout": layout.as_json(), **entry}) for name, entry in given.items()}
    foldable = Foldable.from_json(entries["foldable"]) if "foldable" in entries else None
    return GivenSpec(layout, found.get("symmetry"), found.get("folded_symmetry"), foldable=foldable)


def load_spec(path: Path | str) -> PermutationSpec:
    """Read a specification from a JSON file in the format of `save_spec`.

    Args:
        path: The file.

    Returns:
        The specification. Verify it with `check_spec`.

    Raises:
        FileFormatError: If the file is missing, not JSON, or in another format.
        SpecError: If its groups and axes contradict each other.
    """
    try:
        return spec_from_document(read_json(path))
    except (FileFormatError, SpecError) as error:
        message = f"{shown(Path(path))}: {error}; expected a specification in JSON, as `save_spec` writes it"
        raise type(error)(message) from error


@final
class FileSpecFactory(SpecFactory):
    """Specification factory that reads a JSON file.

    Raises:
        ConfigError: If an option is invalid.

    Examples:
        >>> FileSpecFactory(path="spec.json").canonical_json()
        '{"name":"file","path":"spec.json"}'
    """

    name: Literal["file"] = "file"

    path: Path
    """JSON file, written by `save_spec` or by ``rebasin spec --output``."""

    @override
    def derive(self, model: nn.Module, example_inputs: Tensor, *, rules: Rules | None = None) -> PermutationSpec:
        spec = load_spec(self.path)
        spec.require_fit(named_tensors(model), f"{self.path}: the specification")
        return spec
