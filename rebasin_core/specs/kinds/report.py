"""Reports: the maps that each group admits in addition to permutations, and the operator that excludes larger ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rebasin_core.specs.unification.terms import Reason
    from rebasin_core.symmetry.kind import Kind
    from rebasin_core.symmetry.linear import Symmetry

# Maximum number of names of groups in a line of a report.
_SHOWN = 6


@final
@dataclass(frozen=True, slots=True)
class GroupKinds:
    """The maps of the units of one group.

    Attributes:
        name: Name of the group.
        size: Number of its units.
        within: Name of the group in which it is nested; None if it is not.
        log10_order: Decimal logarithm of the number of its permutations, in all units of its outer groups.
        kinds: The kinds of linear maps that it admits in addition.
        folded_kinds: Those after the scales of normalizations are folded into the next weights.
        dimension: Number of continuous parameters of these maps, before folding.
        folded_dimension: The same after folding.
        log2_signs: Number of signs that can be chosen.
        limit: The operator that excludes larger maps, even after folding; None if all invertible maps are admitted, or
            maps of the groups nested in it.
    """

    name: str
    size: int
    within: str | None
    log10_order: float
    kinds: tuple[Kind, ...]
    folded_kinds: tuple[Kind, ...]
    dimension: int
    folded_dimension: int
    log2_signs: int
    limit: Reason | None

    @property
    def maps(self) -> str:
        """The kinds as text, such as ``sign, nonzero; orthogonal after folding``."""
        plain = ", ".join(dict.fromkeys(map(str, self.kinds)))
        folded = ", ".join(dict.fromkeys(map(str, self.folded_kinds)))
        return plain if plain == folded else f"{plain or 'permutation'}; {folded} after folding"

    @override
    def __str__(self) -> str:
        """Return one line of text."""
        limit = f"; limited by: {self.limit.label}" if self.limit else ""
        return f"{self.name}: {self.maps or 'permutation'}{limit}"


def group_kinds(plain: Symmetry, folded: Symmetry, limits: Mapping[str, Reason]) -> tuple[GroupKinds, ...]:
    """Return the maps of every group.

    Args:
        plain: The maps that the model admits.
        folded: Those that it admits after the scales of normalizations are folded.
        limits: The operator that excludes larger maps, by group.

    Returns:
        One value for each group, also for those whose units cannot be permuted.
    """
    found: list[GroupKinds] = []
    groups = {**plain.layout.groups, **folded.layout.groups}
    for name, group in groups.items():
        layout = plain.layout if name in plain.layout.groups else folded.layout
        *outer, size = layout.index_shape(name)
        count = math.prod(outer)
        permutations = (
            0.0 if name in plain.unpermuted | folded.unpermuted else count * math.lgamma(size + 1) / math.log(10)
        )
        found.append(
            GroupKinds(
                name,
                size,
                group.within,
                permutations,
                tuple(linear.kind for linear in plain.of(name)),
                tuple(linear.kind for linear in folded.of(name)),
                count * sum(linear.kind.dimension(size) for linear in plain.of(name)),
                count * sum(linear.kind.dimension(size) for linear in folded.of(name)),
                count * size * sum(linear.kind.has_signs for linear in plain.of(name)),
                limits.get(name),
            )
        )
    return tuple(found)


def described(groups: Iterable[GroupKinds]) -> list[str]:
    """Return lines of text: the totals, then one line for all groups with equal kinds and limits.

    Args:
        groups: The maps of every group.

    Returns:
        The lines; none if there are no groups.
    """
    by_text: dict[str, list[str]] = {}
    plain = folded = signs = 0
    for group in groups:
        plain, folded, signs = plain + group.dimension, folded + group.folded_dimension, signs + group.log2_signs
        text = f"{group.maps or 'no linear maps of their own'}"
        text += f", limited by: {group.limit.label}" if group.limit else ""
        by_text.setdefault(text, []).append(group.name)
    if not by_text:
        return []
    after = "" if plain == folded else f" ({folded} after folding)"
    lines = [f"linear maps: {plain} continuous dimensions{after}, {signs} signs"]
    for text, names in by_text.items():
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        lines.append(f"  {', '.join(names[:_SHOWN])}{more}: {text}")
    return lines
