"""Check a layout on a model: random parameters, group elements and the positive control."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import SpecError
from rebasin_core.specs.checking.control import Control
from rebasin_core.specs.checking.draws import Tensors
from rebasin_core.specs.checking.map_draws import drawn_maps
from rebasin_core.specs.checking.measure import OutputScales
from rebasin_core.specs.checking.noise import EquivariantNoise
from rebasin_core.specs.checking.parts import Sensitivities, parts_of
from rebasin_core.specs.checking.point import Point
from rebasin_core.specs.checking.runs import FAILURES, Runner
from rebasin_core.specs.checking.ties import is_decided_by_ties
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.symmetry.symmetry_element import SymmetryElement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from rebasin_core.specs.checking.runs import Inputs
    from rebasin_core.symmetry.layout import Layout
    from rebasin_core.symmetry.linear import Symmetry

# Maximum number of parts without an effect that are examined one by one before other parameters are tried.
_FEW = 32


@final
@dataclass
class Findings:
    """Outcome of an examination.

    Attributes:
        error: Largest change of an output under a group element; NaN if no outputs could be compared.
        limit: Tolerance of the comparison with the largest ratio of error and tolerance.
        untested: Names of tensors that were not shown to affect the outputs, each with the reason.
        inert: Names of tensors on which the outputs do not depend at any parameters.
        point: Parameters at which a group element changed the outputs; None if none did.
        element: That group element.
        reason: Why no outputs could be compared; empty if they were.
        first: The first point that was examined.
        mapped: Points at which linear maps were applied together with a group element, and preserved the outputs.
        limits: For every point at which group elements were tried, the largest change that counts as rounding.
    """

    error: float = 0.0
    limit: float = math.inf
    untested: dict[str, str] = field(default_factory=dict)
    inert: tuple[str, ...] = ()
    point: Point | None = None
    element: Permutation | None = None
    reason: str = ""
    first: Point | None = None
    mapped: set[Point] = field(default_factory=set)
    limits: dict[Point, float] = field(default_factory=dict)

    def copy(self) -> Findings:
        """Return equal findings that can be continued independently."""
        return replace(self, mapped=set(self.mapped), limits=dict(self.limits), untested=dict(self.untested))


@final
class Examination:
    """The check of one layout on one model.

    Args:
        layout: The layout, with all tensors of the model.
        model: The model.
        inputs: Inputs of the model.
        tries: Number of random group elements.
        tolerance: Largest relative change that counts as rounding, in float64.
        generator: Source of randomness.
        symmetry: Linear maps to apply together with permutations, which saves runs; None if there are none.
    """

    def __init__(  # ruff: ignore[too-many-arguments] - those of the check
        self,
        layout: Layout,
        model: nn.Module,
        inputs: Inputs,
        *,
        tries: int,
        tolerance: float,
        generator: torch.Generator,
        symmetry: Symmetry | None = None,
    ) -> None:
        self._layout = layout
        self._model = model
        self._inputs = inputs
        self._tries = tries
        self._tolerance = tolerance
        self._generator = generator
        self._symmetry = symmetry
        self._derangement = derangement(layout, generator)

    def findings(self) -> Findings:
        """Run the examination in float64 if the model supports it, else in the model's own dtypes."""
        found = self._found(Runner(self._model, self._inputs, unstacked=self._layout.unstacked), wide=True)
        return found if found is not None else self._in_own_dtypes()

    def _in_own_dtypes(self) -> Findings:
        runner = Runner(self._model, self._inputs, wide=False, unstacked=self._layout.unstacked)
        try:
            with torch.no_grad():
                runner(Tensors.of(self._model, wide=False).values)
        except FAILURES as error:
            message = f"cannot run the model on the example inputs: {type(error).__name__}: {error}"
            raise SpecError(message) from error
        return self._found(runner, wide=False) or Findings()

    def _found(self, runner: Runner, *, wide: bool) -> Findings | None:
        """Return the findings; None if the model cannot be run in float64."""
        tensors = Tensors.of(self._model, wide=wide)
        found = self._at_draws(runner, tensors)
        suspect = None if found is None else found.point or (found.first if found.untested else None)
        if found is None or suspect is None:
            return found
        kind = _randomness(suspect, self._tolerance)
        if kind is None or (kind == "seeded" and found.point is None):
            return found
        # With noise that is permuted with the units, equivalent networks have equal outputs again.
        noise = EquivariantNoise()
        runner.noise = noise
        again = self._at_draws(runner, tensors) if kind == "seeded" else found
        if kind == "unseeded" or (again is not None and again.point is not None and noise.unkeyed):
            return _stochastic(self._layout, sorted(noise.unkeyed))
        return again

    def _at_draws(self, runner: Runner, tensors: Tensors) -> Findings | None:
        parts = parts_of(self._layout, self._layout.stacked(tensors.values))
        control = Control(parts, Sensitivities(self._layout, self._derangement, self._generator), self._tolerance)
        found = Findings()
        points: list[Point] = []
        failures: list[str] = []
        tied: Findings | None = None
        for draw in map(self._layout.stacked, tensors.draws(self._generator)):
            before = control.state
            point, is_classified = self._point(runner, draw, control, number=len(points) + 1)
            if isinstance(point, str):
                failures.append(point)
                if len(failures) == 2 and not points and not _runs(runner, tensors):
                    return None
                continue
            limit = control.examine_gradients(point) if control.pending else control.thresholds_at(point).tolerance
            limit = min(limit, math.inf if is_classified else self._examine_few(control, point, len(points) + 1))
            now = found.copy()
            now.first = now.first or point
            if self._passes(point, limit, now, len(points) + 1):
                found = now
                points.append(point)
            elif is_decided_by_ties(point):  # no evidence, unless it is so at all parameters
                tied = tied or now
                control.restore(before)
            else:
                return now
            if len(points) >= min(2, self._tries) and not control.pending:
                break
        found = self._pending_examined(control, found, points, failures)
        # Without ties, every part must have had an effect that a wrong axis would have changed.
        return tied if tied is not None and (control.pending or not points) else found

    def _pending_examined(
        self, control: Control, found: Findings, points: Sequence[Point], failures: list[str]
    ) -> Findings:
        """Examine the parts without a visible effect by runs at the first points, and complete the findings."""
        for point in points[:2]:
            if control.pending:
                before = control.state
                limit = control.examine_runs(point)
                control.classify(point)
                now = found.copy()
                if self._passes(point, limit, now, 2):
                    found = now
                elif is_decided_by_ties(point):
                    control.restore(before)
                else:
                    return now
        _report(control, found, failures if not points else [])
        return found

    def _point(
        self, runner: Runner, draw: Mapping[str, Tensor], control: Control, *, number: int
    ) -> tuple[Point | str, bool]:
        """Return the model at some parameters, or why its outputs cannot be compared, and whether parts are classified.

        Few parts without an effect at the first parameters usually have none at any. Then gradients are not needed.
        """
        if number != 2 or not 0 < len(control.pending) <= _FEW:
            return Point.of(runner, draw, self._generator, gradients=bool(control.pending)), False
        point = Point.of(runner, draw, self._generator, gradients=False)
        if isinstance(point, str):
            return point, False
        if control.lack_effects(point, control.pending):
            control.classify(point)
            return point, True
        return Point.of(runner, draw, self._generator, gradients=True), False

    @staticmethod
    def _examine_few(control: Control, point: Point, number: int) -> float:
        """Examine the pending parts by runs if they are few, at the first two points, and return the tolerance."""
        differentiable = point.gradients is not None
        if not control.pending or number > 2 or (differentiable and (number == 1 or len(control.pending) > _FEW)):
            return math.inf
        limit = control.examine_runs(point)
        control.classify(point)
        return limit

    def _passes(self, point: Point, limit: float, found: Findings, number: int) -> bool:
        """Try group elements at a point, and record the largest ratio of error and tolerance."""
        found.limits[point] = min(limit, found.limits.get(point, math.inf))
        elements = [self._derangement]
        elements += [
            Permutation.random(self._layout, generator=self._generator)
            for _ in range(self._tries - 2 if number == 1 else 0)
        ]
        for element in elements:
            if number <= 2 and element is elements[-1] and self._passes_with_maps(point, element, limit, found):
                continue
            error = point.error(element.apply(dict(point.tensors)))
            _record(found, error, limit)
            if error > limit:
                found.point, found.element = point, element
                return False
        return True

    def _passes_with_maps(self, point: Point, element: Permutation, limit: float, found: Findings) -> bool:
        """Try a group element together with random linear maps; if the outputs change, each must be tried alone."""
        if self._symmetry is None or point.runner.noise is not None or point in found.mapped:
            return False
        both = SymmetryElement(self._symmetry, element, drawn_maps(self._symmetry, self._generator))
        error = point.error(both.apply(dict(point.tensors)))
        if error > limit:
            return False
        _record(found, error, limit)
        found.mapped.add(point)
        return True


