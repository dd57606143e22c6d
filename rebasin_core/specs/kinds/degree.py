"""Degrees: how the units of an axis are transformed, in terms of the unknown degrees of the slots of parameters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from rebasin_core.tensors.frozen import FrozenMapping

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rebasin_core.symmetry.linear import Slot


@final
@dataclass(frozen=True, slots=True)
class Degree:
    r"""The degree of an axis: if each slot $s$ is multiplied by $\lambda^{d_s}$, it is multiplied by $\lambda^d$.

    Attributes:
        scale: The exponent of positive factors, as a linear combination of the degrees of slots.
        sign: The slots whose signs multiply that of the axis.
        square_of: The degree of the axis whose square this is; None for other axes.
        own_slot: The slot, if this is the axis of a parameter itself, not of a tensor computed from it.
        offset_slot: The slot of the parameter $w$, if this is the axis of $1 + w$; the degree is then that of $1 + w$.
        origin: A slot of the same group, also if the degree does not depend on it.
    """

    scale: Mapping[Slot, int] = field(default_factory=lambda: FrozenMapping({}))
    sign: frozenset[Slot] = frozenset()
    square_of: Degree | None = None
    own_slot: Slot | None = None
    offset_slot: Slot | None = None
    origin: Slot | None = None

    @classmethod
    def of(cls, slot: Slot) -> Degree:
        """Return the degree of a slot."""
        return cls(FrozenMapping({slot: 1}), frozenset({slot}), own_slot=slot, origin=slot)

    def plus(self, other: Degree, factor: int = 1) -> Degree:
        """Return the degree of a product.

        Args:
            other: The degree of the second tensor.
            factor: -1 for a quotient.

        Returns:
            The sum.
        """
        total = dict(self.scale)
        for slot, count in other.scale.items():
            total[slot] = total.get(slot, 0) + factor * count
        kept = {slot: count for slot, count in total.items() if count}
        return Degree(FrozenMapping(kept), self.sign ^ other.sign, origin=self.origin or other.origin)

    @property
    def scale_slot(self) -> Slot | None:
        """The slot of a parameter that is one or zero, depending on the use, if the entries along this axis are one."""
        return self.own_slot or self.offset_slot

    @property
    def slots(self) -> frozenset[Slot]:
        """All slots that it depends on."""
        return frozenset(self.scale) | self.sign
