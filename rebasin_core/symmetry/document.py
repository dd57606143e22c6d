"""Parts of a layout in a JSON document: groups, axes, and names of buffers and aliases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rebasin_core.errors import FileFormatError, SpecError
from rebasin_core.symmetry.axis import Atom, Axis, Group
from rebasin_core.symmetry.notation import format_axes, parse_axes
from rebasin_core.symmetry.resolve import resolve
from rebasin_core.symmetry.stack import indices_of
from rebasin_core.tensors.bounds import MAX_LENGTH
from rebasin_core.tensors.checks import shorten
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


def read_group(name: str, entry: object) -> Group:
    """Parse an entry of a document as a group.

    Args:
        name: Name of the group.
        entry: An object with ``size`` and optionally ``within``.

    Returns:
        The group.

    Raises:
        FileFormatError: If the entry has another form.
    """
    entries = entry if isinstance(entry, dict) else {}
    size, within = entries.get("size"), entries.get("within")
    if (
        type(size) is not int
        or size < 1
        or not isinstance(within, str | None)
        or not entries.keys() <= {"size", "within"}
    ):
        message = (
            f"expected for group {shown(name)} an object with `size` (an integer, at least 1) and optionally "
            f"`within` (the name of a group), got {shown(entry)}"
        )
        raise FileFormatError(message)
    return Group(name, size, within)


def write_axes(name: str, axes: tuple[Axis, ...], groups: Mapping[str, Group]) -> str:
    """Return the text form of the axes of a tensor, without the groups in braces of a stack's name.

    Args:
        name: Name of the tensor or stack.
        axes: Its axes.
        groups: The groups by name.

    Returns:
        The text.
    """
    return format_axes(axes[len(indices_of(name, groups)) :], dict(groups))


def read_axes(name: str, text: object, groups: Mapping[str, Group]) -> tuple[Axis, ...]:
    """Parse the axes of a tensor in a document.

    Args:
        name: Name of the tensor or stack.
        text: The text form of its axes.
        groups: The groups by name.

    Returns:
        The axes; the first of a stack are its groups.

    Raises:
        FileFormatError: If the text is none.
        SpecError: If it does not follow the notation, or an axis exceeds the length of any tensor.
    """
    if not isinstance(text, str):
        message = f"expected the axes of {shown(name)} as a text such as 'units, 3', got {shown(text)}"
        raise FileFormatError(message)
    leading = tuple(Atom(groups[group].size, group) for group in indices_of(name, groups))
    axes = leading + tuple(resolve(expression, groups, f"`{name}`") for expression in parse_axes(text))
    for axis in axes:
        if not 1 <= axis.size <= MAX_LENGTH:
            message = f"`{name}`: an axis has {shown(axis.size)} positions, expected 1 to {MAX_LENGTH}"
            raise SpecError(message)
    return axes


def read_names(document: Mapping[str, Any], tensors: Collection[str]) -> tuple[frozenset[str] | None, dict[str, str]]:
    """Return the buffers and the aliases of a document.

    Args:
        document: The document of a layout.
        tensors: Names of the tensors of the layout.

    Returns:
        The buffers, None if the document does not list them; and the aliases.

    Raises:
        FileFormatError: If they have another form, or name an unknown tensor.
    """
    buffers, aliases = document.get("buffers"), document.get("aliases", {})
    if not (buffers is None or (isinstance(buffers, list) and all(isinstance(name, str) for name in buffers))):
        message = f"expected `buffers` to be a list of tensor names, got {shown(buffers)}"
        raise FileFormatError(message)
    if not (isinstance(aliases, dict) and all(isinstance(name, str) for name in aliases.values())):
        message = f"expected `aliases` to be an object that maps further names to tensor names, got {shown(aliases)}"
        raise FileFormatError(message)
    unknown = sorted({*(buffers or ()), *aliases.values()} - set(tensors))
    if unknown:
        message = f"`buffers` or `aliases` names tensors without axes: {shorten(unknown)}"
        raise FileFormatError(message)
    return None if buffers is None else frozenset(buffers), aliases
