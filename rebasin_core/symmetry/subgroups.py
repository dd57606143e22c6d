"""Subgroups of a symmetry: fewer kinds of maps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from rebasin_core.symmetry.kind import Kind
from rebasin_core.tensors.frozen import FrozenMapping

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from rebasin_core.symmetry.linear import LinearSymmetry, Symmetry

# The kinds of maps that each kind contains, the largest first.
_CONTAINED: Final[Mapping[Kind, tuple[Kind, ...]]] = {
    Kind.INVERTIBLE: (
        Kind.INVERTIBLE,
        Kind.ORTHOGONAL,
        Kind.ORTHOGONAL_FIXING_ONES,
        Kind.NONZERO,
        Kind.POSITIVE,
        Kind.SIGN,
    ),
    Kind.ORTHOGONAL: (Kind.ORTHOGONAL, Kind.ORTHOGONAL_FIXING_ONES, Kind.SIGN),
    Kind.ORTHOGONAL_FIXING_ONES: (Kind.ORTHOGONAL_FIXING_ONES,),
    Kind.NONZERO: (Kind.NONZERO, Kind.POSITIVE, Kind.SIGN),
    Kind.ROTATION: (Kind.ROTATION,),
    Kind.POSITIVE: (Kind.POSITIVE,),
    Kind.SIGN: (Kind.SIGN,),
    Kind.FLIP: (Kind.FLIP,),
}


def contained_kinds(kind: Kind) -> tuple[Kind, ...]:
    """Return the kinds of maps that a kind contains, the largest first.

    Args:
        kind: A kind.

    Returns:
        The kind itself, and smaller ones.
    """
    return _CONTAINED[kind]


def restricted_to(symmetry: Symmetry, kinds: Collection[Kind]) -> Symmetry:
    """Return a symmetry with the maps of some kinds only.

    Args:
        symmetry: The symmetry.
        kinds: The kinds. A family of another kind is replaced by the largest of these kinds that it contains, such as
            signs for nonzero factors, or omitted.

    Returns:
        A symmetry with the same layout.
    """
    found = (_restricted(linear, kinds) for linear in symmetry.linear)
    return replace(symmetry, linear=tuple(linear for linear in found if linear is not None))


def _restricted(linear: LinearSymmetry, kinds: Collection[Kind]) -> LinearSymmetry | None:
    kind = next((kind for kind in _CONTAINED[linear.kind] if kind in kinds), None)
    if kind is None or kind is linear.kind:
        return linear if kind else None
    degrees = dict(linear.degrees)
    if kind is Kind.SIGN:
        degrees = dict.fromkeys((slot for slot, degree in degrees.items() if degree % 2), 1)
    return replace(linear, kind=kind, degrees=FrozenMapping(degrees)) if degrees else None
