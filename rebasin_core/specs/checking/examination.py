"""Checking a layout on a model: random parameters, group elements, and the control of what they show."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import SpecError
from rebasin_core.specs.checking.control import Control
from rebasin_core.specs.checking.draws import Tensors
from rebasin_core.specs.checking.measure import Ruler
from rebasin_core.specs.checking.noise import MovingNoise
from rebasin_core.specs.checking.parts import Sensitivities, parts_of
from rebasin_core.specs.checking.point import Point
from rebasin_core.specs.checking.runs import FAILURES, Runner
from rebasin_core.symmetry.permutation import Permutation

if TYPE_CHECKING:
    from torch import nn

    from rebasin_core.specs.checking.runs import Inputs
    from rebasin_core.symmetry.layout import Layout

# So few parts without an effect are looked at one by one before other parameters are tried.
_FEW = 32


@final
@dataclass
class Findings:
    """What an examination found.

    Attributes:
        error: The largest change of an output under a group element; NaN if nothing could be compared.
        limit: What was allowed where that was found.
        untested: Names of tensors that could not be shown to matter, with the reason.
        inert: Names of tensors on which the outputs do not depend at any parameters.
        point: Where a group element changed the outputs, with the element; None if none did.
        reason: Why nothing can be said, if so.
        first: The first point that was looked at.
    """

    error: float = 0.0
    limit: float = math.inf
    untested: dict[str, str] = field(default_factory=dict)
    inert: tuple[str, ...] = ()
    point: Point | None = None
    element: Permutation | None = None
    reason: str = ""
    first: Point | None = None


@final
class Examination:
    """The check of one layout on one model.

    Args:
        layout: What is checked; it has all tensors of the model.
        model: The model.
        inputs: What it is called with.
        tries: Number of random group elements.
        tolerance: Largest change that counts as rounding, in float64.
        generator: Source of randomness.
    """

    def __init__(
        self,
        layout: Layout,
        model: nn.Module,
        inputs: Inputs,
        *,
        tries: int,
        tolerance: float,
        generator: torch.Generator,
    ) -> None:
        self._layout = layout
        self._model = model
        self._inputs = inputs
        self._tries = tries
        self._tolerance = tolerance
        self._generator = generator
        self._moving = moving_all(layout, generator)

    def findings(self) -> Findings:
        """Return what is found, in float64 if the model can be run so, else in its own types."""
        found = self._found(Runner(self._model, self._inputs), wide=True)
        return found if found is not None else self._found_in_own_types()

    def _found_in_own_types(self) -> Findings:
        runner = Runner(self._model, self._inputs, wide=False)
        try:
            with torch.no_grad():
                runner(Tensors.of(self._model, wide=False).values)
        except FAILURES as error:
            message = f"the model cannot be run on the example inputs: {type(error).__name__}: {error}"
            raise SpecError(message) from error
        return self._found(runner, wide=False) or Findings()

    def _found(self, runner: Runner, *, wide: bool) -> Findings | None:
        """Return what is found; None if the model cannot be run in float64 at all."""
        tensors = Tensors.of(self._model, wide=wide)
        found = self._at_draws(runner, tensors)
        suspect = None if found is None else found.point or (found.first if found.untested else None)
        if found is None or suspect is None:
            return found
        kind = _randomness(suspect, self._tolerance)
        if kind is None or (kind == "seeded" and found.point is None):
            return found
        # Noise of its own that moves with the units: then equal networks have equal outputs again.
        noise = MovingNoise()
        runner.noise = noise
        again = self._at_draws(runner, tensors) if kind == "seeded" else found
        if kind == "unseeded" or (again is not None and again.point is not None and noise.unkeyed):
            return _stochastic(self._layout, sorted(noise.unkeyed))
        return again

    def _at_draws(self, runner: Runner, tensors: Tensors) -> Findings | None:
        parts = parts_of(self._layout, tensors.values)
        control = Control(parts, Sensitivities(self._layout, self._moving, self._generator), self._tolerance)
        found = Findings()
        points: list[Point] = []
        failures: list[str] = []
        for draw in tensors.draws(self._generator):
            point = Point.of(runner, draw, self._generator, gradients=bool(control.pending))
            if isinstance(point, str):
                failures.append(point)
                if len(failures) == 2 and not points and not _runs(runner, tensors):
                    return None
                continue
            points.append(point)
            found.first = found.first or point
            limit = control.see(point) if control.pending else control.standard(point).tolerance
            limit = min(limit, self._looked_closer(control, point, len(points)))
            if not self._passes(point, limit, found, len(points)):
                return found
            if len(points) >= min(2, self._tries) and not control.pending:
                break
        for point in points[:2]:
            if control.pending:
                limit = control.see_alone(point)
                control.judge(point)
                if not self._passes(point, limit, found, 2):
                    return found
        _report(control, found, failures if not points else [])
        return found

    @staticmethod
    def _looked_closer(control: Control, point: Point, number: int) -> float:
        """Look one by one at parts that gradients say nothing of, at the first two points, and return the limit."""
        differentiable = point.gradients is not None
        if not control.pending or number > 2 or (differentiable and (number == 1 or len(control.pending) > _FEW)):
            return math.inf
        limit = control.see_alone(point)
        control.judge(point)
        return limit

    def _passes(self, point: Point, limit: float, found: Findings, number: int) -> bool:
        """Try group elements at a point; keep the one that changed most, measured by what is allowed."""
        elements = [self._moving]
        elements += [
            Permutation.random(self._layout, generator=self._generator)
            for _ in range(self._tries - 2 if number == 1 else 0)
        ]
        for element in elements:
            error = point.error(element.apply(dict(point.tensors)))
            if error / limit >= found.error / found.limit:
                found.error, found.limit = error, limit
            if error > limit:
                found.point, found.element = point, element
                return False
        return True


def moving_all(layout: Layout, generator: torch.Generator) -> Permutation:
    """Return a random group element that leaves no unit in place, where a group has at least two.

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
    """Return whether the model can be run with its own parameters."""
    try:
        with torch.no_grad():
            runner(tensors.values)
    except FAILURES:
        return False
    return True


