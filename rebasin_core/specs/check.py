"""The test that a specification must pass: group elements leave the function as it was, and every tensor matters."""

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
from rebasin_core.specs.checking.parts import restricted
from rebasin_core.specs.checking.runs import Inputs
from rebasin_core.tensors.checks import shorten
from rebasin_core.tensors.frozen import FrozenMapping
from rebasin_core.tensors.modules import named_tensors, unwrapped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.specs.checking.examination import Findings
    from rebasin_core.symmetry.layout import Layout

# Names that a report writes out of each list.
_SHOWN = 12


@final
@dataclass(frozen=True, slots=True)
class SpecCheck:
    """What `check_spec` found.

    Attributes:
        error: The largest change of an output entry under a group element, where it was largest compared to what was
            allowed there: relative to the entry, or to the size at which its rounding errors would be ordinary ones,
            whichever is larger. NaN if nothing could be compared.
        tolerance: What was allowed there. It is less than what was asked for where a tensor matters so little that the
            error of a wrong axis would stay below.
        failing_groups: Groups that change the function when they alone are permuted; with each, its error.
        suggestions: For each failing group, the changes to one axis of one tensor each of which would mend it; if none
            does, all axes at fault together; if they were not found, the tensors it acts on.
        moved: Tensors that at least one group acts on.
        frozen: Tensors that no group acts on.
        log10_order: Decimal logarithm of the number of group elements.
        untested: Tensors, or pieces of them, that could not be shown to matter to the outputs, each with the reason: a
            wrong axis there would not have been noticed.
        inert: Tensors on which the outputs do not depend, whatever the parameters are (a key's bias before a softmax).
        reason: Why nothing could be compared, if so.
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

    def __post_init__(self) -> None:
        """Freeze the mappings."""
        object.__setattr__(self, "failing_groups", FrozenMapping(dict(self.failing_groups)))
        object.__setattr__(self, "untested", FrozenMapping(dict(self.untested)))

    @property
    def kept(self) -> bool:
        """Whether outputs were compared, and no group element changed them by more than rounding."""
        return self.error <= self.tolerance

    @property
    def passed(self) -> bool:
        """Whether the function was kept and every tensor was shown to matter, so that a wrong axis would have shown."""
        return self.kept and not self.untested

    @override
    def __str__(self) -> str:
        """Return a readable report."""
        count = len(self.moved) + len(self.frozen)
        if math.isnan(self.error):
            first = f"not checked: {self.reason}"
        else:
            kept = "kept" if self.kept else "NOT kept"
            first = f"function {kept}: relative error {self.error:.1e} (allowed {self.tolerance:.0e})"
        order = f"{len(self.moved)} of {count} tensors move; log10 of the group order: {self.log10_order:.1f}"
        lines = [first, order]
        lines += [f"  group {name!r} alone: relative error {error:.1e}" for name, error in self.failing_groups.items()]
        lines += [f"  look at {axis}" for axis in self.suggestions]
        lines += self._of_untested()
        if self.inert:
            lines.append(f"  without effect at any parameters: {_listed(self.inert)}")
        return "\n".join(lines)

    def _of_untested(self) -> list[str]:
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.untested.items():
            by_reason.setdefault(reason, []).append(name)
        return [f"  untested, {reason}: {_listed(names)}" for reason, names in by_reason.items()]

    def require(self, *, allow_untested: bool = False) -> None:
        """Raise if the function was not kept, or if that was not shown for every tensor.

        Args:
            allow_untested: Accept a specification that kept the function, though some tensors could not be shown to
                matter.

        Raises:
            SpecError: With the report.
        """
        if math.isnan(self.error):
            message = f"the specification cannot be checked on the model\n{self}"
            raise SpecError(message)
        if not self.kept:
            message = f"the specification does not keep the function of the model\n{self}"
            raise SpecError(message)
        if self.untested and not allow_untested:
            message = (
                f"it cannot be shown that the specification keeps the function of the model\n{self}\nGive inputs on "
                "which these tensors matter, or accept that they are untested with `allow_untested`"
            )
            raise SpecError(message)


def check_spec(  # ruff: ignore[too-many-arguments] - the last three have defaults that suit nearly everybody
    spec: PermutationSpec,
    model: nn.Module,
    example_inputs: object,
    *,
    kwargs: Mapping[str, Any] | None = None,
    tries: int = 3,
    tolerance: float = 1e-9,
    generator: torch.Generator | None = None,
) -> SpecCheck:
    r"""Return whether random group elements keep the function of a model, and if not, which axes are at fault.

    The model is run in evaluation mode and float64; casts to narrower types inside it are left out, and operators that
    do not take float64 are written out or run in float32. Its parameters and floating buffers are replaced by random
    ones, fresh or near its own, so that symmetries of a special initialization (zero biases, unit scales) hide
    nothing. Buffers that are not part of the state dict are constants and stay. Every tensor in the output counts, and
    every entry by itself: with $y$ an entry, $\nu$ the change of it when parameters and inputs are disturbed by a few
    units of rounding $\varepsilon$ and $y'$ the entry under a group element, its error is
    $|y' - y| / \max(|y|, \nu / \varepsilon)$. Equal infinities are equal.

    A positive control shows that a wrong axis would be noticed: each piece of a tensor that a group acts on is moved
    alone, and each tensor disturbed alone, to first order by one backward pass and by running the model where
    that shows nothing. If the outputs do not change by far more than rounding, other random parameters are tried, of
    other sizes. What still has no effect is *untested*, unless it is *inert*: the outputs depend on what is computed
    with the tensor, but not on the tensor, as on the bias of a key before a softmax. An element may change the outputs
    by no more than a thousandth of what each tensor alone does.

    A model that is random in evaluation mode is run with equal random numbers, then with numbers that move with the
    units they are drawn for; where it cannot be told for which unit a number is drawn, the model is not checked.

    Args:
        spec: The specification; it must name every parameter and buffer.
        model: The model; it is not changed.
        example_inputs: A small batch, or a tuple of positional inputs, on which every tensor matters (on zeros, the
            first weights do not).
        kwargs: Named inputs.
        tries: Number of random group elements, at least 1.
        tolerance: Largest relative change of an output entry that counts as rounding in float64.
        generator: Source of randomness; a fixed seed if not given.

    Returns:
        The findings. A failed check is a value; call `SpecCheck.require` to make it an error.

    Raises:
        SpecError: If the specification does not name exactly the model's tensors, or the model cannot be run.
    """
    require_spec(spec)
    generator = generator or torch.Generator().manual_seed(0)
    model = unwrapped(model)
    spec.require_fit(named_tensors(model))
    inputs = Inputs.of(example_inputs, kwargs)

    def examined(layout: Layout, tries: int) -> Findings:
        return Examination(layout, model, inputs, tries=tries, tolerance=tolerance, generator=generator).findings()

    found = examined(spec.layout, tries)
    failing: dict[str, float] = {}
    advice: list[str] = []
    if found.point is not None:
        traced = cache(lambda: traced_layout(model, inputs, lambda layout: examined(layout, 1).point is None))
        failing, advice = _faults(spec.layout, found, traced)
    layout = spec.layout
    return SpecCheck(
        error=found.error,
        tolerance=tolerance if math.isinf(found.limit) else found.limit,
        failing_groups=failing,
        suggestions=tuple(advice),
        moved=layout.moved,
        frozen=tuple(name for name in layout.axes if name not in layout.moved),
        log10_order=layout.log10_order,
        untested=found.untested,
        inert=found.inert,
        reason=found.reason,
    )


def _faults(layout: Layout, found: Findings, traced: Callable[[], Layout | None]) -> tuple[dict[str, float], list[str]]:
    """Return the groups that fail alone, with their errors, and what would mend them."""
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
