"""Conversion from and to the specification format of Git Re-Basin (Ainsworth et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, final

from rebasin_core.errors import SpecError
from rebasin_core.specs.table import table_spec
from rebasin_core.symmetry.axis import Atom
from rebasin_core.symmetry.notation import format_axes
from rebasin_core.tensors.modules import named_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rebasin_core.specs.base import PermutationSpec

AxesToPerm: TypeAlias = "Mapping[str, tuple[str | None, ...]]"
"""For each parameter, the permutation of each axis, or None for a fixed axis: ``axes_to_perm`` of Git Re-Basin."""


@final
class GitRebasinSpec(NamedTuple):
    """A specification in the format of Git Re-Basin: at most one permutation per dimension.

    Attributes:
        perm_to_axes: For every permutation, the tensors and dimensions it acts on.
        axes_to_perm: For every tensor, the permutation of each dimension; None if it is fixed.

    References:
        S. Ainsworth, J. Hayase, S. Srinivasa (2023), "Git Re-Basin", ICLR, arXiv 2209.04836; `PermutationSpec` in
        ``weight_matching.py`` of its code.
    """

    perm_to_axes: dict[str, list[tuple[str, int]]]
    axes_to_perm: dict[str, tuple[str | None, ...]]


def to_git_rebasin(spec: PermutationSpec) -> GitRebasinSpec:
    """Convert a specification to the format of Git Re-Basin.

    Args:
        spec: A specification whose axes are single groups: no products, concatenations or nested groups.

    Returns:
        The two mappings.

    Raises:
        SpecError: If an axis cannot be expressed in this format; lists all such axes.

    Examples:
        >>> from torch import nn
        >>> from rebasin_core import table_spec
        >>> spec = table_spec({"weight": "rows, -", "bias": "rows"}, nn.Linear(4, 3))
        >>> to_git_rebasin(spec).axes_to_perm
        {'weight': ('rows', None), 'bias': ('rows',)}
    """
    groups = dict(spec.groups)
    unsupported = [
        f"`{name}` [{format_axes(axes, groups)}]"
        for name, axes in spec.axes.items()
        if not all(
            isinstance(axis, Atom) and (axis.group is None or groups[axis.group].within is None) for axis in axes
        )
        or name in spec.layout.stacks
    ]
    if unsupported:
        message = (
            "the format of Git Re-Basin has at most one permutation per dimension; these axes are products, "
            f"concatenations or nested groups, or they are those of several tensors that are exchanged: "
            f"{', '.join(unsupported)}. Use `save_spec`, which supports them"
        )
        raise SpecError(message)
    axes_to_perm = {
        name: tuple(axis.group if isinstance(axis, Atom) else None for axis in axes) for name, axes in spec.axes.items()
    }
    perm_to_axes: dict[str, list[tuple[str, int]]] = {}
    for name, perms in axes_to_perm.items():
        for dim, perm in enumerate(perms):
            if perm is not None:
                perm_to_axes.setdefault(perm, []).append((name, dim))
    return GitRebasinSpec(perm_to_axes, axes_to_perm)


def from_git_rebasin(spec: GitRebasinSpec | AxesToPerm, tensors: nn.Module | Mapping[str, Tensor]) -> PermutationSpec:
    """Convert a specification in the format of Git Re-Basin.

    Tensors that it omits (often running statistics) are assumed to be fixed. Verify the result with `check_spec`.

    Args:
        spec: The pair of mappings, or only ``axes_to_perm``.
        tensors: The model, or its parameters and buffers by name.

    Returns:
        The specification.

    Raises:
        SpecError: If it contains unknown tensors, or sizes contradict each other.

    Examples:
        >>> from torch import nn
        >>> spec = from_git_rebasin({"weight": ("P", None), "bias": ("P",)}, nn.Linear(4, 3))
        >>> spec.groups["P"].size
        3
    """
    axes_to_perm = spec.axes_to_perm if isinstance(spec, GitRebasinSpec) else spec
    named = tensors if isinstance(tensors, Mapping) else named_tensors(tensors)
    table = {name: ", ".join(perm or "-" for perm in perms) for name, perms in axes_to_perm.items()}
    rest = {name: ", ".join("-" * tensor.dim()) for name, tensor in named.items() if name not in table}
    return table_spec({**table, **rest}, tensors)
