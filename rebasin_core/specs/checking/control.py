"""The positive control: which parts of a model's tensors have been shown to matter to its outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from rebasin_core.specs.checking.inert import fate_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rebasin_core.specs.checking.parts import Part, Sensitivities
    from rebasin_core.specs.checking.point import Point

# Runs of the model that are spent on single tensors where gradients show nothing.
_MANY = 64


@final
@dataclass(frozen=True, slots=True)
class Standard:
    """What counts as an effect and what as rounding, in an arithmetic.

    Attributes:
        effect: Smallest change of the outputs by which a part is shown to matter.
        rounding: Changes up to here are rounding, whatever else matters little.
        margin: By how much the change under a group element must be smaller than that of each part alone.
        certain: The change under disturbance that shows a part to matter whose moving alone changes nothing.
        tolerance: Changes beyond are none of rounding.
    """

    effect: float
    rounding: float
    margin: float
    certain: float
    tolerance: float

    @classmethod
    def of(cls, precision: float, tolerance: float) -> Standard:
        """Return the standard of an arithmetic.

        Args:
            precision: Its machine precision.
            tolerance: What is tolerated in float64.

        Returns:
            The standard: for float64 a million times the machine precision against a thousand times; float32 leaves
            less room.
        """
        if precision < 1e-12:
            return cls(1e6 * precision, 1e3 * precision, 1e3, 1e10 * precision, tolerance)
        scaled = min(0.5, tolerance * precision / 2.0**-52)
        return cls(1e4 * precision, 1e3 * precision, 10.0, 3e5 * precision, scaled)

    def shows(self, moved: float, disturbed: float) -> bool:
        """Return whether the effects of a part show that it matters.

        Args:
            moved: Of moving it alone.
            disturbed: Of disturbing it alone.

        Returns:
            True if so. Where moving has no effect, as for what is summed over, disturbing must have a large one.
        """
        return moved >= self.effect or disturbed >= self.certain

    def shows_fixed(self, disturbed: float) -> bool:
        """Return whether the effect of disturbing a tensor that nothing acts on shows that it matters.

        Args:
            disturbed: The effect.

        Returns:
            True if so.
        """
        return disturbed >= self.effect

    def limit(self, effects: Iterable[tuple[float, float]]) -> float:
        """Return the largest change under a group element that is taken for rounding.

        Args:
            effects: Of moving and of disturbing each part alone.

        Returns:
            The tolerance, or less where parts matter so little that one at fault would stay below it.
        """
        least = min((moved for moved, _ in effects if moved >= self.effect), default=math.inf)
        return min(self.tolerance, max(self.rounding, least / self.margin))


@final
class Control:
    """Keeps the account of what was shown.

    Args:
        parts: What has to be shown.
        sensitivities: Measures it.
        tolerance: What is tolerated in float64.
    """

    def __init__(self, parts: Sequence[Part], sensitivities: Sensitivities, tolerance: float) -> None:
        self._parts = parts
        self._sensitivities = sensitivities
        self._tolerance = tolerance
        self.pending = list(parts)
        self.inert: list[Part] = []
        self.unused: list[Part] = []
        self._without_effect: set[Part] = set()

    def see(self, point: Point) -> float:
        """Look at all parts at a point, by its gradients.

        Args:
            point: The point.

        Returns:
            The largest change under a group element that is taken for rounding there.
        """
        standard = self.standard(point)
        if point.gradients is None:
            return standard.tolerance
        effects = self._sensitivities.linear(point, self._parts)
        self._strike(standard, effects)
        return standard.limit(effects.values())

    def see_alone(self, point: Point) -> float:
        """Look at those parts that are not shown yet, by running the model with each moved and disturbed.

        Args:
            point: The point.

        Returns:
            The largest change under a group element that is taken for rounding there.
        """
        standard = self.standard(point)
        wanted = self.pending if point.gradients is None else self.pending[:_MANY]
        together = self._sensitivities.together(point, wanted)
        if max(together) <= standard.rounding:  # as most often: only biases of keys are left
            self._without_effect = set(wanted)
            return standard.tolerance
        effects = {part: self._sensitivities.finite(point, part) for part in wanted}
        self._without_effect = {part for part, effect in effects.items() if max(effect) <= standard.rounding}
        self._strike(standard, effects)
        return standard.limit(effects.values())

    def judge(self, point: Point) -> None:
        """Take parts off the list that have no effect for a reason that holds at all parameters.

        Args:
            point: The point that was looked at last, by `see_alone`.
        """
        standard = self.standard(point)
        for part in self.pending:
            if part not in self._without_effect:
                continue
            other = self._sensitivities.disturbed(point, part)
            fate = fate_of(point, part.tensor, other, threshold=standard.effect)
            if fate == "unused":
                self.unused.append(part)
            elif fate == "inert":
                self.inert.append(part)
        gone = {*self.unused, *self.inert}
        self.pending = [part for part in self.pending if part not in gone]

    def standard(self, point: Point) -> Standard:
        """Return what counts as an effect at a point.

        Args:
            point: The point.

        Returns:
            The standard of its arithmetic.
        """
        return Standard.of(point.precision, self._tolerance)

    def _strike(self, standard: Standard, effects: dict[Part, tuple[float, float]]) -> None:
        self.pending = [
            part
            for part in self.pending
            if part not in effects
            or not (standard.shows_fixed(effects[part][1]) if part.group is None else standard.shows(*effects[part]))
        ]
