"""Stacks: like tensors of several modules, such as the experts of a module list, seen as one tensor.

The name of a stack contains a group in braces. ``experts.{expert}.weight`` means ``experts.0.weight``,
``experts.1.weight``, ..., one for each unit of the group ``expert``, and ``{side=left|right}.weight`` for
``left.weight`` and ``right.weight``. The stacked tensor has the units of these groups as its first axes.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import InvalidInputError, SpecError
from rebasin_core.symmetry.axis import Atom
from rebasin_core.tensors.checks import shorten
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.symmetry.axis import Axis, Group

_BRACES = re.compile(r"\{(?P<group>[A-Za-z_][\w.\[\]]*)(?:@(?P<within>[A-Za-z_][\w.\[\]]*))?(?:=(?P<labels>[^{}]*))?\}")


@final
@dataclass(frozen=True, slots=True)
class Index:
    """A group in the name of a stack.

    Attributes:
        group: Name of the group.
        within: Its outer group, if the name states it.
        labels: The texts in names of tensors, one for each unit; None for the numbers from 0.
    """

    group: str
    within: str | None
    labels: tuple[str, ...] | None

    @property
    def pattern(self) -> str:
        """A regular expression of the texts."""
        return r"\d+" if self.labels is None else "|".join(map(re.escape, self.labels))


@final
@dataclass(frozen=True, slots=True)
class StackName:
    """The parts of the name of a stack.

    Attributes:
        texts: The texts before, between and after the braces.
        indices: The groups in braces.
    """

    texts: tuple[str, ...]
    indices: tuple[Index, ...]

    @classmethod
    def of(cls, name: str) -> StackName | None:
        """Return the parts of a name.

        Args:
            name: Any name.

        Returns:
            The parts; None if the name has no group in braces.
        """
        found = [*_BRACES.finditer(name)] if "{" in name else []
        bounds = [0, *itertools.chain.from_iterable(match.span() for match in found), len(name)]
        texts = tuple(name[start:stop] for start, stop in zip(bounds[::2], bounds[1::2], strict=True))
        return cls(texts, tuple(_index(match) for match in found)) if found else None

    @property
    def without_nesting(self) -> str:
        """The name of the stack, without ``@outer``."""
        labels = [f"={'|'.join(index.labels)}" if index.labels is not None else "" for index in self.indices]
        braces = [f"{{{index.group}{label}}}" for index, label in zip(self.indices, labels, strict=True)]
        return self._joined(braces)

    def members(self, sizes: Sequence[int]) -> tuple[str, ...]:
        """Return the names of the tensors of the stack.

        Args:
            sizes: The number of units of each group.

        Returns:
            Names, the units of the last group varying fastest.
        """
        units = [
            tuple(map(str, range(size))) if index.labels is None else index.labels
            for index, size in zip(self.indices, sizes, strict=True)
        ]
        return tuple(self._joined(labels) for labels in itertools.product(*units))

    def sizes_among(self, names: Collection[str]) -> tuple[int, ...]:
        """Return the number of units of each group, from the names of a network's tensors.

        Args:
            names: Names of all tensors.

        Returns:
            For groups with numbers, the largest number in a name, plus one; 0 if there is none.
        """
        groups = [f"({index.pattern})" for index in self.indices]
        text = re.escape(self.texts[0]) + "".join(g + re.escape(t) for g, t in zip(groups, self.texts[1:], strict=True))
        matches = [match for match in map(re.compile(text).fullmatch, names) if match is not None]
        return tuple(
            len(index.labels)
            if index.labels is not None
            else max((int(match[number]) + 1 for match in matches), default=0)
            for number, index in enumerate(self.indices, 1)
        )

    def _joined(self, between: Sequence[str]) -> str:
        return self.texts[0] + "".join(b + text for b, text in zip(between, self.texts[1:], strict=True))


@final
@dataclass(frozen=True, slots=True)
class Stack:
    """Tensors of a network that a layout describes as one tensor.

    Attributes:
        members: Names of the tensors, in the order of the stacked tensor's first axes.
        sizes: Lengths of these axes.
    """

    members: tuple[str, ...]
    sizes: tuple[int, ...]

    def joined(self, name: str, tensors: Mapping[str, Tensor], dim: int) -> Tensor:
        """Return the stacked tensor.

        Args:
            name: Name of the stack, for messages.
            tensors: Tensors by name, with all members.
            dim: Index of the first new dimension.

        Returns:
            ``[*lead, *sizes, *rest]``, with ``dim`` leading dimensions.

        Raises:
            InvalidInputError: If only some tensors of a stack are given, or they differ in shape, dtype or device.
        """
        missing = [member for member in self.members if member not in tensors]
        if missing:
            message = f"expected all tensors of the stack `{name}`, or none; missing: {shorten(missing)}"
            raise InvalidInputError(message)
        members = [tensors[member] for member in self.members]
        forms = {(tuple(one.shape), one.dtype, one.device): own for own, one in zip(self.members, members, strict=True)}
        if len(forms) > 1:
            listed = "; ".join(f"`{own}`: {shape}, {dtype}, {device}" for (shape, dtype, device), own in forms.items())
            message = f"expected equal shapes, dtypes and devices of the tensors of the stack `{name}`, got {listed}"
            raise InvalidInputError(message)
        joint = torch.stack(members, dim)
        return joint.reshape(*joint.shape[:dim], *self.sizes, *joint.shape[dim + 1 :])

    def split(self, tensor: Tensor, dim: int) -> dict[str, Tensor]:
        """Return the tensors of a stacked one, as views.

        Args:
            tensor: ``[*lead, *sizes, *rest]``.
            dim: Number of leading dimensions.

        Returns:
            ``[*lead, *rest]`` for every member.
        """
        flat = tensor.flatten(dim, dim + len(self.sizes) - 1)
        return dict(zip(self.members, flat.unbind(dim), strict=True))


def stack_of(name: str, groups: Mapping[str, int]) -> Stack | None:
    """Return the stack of a name in a layout.

    Args:
        name: Name of a tensor in a layout.
        groups: The number of units of each group of the layout.

    Returns:
        The stack; None if the name has no group of the layout in braces, and is that of a single tensor.

    Raises:
        SpecError: If the name lists another number of tensors than a group has units, or a group or tensor twice.
    """
    found = StackName.of(name)
    if found is None or not indices_of(name, groups):
        return None
    names = [index.group for index in found.indices]
    if len(set(names)) < len(names) or not groups.keys() >= set(names):
        message = f"{shown(name)}: expected each group in braces once, and all of them among {shorten([*groups])}"
        raise SpecError(message)
    sizes = tuple(groups[group] for group in names)
    for index, size in zip(found.indices, sizes, strict=True):
        if index.labels is not None and len(index.labels) != size:
            message = f"{shown(name)} lists {len(index.labels)} modules, group {index.group!r} has {size} units"
            raise SpecError(message)
    members = found.members(sizes)
    if len(set(members)) < len(members):
        message = f"{shown(name)}: expected the name of a different tensor for every unit, got {shorten([*members])}"
        raise SpecError(message)
    return Stack(members, sizes)


def indices_of(name: str, groups: Collection[str]) -> tuple[str, ...]:
    """Return the groups in the name of a stack.

    Args:
        name: Name of a tensor or stack.
        groups: Names of the groups of the layout.

    Returns:
        Names; none if it is the name of a tensor.
    """
    found = StackName.of(name)
    return tuple(index.group for index in found.indices if index.group in groups) if found else ()


def members_of(stacks: Mapping[str, Stack], name: str) -> tuple[str, ...]:
    """Return the names of the tensors of the network that a name in a layout has.

    Args:
        stacks: The stacks of the layout.
        name: Name of a tensor or stack.

    Returns:
        The names of the tensors of the stack, or the name itself.
    """
    return stacks[name].members if name in stacks else (name,)


def names_in(names: Iterable[str], groups: Mapping[str, int]) -> tuple[str, ...]:
    """Return the names of a network's tensors.

    Args:
        names: Names of tensors and stacks.
        groups: The number of units of each group.

    Returns:
        The names, with those of stacks one by one.

    Raises:
        SpecError: If a name occurs twice, or that of a stack does not fit its groups.
    """
    stacks = ((name, stack_of(name, groups)) for name in names)
    found = [member for name, stack in stacks for member in ((name,) if stack is None else stack.members)]
    if len(set(found)) < len(found):
        twice = [name for name, count in Counter(found).items() if count > 1]
        message = f"expected every tensor once, alone or in one stack, got {shorten(twice)} several times"
        raise SpecError(message)
    return tuple(found)


def require_leading_axes(name: str, axes: Sequence[Axis], groups: Mapping[str, Group]) -> None:
    """Raise if the first axes of a stack are not the groups in its name.

    Args:
        name: Name of the stack.
        axes: Its axes.
        groups: The groups of the layout.

    Raises:
        SpecError: If they are not.
    """
    expected = tuple(Atom(groups[group].size, group) for group in indices_of(name, groups))
    if tuple(axes[: len(expected)]) != expected:
        message = f"`{name}`: expected the groups in braces as its first axes, got {axes[: len(expected)]}"
        raise SpecError(message)


def stacked(
    stacks: Mapping[str, Stack], tensors: Mapping[str, Tensor], dims: Callable[[str], int]
) -> Mapping[str, Tensor]:
    """Return tensors by the names of a layout: the tensors of each stack as one.

    Args:
        stacks: The stacks by name.
        tensors: Tensors by name, ``[*lead, *shape]``; those of a stack all or none, or stacked already.
        dims: Returns the number of axes of a stacked tensor.

    Returns:
        ``[*lead, *sizes, *shape]`` for each stack, where the first of its tensors is; the same mapping without such
        tensors.

    Raises:
        InvalidInputError: If only some tensors of a stack are given, or they differ in shape, dtype or device.
    """
    named = {member: name for name, stack in stacks.items() for member in stack.members if member in tensors}
    if not named:
        return tensors
    found: dict[str, Tensor] = {}
    for own, tensor in tensors.items():
        name = named.get(own)
        if name is None:
            found[own] = tensor
        elif name not in found:
            stack = stacks[name]
            found[name] = stack.joined(name, tensors, tensor.dim() - dims(name) + len(stack.sizes))
    return found


def unstacked(
    stacks: Mapping[str, Stack], tensors: Mapping[str, Tensor], dims: Callable[[str], int]
) -> dict[str, Tensor]:
    """Return tensors by the names of the network: the tensors of each stack, as views.

    Args:
        stacks: The stacks by name.
        tensors: Tensors by the names of a layout, ``[*lead, *sizes, *shape]``.
        dims: Returns the number of axes of a stacked tensor.

    Returns:
        ``[*lead, *shape]`` for every tensor.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name not in stacks:
            found[name] = tensor
            continue
        found |= stacks[name].split(tensor, tensor.dim() - dims(name))
    return found


def _index(match: re.Match[str]) -> Index:
    labels = match["labels"]
    return Index(match["group"], match["within"], None if labels is None else tuple(labels.split("|")))
