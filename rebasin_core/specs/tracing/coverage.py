"""Coverage of a traced specification: permuted axes, fixed axes and reasons."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from typing_extensions import override

from rebasin_core.specs.kinds.report import described
from rebasin_core.specs.tracing.model_tensors import NOT_TRAINED
from rebasin_core.symmetry.axis import atoms_of
from rebasin_core.symmetry.notation import format_axes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rebasin_core.specs.kinds.report import GroupKinds
    from rebasin_core.specs.tracing.capture import CaptureMethod
    from rebasin_core.specs.unification.terms import Reason
    from rebasin_core.symmetry.layout import Layout


@final
@dataclass(frozen=True, slots=True)
class FrozenAxis:
    """A dimension of a parameter or buffer that is fixed, wholly or in part.

    Attributes:
        tensor: Name of the parameter or buffer.
        dimension: Index of the dimension.
        axis: The axis of this dimension, in the notation of tables.
        reasons: Why it is fixed: the operators that depend on its order.
    """

    tensor: str
    dimension: int
    axis: str
    reasons: tuple[Reason, ...]

    @override
    def __str__(self) -> str:
        """Return one line of text."""
        return f"{self.tensor}, axis {self.dimension} [{self.axis}]: {'; '.join(map(str, self.reasons))}"


@final
@dataclass(frozen=True, slots=True)
class Captured:
    """The method by which the graph of a model was captured.

    Attributes:
        method: ``export`` for `torch.export`; ``execution`` for the recorded operators of one execution.
        why: Why ``method="auto"`` recorded an execution; empty if it did not.
    """

    method: CaptureMethod
    why: str = ""

    @override
    def __str__(self) -> str:
        """Return one line of text; empty for a graph from `torch.export`."""
        if self.method == "export":
            return ""
        reason = f" because {self.why}" if self.why else ""
        return f"traced by recording one execution{reason}; valid for inputs that follow the same execution path"


@final
@dataclass(frozen=True, slots=True)
class Coverage:
    """The permuted and the fixed axes of a traced specification.

    Attributes:
        moved_axes: Number of dimensions on which at least one group acts.
        axes: Number of dimensions of length 2 or more.
        moved_tensors: Number of tensors on which at least one group acts.
        tensors: Number of parameters and buffers.
        groups: Number of groups.
        log10_order: Decimal logarithm of the number of group elements.
        frozen: All dimensions that are fixed, wholly or in part, with reasons.
        without_rule: Number of calls of each operator that has neither a rule nor a decomposition, or whose rule
            failed. Unless a decomposition replaces a failed rule, the axes of the arguments are fixed.
        captured: The method by which the graph was captured.
        decomposed: Number of calls of each operator that was decomposed because it has no rule or its rule failed.
        kinds: For every group, the linear maps of its units, and the operator that excludes larger ones.
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
    kinds: tuple[GroupKinds, ...] = ()

    @property
    def dimension(self) -> int:
        """The number of continuous parameters of all linear maps, before folding."""
        return sum(group.dimension for group in self.kinds)

    @property
    def folded_dimension(self) -> int:
        """The number of continuous parameters of all linear maps, after the scales of normalizations are folded."""
        return sum(group.folded_dimension for group in self.kinds)

    @override
    def __str__(self) -> str:
        """Return the counts, the linear maps grouped by kind, and the fixed axes grouped by reason."""
        groups = "1 group" if self.groups == 1 else f"{self.groups} groups"
        lines = [
            (
                f"{self.moved_axes} of {self.axes} axes and {self.moved_tensors} of {self.tensors} tensors are "
                f"permuted, in {groups}; log10 of the group order: {self.log10_order:.1f}"
            )
        ]
        lines += [str(self.captured)] if str(self.captured) else []
        lines += [f"no rule for {name} (calls: {count})" for name, count in self.without_rule.items()]
        if self.decomposed:
            lines.append(f"decomposed for lack of a rule: {', '.join(self.decomposed)}")
        lines += described(self.kinds)
        by_reason: dict[str, list[str]] = {}
        for axis in self.frozen:
            for reason in axis.reasons:
                by_reason.setdefault(reason.label, []).append(f"{axis.tensor}[{axis.dimension}]")
        lines += [f"fixed, {reason}: {', '.join(dict.fromkeys(axes))}" for reason, axes in by_reason.items()]
        if any(reason.why == NOT_TRAINED for axis in self.frozen for reason in axis.reasons):
            lines.append("to permute buffers that differ between trained models, name them in `free`")
        return "\n".join(lines)


def coverage_of(  # ruff: ignore[too-many-positional-arguments] - those of a coverage
    layout: Layout,
    reasons: Mapping[str, tuple[tuple[Reason, ...], ...]],
    without_rule: Mapping[str, int],
    captured: Captured,
    decomposed: Mapping[str, int],
    kinds: tuple[GroupKinds, ...] = (),
) -> Coverage:
    """Return the coverage of a layout.

    Args:
        layout: Groups and axes.
        reasons: Reasons for every dimension of every tensor that is fixed, wholly or in part.
        without_rule: Number of calls of each operator without a rule.
        captured: The method by which the graph was captured.
        decomposed: Number of calls of each decomposed operator.
        kinds: The linear maps of every group.

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
    permuted = [item for item in every if any(atom.group for atom in atoms_of(item[2]))]
    frozen = tuple(
        FrozenAxis(name, dimension, format_axes((axis,), groups), reasons[name][dimension])
        for name, dimension, axis in every
        if reasons[name][dimension] and any(atom.group is None for atom in atoms_of(axis))
    )
    return Coverage(
        moved_axes=len(permuted),
        axes=len(every),
        moved_tensors=len(layout.moved),
        tensors=len(layout.axes),
        groups=len(groups),
        log10_order=layout.log10_order,
        frozen=frozen,
        without_rule=without_rule,
        captured=captured,
        decomposed=decomposed,
        kinds=kinds,
    )
