"""The form of specifications that git-re-basin introduced and its descendants share."""

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
    """One name a dimension, and nothing finer (Ainsworth et al. 2023, ``weight_matching.py``).

    Attributes:
        perm_to_axes: For every permutation, the tensors and dimensions it acts on.
        axes_to_perm: For every tensor, the permutation of each dimension, or None.
    """

    perm_to_axes: dict[str, list[tuple[str, int]]]
    axes_to_perm: dict[str, tuple[str | None, ...]]


def to_git_rebasin(spec: PermutationSpec) -> GitRebasinSpec:
    """Return a specification in the form of git-re-basin.

    Args:
        spec: One whose axes are single groups: no flattening, no concatenation, no groups within groups.

    Returns:
        The two mappings.

    Raises:
        SpecError: If an axis cannot be written in that form; names all such axes.

    Examples:
        >>> from torch import nn
        >>> from rebasin_core import table_spec
        >>> spec = table_spec({"weight": "rows, -", "bias": "rows"}, nn.Linear(4, 3))
        >>> to_git_rebasin(spec).axes_to_perm
        {'weight': ('rows', None), 'bias': ('rows',)}
    """
    groups = dict(spec.groups)
    odd = [
        f"`{name}` [{format_axes(axes, groups)}]"
        for name, axes in spec.axes.items()
        if not all(
            isinstance(axis, Atom) and (axis.group is None or groups[axis.group].within is None) for axis in axes
        )
    ]
    if odd:
        message = (
            "the form of git-re-basin has one permutation a dimension; these axes are products, concatenations or "
            f"groups within groups: {', '.join(odd)}. `save_spec` writes them all"
        )
        raise SpecError(message)
    axes_to_perm = {
        name: tuple(axis.group if isinstance(axis, Atom) else None for axis in axes) for name, axes in spec.axes.items()
    }
    perm_to_axes: dict[str, list[tuple[str, int]]] = {}
    for name, perms in axes_to_perm.items():
        for place, perm in enumerate(perms):
            if perm is not None:
                perm_to_axes.setdefault(perm, []).append((name, place))
    return GitRebasinSpec(perm_to_axes, axes_to_perm)


def from_git_rebasin(spec: GitRebasinSpec | AxesToPerm, tensors: nn.Module | Mapping[str, Tensor]) -> PermutationSpec:
    """Return the specification that git-re-basin's form describes.

    Tensors that it leaves out (running statistics, most often) are taken to be fixed; `check_spec` tells whether that
    is right.

    Args:
        spec: The pair of mappings, or ``axes_to_perm`` alone.
        tensors: The model, or its parameters and buffers by name.

    Returns:
        The specification.

    Raises:
        SpecError: If it names tensors that do not exist, or sizes contradict each other.

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
