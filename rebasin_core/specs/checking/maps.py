"""Check the linear maps of a symmetry on a model: each family preserves the function, at random parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import SpecError
from rebasin_core.specs.checking.map_draws import drawn_maps, unconditional
from rebasin_core.specs.checking.point import Point
from rebasin_core.symmetry.linear import LinearSymmetry, Symmetry
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.symmetry.slots import slots_of
from rebasin_core.symmetry.subgroups import contained_kinds, restricted_to
from rebasin_core.symmetry.symmetry_element import SymmetryElement
from rebasin_core.tensors.checks import shorten
from rebasin_core.tensors.frozen import FrozenMapping

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.specs.checking.examination import Findings

# A change of this many units of the machine precision counts as rounding: matrices round every entry of a weight.
_ROUNDING = 1e4
# Maximum number of runs of the model in the search for a suggestion.
_RUNS = 200


@final
@dataclass(frozen=True, slots=True)
class FailingFamily:
    """A family of linear maps that changes the outputs.

    Attributes:
        linear: The family.
        error: The largest change of an output when only a map of this family is applied.
        suggestion: A correction, or the reason to remove it.
    """

    linear: LinearSymmetry
    error: float
    suggestion: str

    @property
    def name(self) -> str:
        """Name in reports: the group, the kind, and the tensors that it transforms."""
        tensors = shorten(list(dict.fromkeys(slot.tensor for slot in self.linear.degrees)), 3)
        return f"{self.linear.group!r}, kind {self.linear.kind} of {tensors}"


@final
@dataclass
class MapFindings:
    """Outcome of the check of linear maps.

    Attributes:
        error: Of all comparisons, the change with the largest ratio to its limit.
        limit: The limit of this comparison.
        failing: Families that change the outputs.
    """

    error: float = 0.0
    limit: float = math.inf
    failing: tuple[FailingFamily, ...] = ()


def examine_maps(spec: PermutationSpec, findings: Findings, generator: torch.Generator) -> MapFindings:
    """Apply random linear maps at the points at which permutations were tried.

    The maps of `PermutationSpec.symmetry` and `PermutationSpec.folded_symmetry` are applied at two points; those that
    need normalization scales of one at the first one, with these scales.

    Args:
        spec: The specification.
        findings: Outcome of the check of the permutations.
        generator: Source of randomness.

    Returns:
        The outcome.
    """
    found = MapFindings()
    points = list(findings.limits.items())[:2]
    if any(point.runner.noise is not None for point, _ in points):
        # The random numbers are then those of a fixed seed, not permuted with the units.
        points = [(_again(point, {}, generator), limit) for point, limit in points]
    plain, folded = spec.symmetry, spec.folded_symmetry
    more = replace(folded, linear=tuple(linear for linear in folded.linear if linear not in plain.linear))
    for symmetry in (plain, more):
        always = unconditional(symmetry)
        # Maps of the first families have been applied together with a permutation, where the outputs were the same.
        remaining = [pair for pair in points if symmetry is more or pair[0] not in findings.mapped]
        for point, limit in remaining if always.linear else ():
            _examine(found, always, point, limit, generator)
        scaled = replace(symmetry, linear=tuple(linear for linear in symmetry.linear if linear.required))
        for point, limit in points[:1] if scaled.linear else ():
            values = {name: value for linear in scaled.linear for name, value in linear.required.items()}
            _examine(found, scaled, _again(point, values, generator), limit, generator)
    return found


def _again(point: Point, values: Mapping[str, float], generator: torch.Generator) -> Point:
    """Return a point with the same parameters, except for those with given values, without permuted random numbers."""
    tensors = {
        name: torch.full_like(tensor, values[name]) if name in values else tensor
        for name, tensor in point.tensors.items()
    }
    point.runner.noise = None
    again = Point.of(point.runner, tensors, generator, gradients=False)
    if isinstance(again, str):
        message = f"cannot check linear maps where normalization scales are one: {again}"
        raise SpecError(message)
    return again


def _examine(found: MapFindings, symmetry: Symmetry, point: Point, limit: float, generator: torch.Generator) -> None:
    """Apply random maps of all families together; if the outputs change, find the families that change them alone."""
    limit = max(limit, _ROUNDING * point.precision)
    maps = _Maps(symmetry, point, drawn_maps(symmetry, generator))
    error = maps.error(symmetry.linear)
    if error / limit >= found.error / found.limit:
        found.error, found.limit = error, limit
    if error <= limit:
        return
    errors = [maps.error((linear,)) for linear in symmetry.linear]
    least = min(limit, max(errors))  # the largest one if they fail together only
    known = [other.linear for other in found.failing]
    found.failing += tuple(
        FailingFamily(linear, error, maps.suggestion(linear, limit, generator))
        for linear, error in zip(symmetry.linear, errors, strict=True)
        if error >= least and linear not in known
    )


@final
class _Maps:
    """Random maps of the families of a symmetry, applied at a point."""

    def __init__(self, symmetry: Symmetry, point: Point, maps: Sequence[Tensor | None]) -> None:
        self._layout = symmetry.layout
        self._unpermuted = symmetry.unpermuted
        self._point = point
        self._maps = list(zip(symmetry.linear, maps, strict=True))

    def error(self, linear: Sequence[LinearSymmetry]) -> float:
        """Return the change of the outputs under the maps of some families."""
        chosen = [(one, value) for one, value in self._maps if one in linear]
        return self._error([one for one, _ in chosen], [value for _, value in chosen])

    def suggestion(self, linear: LinearSymmetry, limit: float, generator: torch.Generator) -> str:
        """Return a correction of a family that changes the outputs."""
        for hint, other in islice(self._candidates(linear), _RUNS):
            try:
                symmetry = Symmetry(self._layout, (other,), self._unpermuted)
            except SpecError:  # such as flips of units that no shift sums over
                continue
            if self._error((other,), drawn_maps(symmetry, generator)) <= limit:
                return hint
        return "no smaller kind and no other degree of one slot preserves the function; remove it"

    def _candidates(self, linear: LinearSymmetry) -> Iterator[tuple[str, LinearSymmetry]]:
        """Yield smaller kinds, and other degrees of single slots."""
        whole = Symmetry(self._layout, (linear,), self._unpermuted)
        for kind in contained_kinds(linear.kind)[1:]:
            for other in restricted_to(whole, {kind}).linear:
                yield f"expected the kind {kind}", other
        choices = (0, 1) if linear.kind.is_sign else (1, -1, 0, 2, -2) if linear.kind.is_factor else (1, -1, 0)
        for slot in slots_of(self._layout, linear.group):
            for degree in choices:
                degrees = {**linear.degrees, slot: degree}
                if degree != linear.degrees.get(slot, 0) and any(degrees.values()):
                    found = linear.degrees.get(slot, 0)
                    hint = f"expected degree {degree} at `{slot.tensor}`, dimension {slot.dim}, got {found}"
                    if slot.number:
                        hint += f" (at part {slot.number})"
                    yield hint, replace(linear, degrees=FrozenMapping(degrees))

    def _error(self, linear: Sequence[LinearSymmetry], maps: Sequence[Tensor | None]) -> float:
        symmetry = Symmetry(self._layout, tuple(linear), self._unpermuted)
        element = SymmetryElement(symmetry, Permutation.identity(symmetry.permutations), maps)
        return self._point.error(element.apply(dict(self._point.tensors)))