def _randomness(point: Point, tolerance: float) -> str | None:
    """Return whether equal parameters give other outputs with another seed, or even with the same one."""
    with torch.no_grad():
        outputs = point.runner(point.tensors)
        # Compared with the outputs alone: noise of any size may look like that of rounding.
        ruler = Ruler.of(outputs, outputs, point.precision)
        limit = max(tolerance, 1e3 * point.precision)
        if ruler is None or ruler.error(point.runner(point.tensors)) > limit:
            return "unseeded"
        return "seeded" if ruler.error(point.runner(point.tensors, seed=1)) > limit else None


def _stochastic(layout: Layout, operators: list[str]) -> Findings:
    source = f" (`{'`, `'.join(operators)}`)" if operators else ""
    reason = (
        f"the outputs are random in evaluation mode{source}: equal parameters give other outputs, and it cannot be "
        "told which random number belongs to which unit. Give the model a mode without noise"
    )
    return Findings(error=math.nan, untested=dict.fromkeys(layout.moved, "the outputs are random"), reason=reason)


def _report(control: Control, found: Findings, failures: list[str]) -> None:
    """Write down which tensors were not shown to matter, and why."""
    if failures:
        found.error = math.nan
        found.reason = f"nothing can be compared at random parameters, nor near the model's own: {failures[-1]}"
    unused = {part.label: "the model does not use it on these inputs" for part in control.unused if part.group}
    why = found.reason or "neither moving nor disturbing it alone changes the outputs by more than rounding"
    found.untested = unused | {part.label: why for part in control.pending}
    found.inert = tuple(dict.fromkeys(part.label for part in control.inert))
