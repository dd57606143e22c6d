"""The permuted and the fixed axes of a traced specification."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from typing_extensions import override

from rebasin_core.specs.tracing.model_tensors import NOT_TRAINED
from rebasin_core.symmetry.axis import atoms_of
from rebasin_core.symmetry.notation import format_axes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rebasin_core.specs.tracing.capture import Way
    from rebasin_core.specs.unification.terms import Reason
    from rebasin_core.symmetry.layout import Layout


@final
@dataclass(frozen=True, slots=True)
class FrozenAxis:
    """A dimension of a parameter or buffer that is fixed, in whole or in part.

    Attributes:
        tensor: Its name.
        dimension: The index of the dimension.
        axis: Its axis, in the notation of tables.
        reasons: Why it is fixed: the operators that need its order.
    """

    tensor: str
    dimension: int
    axis: str
    reasons: tuple[Reason, ...]

    @override
    def __str__(self) -> str:
        """Return a line for reports."""
        return f"{self.tensor}, axis {self.dimension} [{self.axis}]: {'; '.join(map(str, self.reasons))}"


@final
@dataclass(frozen=True, slots=True)
class Captured:
    """How the graph of a model was captured.

    Attributes:
        way: ``export`` by `torch.export`, or ``execution`` by recording the operators of one execution.
        why: Why ``method="auto"`` recorded an execution; empty if it did not.
    """

    way: Way
    why: str = ""

    @override
    def __str__(self) -> str:
        """Return a line for reports; empty for a graph from `torch.export`."""
        if self.way == "export":
            return ""
        reason = f", since {self.why}" if self.why else ""
        return f"from one recorded execution{reason}; it holds for inputs that take the same steps"


@final
@dataclass(frozen=True, slots=True)
class Coverage:
    """The part of a model that a specification permutes.

    Attributes:
        moved_axes: Dimensions on which at least one group acts.
        axes: Dimensions of length 2 or more.
        moved_tensors: Tensors on which at least one group acts.
        tensors: All parameters and buffers.
        groups: Number of groups.
        log10_order: Decimal logarithm of the number of group elements.
        frozen: Every dimension that is fixed, in whole or in part, with the reasons.
        without_rule: Operators that have neither a rule nor a decomposition into operators that have, with the number
            of their calls; axes that they use are fixed.
        captured: How the graph was captured, and why so.
        decomposed: Operators that have no rule of their own and were decomposed, with the number of their calls.
    """

    moved_axes: int
    axes: int
    moved_tensors: int
    tensors: int
    groups: int
    log10_order: float
    frozen: tuple[FrozenAxis, ...]
    without_rule: Mapping[str, int]
    captured: Captured
    decomposed: Mapping[str, int] = field(default_factory=dict)

    @override
    def __str__(self) -> str:
        """Return the counts, and the fixed axes by reason."""
        lines = [
            (
                f"{self.moved_axes} of {self.axes} axes and {self.moved_tensors} of {self.tensors} tensors move, in "
                f"{self.groups} groups; log10 of the group order: {self.log10_order:.1f}"
            )
        ]
        lines += [str(self.captured)] if str(self.captured) else []
        lines += [f"no rule for {name} (met {count} times)" for name, count in self.without_rule.items()]
        if self.decomposed:
            lines.append(f"decomposed, since they have no rule: {', '.join(self.decomposed)}")
        by_reason: dict[str, list[str]] = {}
        for axis in self.frozen:
            for reason in axis.reasons:
                by_reason.setdefault(f"{reason.why} ({reason.operator})", []).append(f"{axis.tensor}[{axis.dimension}]")
        lines += [f"frozen, {reason}: {', '.join(dict.fromkeys(places))}" for reason, places in by_reason.items()]
        if any(reason.why == NOT_TRAINED for axis in self.frozen for reason in axis.reasons):
            lines.append("buffers that differ between trained models can be let move by name: `free`")
        return "\n".join(lines)


def coverage_of(
    layout: Layout,
    reasons: Mapping[str, tuple[tuple[Reason, ...], ...]],
    without_rule: Mapping[str, int],
    captured: Captured,
    decomposed: Mapping[str, int],
) -> Coverage:
    """Return the coverage of a layout.

    Args:
        layout: Groups and axes.
        reasons: For every tensor and dimension, why it is fixed, in whole or in part.
        without_rule: Operators that have no rule, with the number of their calls.
        captured: How the graph was captured.
        decomposed: Operators that were decomposed, with the number of their calls.

    Returns:
        The counts and the fixed axes.
    """
    groups = dict(layout.groups)
    every = [
        (name, dimension, axis)
        for name, axes in layout.axes.items()
        for dimension, axis in enumerate(axes)
        if axis.size > 1
    ]
    moving = [item for item in every if any(atom.group for atom in atoms_of(item[2]))]
    frozen = tuple(
        FrozenAxis(name, dimension, format_axes((axis,), groups), reasons[name][dimension])
        for name, dimension, axis in every
        if reasons[name][dimension] and any(atom.group is None for atom in atoms_of(axis))
    )
    return Coverage(
        moved_axes=len(moving),
        axes=len(every),
        moved_tensors=len(layout.moved),
        tensors=len(layout.axes),
        groups=len(groups),
        log10_order=layout.log10_order,
        frozen=frozen,
        without_rule=without_rule,
        captured=captured,
        decomposed=decomposed,
    )
