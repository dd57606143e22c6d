"""Group elements on tensors of stacks: on one of them without stacking, and on tensors with some of their axes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rebasin_core.symmetry.action import act
from rebasin_core.symmetry.layout import Layout
from rebasin_core.symmetry.stack import indices_of
from rebasin_core.tensors.device import indexable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import torch
    from torch import Tensor

    from rebasin_core.symmetry.permutation import GroupElement, Permutation


def permuted_member(
    permutation: Permutation, name: str, tensors: Mapping[str, Tensor], device: torch.device | None = None
) -> Tensor:
    """Return one tensor of a stack after a permutation, without stacking.

    It contains the units of one tensor of the stack, in their new order.

    Args:
        permutation: The permutation.
        name: Name of a tensor in a stack of the layout.
        tensors: The network, with all tensors of the stack.
        device: Device to which the tensor is copied; its own if None.

    Returns:
        The permuted tensor.
    """
    layout = permutation.layout
    key = layout.key(name)
    stack = layout.stacks[key]
    outer = indices_of(key, layout.groups)
    if any(name not in outer for group in outer for name in layout.ancestors(group)):
        # The units of one tensor come from several tensors.
        own = {member: indexable(tensors[member].to(device)) for member in stack.members}
        return permutation.apply(own)[name].view(tensors[name].dtype)
    units = _unraveled(stack.members.index(name), stack.sizes)
    at = dict(zip(outer, units, strict=True))
    sources = [_at(layout, permutation.indices[group], group, at).item() for group in outer]
    flat = 0
    for unit, size in zip(sources, stack.sizes, strict=True):
        flat = flat * size + int(unit)
    groups = {n: replace(g, within=_inner(layout, n, outer)) for n, g in layout.groups.items() if n not in outer}
    indices = {group: _at(layout, permutation.indices[group], group, at) for group in groups}
    source = tensors[stack.members[flat]].to(device)
    axes = layout.axes[key][len(outer) :]
    return act(Layout(groups, {}), indices, indexable(source), axes).view(source.dtype)


def applied_to_axes(
    element: GroupElement, tensors: Mapping[str, Tensor], dims: Callable[[str], Sequence[int]]
) -> dict[str, Tensor]:
    """Return transformed copies of tensors that have only some of the axes of the parameters of their names.

    Args:
        element: The group element.
        tensors: ``[*lead, *sizes]`` by the names of parameters; those of a stack all or none.
        dims: Returns the indices of the axes of a parameter, ascending.

    Returns:
        The transformed tensors.

    Raises:
        InvalidInputError: As `GroupElement.apply_to_axes`; or if only some tensors of a stack are given.
    """
    layout = element.layout
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        known = layout.names.of(name) or name
        key = layout.key(known)
        own = dims(name)
        if key not in layout.stacks:
            found[name] = element.apply_to_axes(known, tensor, own) if len(own) else tensor
        elif known == layout.stacks[key].members[0]:
            stack = layout.stacks[key]
            lead = tensor.dim() - len(own)
            count = len(stack.sizes)
            joint = stack.joined(key, tensors, lead)
            acted = element.apply_to_axes(key, joint, [*range(count), *(count + index for index in own)])
            found |= {member: part.clone() for member, part in stack.split(acted, lead).items()}
    return {name: found[name] for name in tensors}


def _at(layout: Layout, index: Tensor, group: str, at: Mapping[str, int]) -> Tensor:
    """Return the index of a group at given units of its outer groups, and at its own unit if that is given."""
    names = (*layout.ancestors(group), group)
    for dim in reversed(range(len(names))):
        if names[dim] in at:
            index = index.select(dim, at[names[dim]])
    return index


def _inner(layout: Layout, group: str, removed: Collection[str]) -> str | None:
    """Return the innermost outer group that is not removed."""
    return next((name for name in reversed(layout.ancestors(group)) if name not in removed), None)


def _unraveled(position: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    units: list[int] = []
    for size in reversed(sizes):
        units.insert(0, position % size)
        position //= size
    return tuple(units)