def _record(found: Findings, error: float, limit: float) -> None:
    """Keep the comparison with the largest ratio of error and tolerance."""
    if error / limit >= found.error / found.limit:
        found.error, found.limit = error, limit


def derangement(layout: Layout, generator: torch.Generator) -> Permutation:
    """Return a random group element without fixed points, in all groups of at least two units.

    Args:
        layout: The layout.
        generator: Source of randomness.

    Returns:
        The element.
    """
    order = Permutation.random(layout, generator=generator)
    shift = Permutation(
        layout, {name: index.roll(1, -1) for name, index in Permutation.identity(layout).indices.items()}
    )
    return order.compose(shift).compose(order.inverse())


def _runs(runner: Runner, tensors: Tensors) -> bool:
    """Return whether the model runs with its own parameters."""
    try:
        with torch.no_grad():
            runner(tensors.values)
    except FAILURES:
        return False
    return True


def _randomness(point: Point, tolerance: float) -> str | None:
    """Return "seeded" if the outputs depend on the seed, "unseeded" if they differ for equal seeds, else None."""
    with torch.no_grad():
        outputs = point.runner(point.tensors)
        # Compared with the outputs only: the perturbed run contains the noise of the model, of any size.
        scales = OutputScales.of(outputs, outputs, point.precision)
        limit = max(tolerance, 1e3 * point.precision)
        if scales is None or scales.error(point.runner(point.tensors)) > limit:
            return "unseeded"
        return "seeded" if scales.error(point.runner(point.tensors, seed=1)) > limit else None


def _stochastic(layout: Layout, operators: list[str]) -> Findings:
    source = f" (`{'`, `'.join(operators)}`)" if operators else ""
    reason = (
        f"the outputs are random in evaluation mode{source}, and it is unknown for which units the random numbers are "
        "drawn; add a deterministic mode to the model"
    )
    return Findings(error=math.nan, untested=dict.fromkeys(layout.moved, "the outputs are random"), reason=reason)


def _report(control: Control, found: Findings, failures: list[str]) -> None:
    """Record which tensors were not shown to affect the outputs, and why."""
    if failures:
        found.error = math.nan
        found.reason = f"cannot compare outputs at random parameters or near the model's own: {failures[-1]}"
    unused = {part.label: "not used by the model on these inputs" for part in control.unused if part.group}
    reason = found.reason or "permuting or perturbing it alone changes the outputs by no more than rounding"
    found.untested = unused | {part.label: reason for part in control.pending}
    found.inert = tuple(dict.fromkeys(part.label for part in control.inert))
