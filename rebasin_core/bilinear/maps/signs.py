"""Signs of single units: the families that flip them, and the best signs for every pair of units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.symmetry.kind import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.symmetry.linear import Slot, Symmetry

_MAX_TOGETHER = 12


@final
@dataclass(frozen=True, slots=True)
class SignFamilies:
    """The families of signs of one group.

    Attributes:
        indices: Their indices among the linear symmetries.
        patterns: The sets of families that flip one slot, as indices into ``indices``; the first is the empty set.
        by_slot: Index of the pattern of every slot that some family flips.
    """

    indices: tuple[int, ...]
    patterns: tuple[frozenset[int], ...]
    by_slot: dict[Slot, int]

    @classmethod
    def of(cls, symmetry: Symmetry, group: str) -> SignFamilies:
        """Return the families of a group.

        Args:
            symmetry: The linear symmetries.
            group: Name of the group.

        Returns:
            The families.
        """
        indices = tuple(
            index
            for index, linear in enumerate(symmetry.linear)
            if linear.group == group and linear.kind in {Kind.SIGN, Kind.NONZERO}
        )
        flipping: dict[Slot, frozenset[int]] = {}
        for number, index in enumerate(indices):
            for slot, degree in symmetry.linear[index].degrees.items():
                if degree % 2:
                    flipping[slot] = flipping.get(slot, frozenset()) | {number}
        patterns = (frozenset[int](), *dict.fromkeys(flipping.values()))
        return cls(indices, patterns, {slot: patterns.index(flips) for slot, flips in flipping.items()})

    def pattern_of(self, slot: Slot) -> int:
        """Return the index of the pattern of a slot.

        Args:
            slot: Any slot of the group.

        Returns:
            0 if no family flips it.
        """
        return self.by_slot.get(slot, 0)

    def best(self, similarities: Tensor) -> tuple[Tensor, Tensor]:
        """Return the largest similarity over all signs, and the signs, for every pair of units.

        Args:
            similarities: ``[patterns, *outer, n, n]``.

        Returns:
            The similarities ``[*outer, n, n]``, and for each family whether it flips: ``[families, *outer, n, n]``.
        """
        total = similarities[0].clone()
        flips = torch.zeros((len(self.indices), *total.shape), dtype=torch.bool, device=total.device)
        for members in self._together():
            own = [number for number, pattern in enumerate(self.patterns) if pattern & set(members)]
            best: Tensor | None = None
            for code in range(2 ** len(members)):
                flipped = {member for bit, member in enumerate(members) if code >> bit & 1}
                value = similarities.new_zeros(total.shape)
                for number in own:
                    value += (-1) ** len(self.patterns[number] & flipped) * similarities[number]
                better = torch.ones_like(total, dtype=torch.bool) if best is None else value > best
                best = value if best is None else torch.maximum(best, value)
                for member in members:
                    flips[member] = torch.where(better, torch.tensor(member in flipped), flips[member])
            total += 0 if best is None else best
        return total, flips

    def maps(self, flips: Tensor) -> dict[int, Tensor]:
        """Return the factors of each family.

        Args:
            flips: ``[families, *outer, n]``.

        Returns:
            Factors 1 or -1 by index among the linear symmetries.
        """
        return {index: torch.where(flips[number], -1.0, 1.0).double() for number, index in enumerate(self.indices)}

    def _together(self) -> list[tuple[int, ...]]:
        """Return families that flip common slots together."""
        sets: list[set[int]] = []
        for pattern in self.patterns[1:]:
            joined = set(pattern).union(*(one for one in sets if one & pattern))
            sets = [one for one in sets if not one & pattern] + [joined]
        if any(len(one) > _MAX_TOGETHER for one in sets):
            message = f"expected at most {_MAX_TOGETHER} families of signs with common tensors"
            raise InvalidInputError(message)
        return [tuple(sorted(one)) for one in sets]
