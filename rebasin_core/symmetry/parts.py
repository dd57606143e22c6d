"""Parts of layouts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.checks import shorten

if TYPE_CHECKING:
    from collections.abc import Collection

    from rebasin_core.symmetry.layout import Layout


def restricted(layout: Layout, names: Collection[str]) -> Layout:
    """Return a layout without some of its tensors.

    Args:
        layout: The layout.
        names: Names of the tensors to keep; those of a stack one by one, or its name.

    Returns:
        The layout; its groups are the same.

    Raises:
        InvalidInputError: If only some tensors of a stack are kept.
    """
    kept = {layout.key(name) for name in names}
    if layout.axes.keys() <= kept and set(layout.tensors) <= {*names, *_members(layout, names)}:
        return layout
    own = {*names, *_members(layout, names)}
    for name in kept & layout.stacks.keys():
        missing = [member for member in layout.stacks[name].members if member not in own]
        if missing:
            message = f"expected all tensors of the stack `{name}`, or none; missing: {shorten(missing)}"
            raise InvalidInputError(message)
    return replace(
        layout,
        axes={name: axes for name, axes in layout.axes.items() if name in kept},
        buffers=None if layout.buffers is None else layout.buffers & own,
        aliases={alias: name for alias, name in layout.aliases.items() if name in own},
    )


def _members(layout: Layout, names: Collection[str]) -> set[str]:
    return {member for name in names if name in layout.stacks for member in layout.stacks[name].members}
