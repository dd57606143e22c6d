"""Rows of a table that state the axes of several tensors: like members of a module list, such as experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.errors import SpecError
from rebasin_core.symmetry.notation import Name, parse_axes
from rebasin_core.symmetry.stack import StackName
from rebasin_core.tensors.checks import shorten

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rebasin_core.symmetry.notation import Expression

    Shape = tuple[int, ...]


def stacked_rows(
    table: Mapping[str, str], shapes: Mapping[str, Shape]
) -> tuple[dict[str, tuple[Expression, ...]], dict[str, Shape]]:
    """Parse the axes of a table; rows for several tensors describe the stacked tensor.

    Args:
        table: The text form of axes by the names of tensors, which may have groups in braces.
        shapes: The shapes of the network's tensors.

    Returns:
        The axes by name, and the shapes: for several tensors, those of the stacked tensor, where its first member was.

    Raises:
        SpecError: If the axes do not follow the notation, no tensor or only some tensors fit a name with braces, their
            shapes differ, or a tensor is in two rows.
    """
    stacks = {n: found for n in table if n not in shapes and (found := StackName.of(n)) is not None}
    rows: dict[str, tuple[Expression, ...]] = {}
    named: dict[str, str] = {}
    stacked: dict[str, Shape] = {}
    for name, text in table.items():
        axes = parse_axes(text)
        stack = stacks.get(name)
        if stack is None:
            rows[name] = axes
            continue
        own = stack.without_nesting
        members, stacked[own] = _members(name, stack, shapes)
        rows[own] = (*(Name(index.group, index.within) for index in stack.indices), *axes)
        twice = [member for member in members if member in named or member in table]
        if twice:
            message = f"the row `{name}` of the table contains {shorten(twice)}, which another row contains, too"
            raise SpecError(message)
        named |= dict.fromkeys(members, own)
    order = dict.fromkeys(named.get(name, name) for name in shapes)
    return rows, {name: stacked[name] if name in stacked else shapes[name] for name in order}


def _members(name: str, stack: StackName, shapes: Mapping[str, Shape]) -> tuple[tuple[str, ...], Shape]:
    """Return the names of the tensors of a row, and the shape of the stacked tensor."""
    sizes = stack.sizes_among(shapes)
    members = stack.members(sizes)
    missing = [member for member in members if member not in shapes]
    if missing or not members:
        example = stack.members([1] * len(sizes))[0]
        expected = f"missing: {shorten(missing)}" if missing else f"expected a tensor such as `{example}`"
        message = f"the row `{name}` of the table does not fit the tensors of the model; {expected}"
        raise SpecError(message)
    by_shape = {shapes[member]: member for member in members}
    if len(by_shape) > 1:
        listed = ", ".join(f"`{member}` {shape}" for shape, member in by_shape.items())
        message = f"the row `{name}` of the table expects tensors of equal shapes, got {listed}"
        raise SpecError(message)
    return members, (*sizes, *next(iter(by_shape)))
