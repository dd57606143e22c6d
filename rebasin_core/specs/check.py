"""Numerical verification of a specification: group elements preserve the function, and every tensor affects it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, final

import torch
from typing_extensions import override

from rebasin_core.errors import SpecError
from rebasin_core.specs.base import require_spec
from rebasin_core.specs.checking.advice import Adviser, traced_layout
from rebasin_core.specs.checking.examination import Examination
from rebasin_core.specs.checking.map_draws import unconditional
from rebasin_core.specs.checking.maps import MapFindings, examine_maps
from rebasin_core.specs.checking.parts import restricted
from rebasin_core.specs.checking.runs import Inputs
from rebasin_core.tensors.checks import shorten
from rebasin_core.tensors.frozen import FrozenMapping
from rebasin_core.tensors.inputs import call_arguments
from rebasin_core.tensors.modules import named_tensors, unwrapped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.specs.checking.examination import Findings
    from rebasin_core.symmetry.layout import Layout
    from rebasin_core.symmetry.linear import Symmetry

# Maximum number of names of each list in a report.
_SHOWN = 12
_NAMES = {torch.finfo(dtype).eps: str(dtype).removeprefix("torch.") for dtype in (torch.float64, torch.float32)}


@final
@dataclass(frozen=True, slots=True)
class SpecCheck:
    """Outcome of `check_spec`.

    Attributes:
        error: Largest relative change of an output entry under a group element, as defined at `check_spec`; of all
            comparisons, the one with the largest ratio of error and tolerance. NaN if no outputs could be compared.
        tolerance: Tolerance of that comparison. It is smaller than the requested one if a tensor affects the outputs so
            little that the error of a wrong axis could be below it.
        failing_groups: Groups that change the function when only they are permuted, each with its error.
        suggestions: For each failing group, the changes of a single axis that would each correct it. If there is none,
            the axes that must be changed together; if these are not found, the tensors on which the group acts.
        moved: Tensors on which at least one group acts.
        frozen: Tensors on which no group acts.
        log10_order: Decimal logarithm of the number of group elements.
        untested: Tensors, or pieces of tensors, that were not shown to affect the outputs, each with the reason. A
            wrong axis there would not have been detected.
        inert: Tensors on which the outputs do not depend at any parameters, such as the bias of a key before a softmax.
        reason: Why no outputs could be compared; empty if they were.
        failing_maps: Families of linear maps that change the function, as group and kind, each with the error when only
            a map of this family is applied.
        dimension: Number of continuous parameters of the linear maps that were checked, after normalization scales are
            folded.
        log2_signs: Number of signs that can be chosen, one for each unit with a sign or nonzero factor.
        precision: The machine precision in which the outputs were compared: 2.2e-16 in float64.
    """

    error: float
    tolerance: float
    failing_groups: Mapping[str, float]
    suggestions: tuple[str, ...]
    moved: tuple[str, ...]
    frozen: tuple[str, ...]
    log10_order: float
    untested: Mapping[str, str] = field(default_factory=dict)
    inert: tuple[str, ...] = ()
    reason: str = ""
    failing_maps: Mapping[str, float] = field(default_factory=dict)
    dimension: int = 0
    log2_signs: int = 0
    precision: float = 2.0**-52

    def __post_init__(self) -> None:
        """Freeze the mappings."""
        object.__setattr__(self, "failing_groups", FrozenMapping(dict(self.failing_groups)))
        object.__setattr__(self, "failing_maps", FrozenMapping(dict(self.failing_maps)))
        object.__setattr__(self, "untested", FrozenMapping(dict(self.untested)))

    @property
    def kept(self) -> bool:
        """Whether outputs were compared and no group element changed them by more than the tolerance."""
        return self.error <= self.tolerance

    @property
    def passed(self) -> bool:
        """Whether the function was preserved and no tensor is untested."""
        return self.kept and not self.untested

    @override
    def __str__(self) -> str:
        """Return a readable report."""
        count = len(self.moved) + len(self.frozen)
        if math.isnan(self.error):
            first = f"not checked: {self.reason}"
        else:
            preserved = "preserved" if self.kept else "NOT preserved"
            first = (
                f"function {preserved}: max. relative error {self.error:.1e} (tolerance {self.tolerance:.0e}, in "
                f"{_NAMES.get(self.precision, f'precision {self.precision:.1e}')})"
            )
        permuted = f"{len(self.moved)} of {count} tensors are permuted"
        order = f"{permuted}; log10 of the group order: {self.log10_order:.1f}"
        lines = [first, order]
        if self.dimension or self.log2_signs:
            lines.append(f"linear maps: {self.dimension} continuous dimensions, {self.log2_signs} signs")
        lines += [f"  group {name!r} alone: relative error {error:.1e}" for name, error in self.failing_groups.items()]
        lines += [
            f"  maps of group {name} alone: relative error {error:.1e}" for name, error in self.failing_maps.items()
        ]
        lines += [f"  suggestion for group {change}" for change in self.suggestions]
        lines += self._untested_lines()
        if self.inert:
            lines.append(f"  inert (no effect on the outputs at any parameters): {_listed(self.inert)}")
        return "\n".join(lines)

    def _untested_lines(self) -> list[str]:
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.untested.items():
            by_reason.setdefault(reason, []).append(name)
        return [f"  untested, {reason}: {_listed(names)}" for reason, names in by_reason.items()]

    def require(self, *, allow_untested: bool = False) -> None:
        """Raise if the check did not pass.

        Args:
            allow_untested: Whether to accept untested tensors, provided that the function was preserved.

        Raises:
            SpecError: If the function was not preserved, or tensors are untested; the message contains the report.
        """
        if math.isnan(self.error):
            message = f"cannot check the specification on this model\n{self}"
            raise SpecError(message)
        if not self.kept:
            message = f"the specification does not preserve the function of the model\n{self}"
            raise SpecError(message)
        if self.untested and not allow_untested:
            message = (
                f"the specification is not verified for all tensors of the model\n{self}\nUse inputs for which the "
                "untested tensors affect the outputs, or accept them with `allow_untested`"
            )
            raise SpecError(message)


def check_spec(  # ruff: ignore[too-many-arguments] - the last three have defaults that rarely need a change
    spec: PermutationSpec,
    model: nn.Module,
    example_inputs: object,
    *,
    kwargs: Mapping[str, Any] | None = None,
    tries: int = 3,
    tolerance: float = 1e-9,
    generator: torch.Generator | None = None,
) -> SpecCheck:
    r"""Check numerically that the symmetries of a specification leave the outputs of a model unchanged.

    The model runs in evaluation mode and float64. Casts to lower precision inside the model are disabled; operators
    without float64 support are decomposed or run in float32. Parameters and floating-point buffers are replaced by
    random values, so that special initializations (zero biases, unit scales) cannot hide an error. Buffers outside the
    state dict are constants and are not replaced. All entries of all output tensors are compared. Let $y$ be an entry,
    $y'$ the entry under a group element, and $\nu$ the change of $y$ when parameters and inputs are perturbed by a
    small multiple of the machine precision $\varepsilon$. The error of the entry is
    $|y' - y| / \max(|y|, \nu / \varepsilon)$; equal infinities have error 0.

    A positive control verifies that a wrong axis would be detected. For each tensor, it permutes each piece on which a
    group acts and perturbs each piece, and requires a change of the outputs far above rounding. The effects are
    computed to first order by one backward pass, and by running the model if that shows no effect. If there is none,
    other random parameters of other scales are tried. A tensor whose effect is never shown is *untested*. It is
    *inert* if the outputs depend on intermediate results computed from it but not on the tensor itself, such as the
    bias of a key before a softmax. A group element may change the outputs by at most a thousandth of the effect of each
    tensor alone.

    A model that chooses among scores, such as a router of experts, chooses by position where two of them are equal.
    Parameters at which this decides a choice and a group element changes the outputs are set aside, and others are
    tried. If there are ties at all of them, the change counts.

    Random linear maps of all families of `PermutationSpec.symmetry` and `PermutationSpec.folded_symmetry` are applied
    together, at two of these parameters, in the same run as a permutation if they need no normalization scales of one;
    otherwise at the first, with these scales. If the outputs change, the permutation and each family are applied alone,
    and a smaller kind, or another degree of one tensor, is searched for. Matrices round every weight, so changes up to
    $10^4\varepsilon$ count as rounding if maps are applied alone. By default the model runs seven times forward and
    once backward, and three times more for maps that need scales of one. A matrix of $n$ units needs a factorization of
    cost $O(n^3)$.

    A model that is random in evaluation mode runs with a fixed seed. If a group element still changes the outputs, it
    runs with random numbers that are permuted with the units for which they are drawn. If the unit of a random number
    cannot be determined, the model is not checked.

    Args:
        spec: The specification; it must contain every parameter and buffer.
        model: The model; it is not changed.
        example_inputs: Small batch, or tuple of positional inputs. Every tensor must affect the outputs on it: zeros,
            for example, cannot show the effect of the first weights.
        kwargs: Keyword inputs.
        tries: Number of random permutations, at least 1; default 3.
        tolerance: Largest relative change of an output entry that counts as rounding error in float64.
        generator: Random number generator; seeded with 0 if None.

    Returns:
        The outcome. On failure it names the failing groups, or the groups and kinds of failing linear maps, and
        suggests corrections. Call `SpecCheck.require` to raise an error instead.

    Raises:
        SpecError: If the specification and the model have different tensors, or the model cannot be run.
    """
    require_spec(spec)
    generator = generator or torch.Generator().manual_seed(0)
    model = unwrapped(model)
    spec.require_fit(named_tensors(model))
    inputs = Inputs.of(*call_arguments(model, example_inputs, kwargs))

    def examined(layout: Layout, tries: int, symmetry: Symmetry | None = None) -> Findings:
        return Examination(
            layout, model, inputs, tries=tries, tolerance=tolerance, generator=generator, symmetry=symmetry
        ).findings()

    always = unconditional(spec.symmetry)
    found = examined(spec.layout, tries, always if always.linear else None)
    failing: dict[str, float] = {}
    advice: list[str] = []
    maps = MapFindings()
    if found.point is not None:
        traced = cache(lambda: traced_layout(model, inputs, lambda layout: examined(layout, 1).point is None))
        failing, advice = _faults(spec.layout, found, traced)
    elif not found.reason:
        maps = examine_maps(spec, found, generator)
        advice = [f"{one.name}: {one.suggestion}" for one in maps.failing]
    return _outcome(spec, found, maps, failing, advice, tolerance)


def _outcome(  # ruff: ignore[too-many-positional-arguments] - all that was found
    spec: PermutationSpec,
    found: Findings,
    maps: MapFindings,
    failing: Mapping[str, float],
    advice: Sequence[str],
    tolerance: float,
) -> SpecCheck:
    layout = spec.layout
    is_worse = maps.error / maps.limit > found.error / found.limit
    limit = maps.limit if is_worse else found.limit
    return SpecCheck(
        error=maps.error if is_worse else found.error,
        tolerance=tolerance if math.isinf(limit) else limit,
        failing_groups=failing,
        suggestions=tuple(advice),
        moved=layout.moved,
        frozen=tuple(name for name in layout.axes if name not in layout.moved),
        log10_order=layout.log10_order,
        untested=found.untested,
        inert=found.inert,
        reason=found.reason,
        failing_maps={one.name: one.error for one in maps.failing},
        dimension=spec.folded_symmetry.dimension,
        log2_signs=spec.folded_symmetry.log2_signs,
        precision=max((point.precision for point in found.limits), default=2.0**-52),
    )


def _faults(layout: Layout, found: Findings, traced: Callable[[], Layout | None]) -> tuple[dict[str, float], list[str]]:
    """Return the groups that fail when only they are permuted, with their errors, and suggested corrections."""
    failing: dict[str, float] = {}
    advice: list[str] = []
    if found.point is None or found.element is None:
        return failing, advice
    adviser = Adviser(layout, found.point, found.limit, traced)
    for name in layout.groups:
        alone = restricted(found.element, name)
        error = found.point.error(alone.apply(dict(found.point.tensors)))
        if error > found.limit:
            failing[name] = error
            advice += [f"{name!r}: {line}" for line in adviser.advice(alone, name)]
    return failing, advice


def _listed(names: Sequence[str]) -> str:
    return shorten([*names], _SHOWN)
