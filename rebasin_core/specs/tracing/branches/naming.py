"""Names of the stacks of like branches, from the common parts of the names of corresponding tensors."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

from rebasin_core.specs.unification.groups import unused_name

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_NOT_IN_LABELS = frozenset("{}|=@")


def label_of(members: Sequence[Sequence[str]], used: Collection[str]) -> str:
    """Return a name for the group of like branches: that of the module that contains them.

    Args:
        members: For each tensor of a branch, its names in all branches.
        used: Names of other groups.

    Returns:
        A name that no other group has.
    """
    prefix = [_common(names)[0] for names in members]
    shared = prefix[0][: len(_leading(prefix))]
    return unused_name(".".join(shared) or "branch", used)


def stack_name(members: Sequence[str], label: str) -> str | None:
    """Return the name of a stack.

    Args:
        members: Names of its tensors.
        label: Name of the group of branches.

    Returns:
        The name; None if the names contain characters of the notation.
    """
    if any(not _NOT_IN_LABELS.isdisjoint(name) for name in members):
        return None
    prefix, suffix = _common(members)
    parts = [name.split(".") for name in members]
    middles = [".".join(part[len(prefix) : len(part) - len(suffix)]) for part in parts]
    numbered = middles == [str(number) for number in range(len(middles))]
    braces = f"{{{label}}}" if numbered else f"{{{label}={'|'.join(middles)}}}"
    return ".".join([*prefix, braces, *suffix])


def _common(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the components of names that are equal before and after the part that differs."""
    parts = [name.split(".") for name in names]
    prefix = _leading(parts)
    rest = [part[len(prefix) :] for part in parts]
    suffix = _leading([one[:0:-1] for one in rest])  # at least one component is different
    return prefix, suffix[::-1]


def _leading(parts: Sequence[Sequence[str]]) -> list[str]:
    """Return the first items that lists have in common."""
    return [one[0] for one in takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False))]
