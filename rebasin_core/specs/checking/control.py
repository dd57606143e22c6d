"""The positive control: the parts of a model's tensors that have been shown to affect its outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from rebasin_core.specs.checking.inert import classify_influence

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rebasin_core.specs.checking.inert import Influence
    from rebasin_core.specs.checking.parts import Part, Sensitivities
    from rebasin_core.specs.checking.point import Point

# Maximum number of parts that are examined by running the model if gradients exist but show no effect.
_MANY = 64


@final
@dataclass(frozen=True, slots=True)
class Thresholds:
    """Thresholds between effects and rounding errors, for a machine precision.

    Attributes:
        effect: Smallest change of the outputs that shows that a part affects them.
        rounding: Changes up to this value always count as rounding.
        margin: Required ratio of the effect of each part to the change under a group element.
        certain: Smallest change under perturbation that shows an effect if permuting the part has none.
        tolerance: Changes above this value never count as rounding.
    """

    effect: float
    rounding: float
    margin: float
    certain: float
    tolerance: float

    @classmethod
    def of(cls, precision: float, tolerance: float) -> Thresholds:
        """Return the thresholds for a machine precision.

        Args:
            precision: The machine precision.
            tolerance: The tolerance in float64.

        Returns:
            The thresholds. In float64 an effect is at least 1e6 times the machine precision, and rounding at most 1e3
            times; in float32 the margin is smaller.
        """
        if precision < 1e-12:
            return cls(1e6 * precision, 1e3 * precision, 1e3, 1e10 * precision, tolerance)
        scaled = min(0.5, tolerance * precision / 2.0**-52)
        return cls(1e4 * precision, 1e3 * precision, 10.0, 3e5 * precision, scaled)

    def shows(self, permuted: float, perturbed: float) -> bool:
        """Return whether the outputs depend on a part.

        Args:
            permuted: Effect of permuting only this part.
            perturbed: Effect of perturbing only this part.

        Returns:
            True if permuting has an effect. If it has none, as for a summed axis, perturbing must have a large one.
        """
        return permuted >= self.effect or perturbed >= self.certain

    def shows_fixed(self, perturbed: float) -> bool:
        """Return whether the outputs depend on a tensor on which no group acts.

        Args:
            perturbed: Effect of perturbing it.

        Returns:
            True if the effect is large enough.
        """
        return perturbed >= self.effect

    def limit(self, effects: Iterable[tuple[float, float]]) -> float:
        """Return the largest change under a group element that counts as rounding.

        Args:
            effects: Effects of permuting and of perturbing each part alone.

        Returns:
            The tolerance, or less if the effect of a part is so small that an error in it could be below.
        """
        least = min((permuted for permuted, _ in effects if permuted >= self.effect), default=math.inf)
        return min(self.tolerance, max(self.rounding, least / self.margin))


@final
class Control:
    """Records which parts have been shown to affect the outputs.

    Args:
        parts: All parts.
        sensitivities: Computes the effects of parts.
        tolerance: The tolerance in float64.
    """

    def __init__(self, parts: Sequence[Part], sensitivities: Sensitivities, tolerance: float) -> None:
        self._parts = parts
        self._sensitivities = sensitivities
        self._tolerance = tolerance
        self.pending = list(parts)
        self.inert: list[Part] = []
        self.unused: list[Part] = []
        self._without_effect: set[Part] = set()

    @property
    def state(self) -> tuple[list[Part], list[Part], list[Part]]:
        """The parts that are pending, inert and unused, for `restore`."""
        return [*self.pending], [*self.inert], [*self.unused]

    def restore(self, state: tuple[list[Part], list[Part], list[Part]]) -> None:
        """Discard the examinations since a state was read.

        Args:
            state: The state.
        """
        self.pending, self.inert, self.unused = state

    def examine_gradients(self, point: Point) -> float:
        """Examine all parts at a point, to first order.

        Args:
            point: The point.

        Returns:
            The largest change under a group element that counts as rounding there.
        """
        thresholds = self.thresholds_at(point)
        if point.gradients is None:
            return thresholds.tolerance
        effects = self._sensitivities.linear(point, self._parts)
        self._remove_shown(thresholds, effects)
        return thresholds.limit(effects.values())

    def examine_runs(self, point: Point) -> float:
        """Examine the pending parts at a point, by running the model with each of them permuted and perturbed.

        Args:
            point: The point.

        Returns:
            The largest change under a group element that counts as rounding there.
        """
        thresholds = self.thresholds_at(point)
        wanted = self.pending if point.gradients is None else self.pending[:_MANY]
        if self.lack_effects(point, wanted):
            return thresholds.tolerance
        effects = {part: self._sensitivities.finite(point, part) for part in wanted}
        self._without_effect = {part for part, effect in effects.items() if max(effect) <= thresholds.rounding}
        self._remove_shown(thresholds, effects)
        return thresholds.limit(effects.values())

    def lack_effects(self, point: Point, parts: Sequence[Part]) -> bool:
        """Return whether parts have no effect at a point, by two runs: the usual case, such as biases of keys.

        Args:
            point: The point.
            parts: Pending parts.

        Returns:
            Whether permuting all of them and perturbing all of them change the outputs by no more than rounding.
        """
        if max(self._sensitivities.joint(point, parts)) > self.thresholds_at(point).rounding:
            return False
        self._without_effect = set(parts)
        return True

    def classify(self, point: Point) -> None:
        """Remove pending parts that have no effect at any parameters: unused and inert ones.

        Args:
            point: The point of the last call of `examine_runs` or `lack_effects`.
        """
        thresholds = self.thresholds_at(point)
        # The influence of a cell does not depend on the group.
        known: dict[tuple[str, int], Influence] = {}
        for part in self.pending:
            if part not in self._without_effect:
                continue
            influence = known.get((part.tensor, part.cell))
            if influence is None:
                other = self._sensitivities.perturbed(point, part)
                influence = classify_influence(point, part.tensor, other, threshold=thresholds.effect)
                known[part.tensor, part.cell] = influence
            if influence == "unused":
                self.unused.append(part)
            elif influence == "inert":
                self.inert.append(part)
        explained = {*self.unused, *self.inert}
        self.pending = [part for part in self.pending if part not in explained]

    def thresholds_at(self, point: Point) -> Thresholds:
        """Return the thresholds at a point.

        Args:
            point: The point.

        Returns:
            The thresholds for its machine precision.
        """
        return Thresholds.of(point.precision, self._tolerance)

    def _remove_shown(self, limits: Thresholds, effects: dict[Part, tuple[float, float]]) -> None:
        self.pending = [
            part
            for part in self.pending
            if part not in effects
            or not (limits.shows_fixed(effects[part][1]) if part.group is None else limits.shows(*effects[part]))
        ]
