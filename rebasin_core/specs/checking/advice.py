"""Suggested corrections of a specification: the axes to change."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, final

from typing_extensions import override

from rebasin_core.errors import RebasinError, SpecError
from rebasin_core.specs.tracing.trace import derive
from rebasin_core.symmetry.action import act
from rebasin_core.symmetry.axis import Atom, Axis, Concat, Group, Product, atoms_of, concat, is_fixed, product
from rebasin_core.symmetry.layout import Layout
from rebasin_core.symmetry.notation import format_axes
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.tensors.checks import shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from rebasin_core.specs.checking.point import Point
    from rebasin_core.specs.checking.runs import Inputs

# Maximum number of runs of the model for one group.
_RUNS = 600

_ADD = "should belong to the group"
_REMOVE = "should not belong to the group"
_REVERSE = "its factors should be in reverse order"


@final
@dataclass(frozen=True, slots=True)
class Change:
    """A replacement of one axis of a specification.

    Attributes:
        tensor: Name of the tensor.
        dimension: Index of the axis.
        axis: The replacement.
        hint: Description of the change.
        layout: The layout with the groups of the replacement.
    """

    tensor: str
    dimension: int
    axis: Axis
    hint: str
    layout: Layout

    @override
    def __str__(self) -> str:
        """Return the suggestion."""
        return f"`{self.tensor}`, axis {self.dimension}: {self.hint}"


@final
class Adviser:
    """Searches for corrections of the axes of a failing group.

    Args:
        layout: The layout that does not preserve the function.
        point: Parameters at which it does not.
        limit: Largest error that counts as rounding at this point.
        traced: Returns the layout traced from the model; None if tracing fails or that layout is wrong, too.
    """

    def __init__(self, layout: Layout, point: Point, limit: float, traced: Callable[[], Layout | None]) -> None:
        self._layout = layout
        self._point = point
        self._limit = limit
        self._traced = traced

    def advice(self, alone: Permutation, group: str) -> list[str]:
        """Return the changes that would correct a group.

        Args:
            alone: A group element that permutes only this group.
            group: Name of the group.

        Returns:
            All single changes that are sufficient; if there are none, one sentence with the changes that are needed
            together; if these are not found, one sentence with the tensors on which the group acts.
        """
        trial = _Trial(self._layout, self._point, alone, group)
        traced = self._traced()
        together = [] if traced is None else self._from(trial, _differences(self._layout, traced, group))
        if len(together) != 1:
            single = self._single(trial)
            if single:
                return [str(change) for change in single]
        together = together or self._searched(trial)
        if len(together) == 1:
            return [str(together[0])]
        if together:
            return [f"change {len(together)} axes together: {'; '.join(map(str, together))}"]
        return [f"no change of a few axes corrects it; it acts on {shorten([*self._layout.tensors_of(group)])}"]

    def _single(self, trial: _Trial) -> list[Change]:
        return [change for change in trial.candidates() if trial.error([change]) <= self._limit]

    def _from(self, trial: _Trial, changes: Sequence[Change]) -> list[Change]:
        """Return the necessary ones among some changes; none if all of them together do not correct the group."""
        if not changes or trial.error(changes) > self._limit:
            return []
        needed = list(changes)
        for change in changes:
            others = [other for other in needed if other != change]
            if others and trial.error(others) <= self._limit:
                needed = others
        return needed

    def _searched(self, trial: _Trial) -> list[Change]:
        """Return changes found by trying combinations of modules, whose tensors are often omitted together."""
        pieces: dict[tuple[str, str, int], list[Change]] = {}
        for change in trial.candidates():
            module = change.tensor.rpartition(".")[0]
            pieces.setdefault((module, change.hint, change.dimension), []).append(change)
        for count in range(1, len(pieces) + 1):
            for chosen in combinations(pieces.values(), count):
                if trial.runs >= _RUNS:
                    return []
                changes = [change for piece in chosen for change in piece]
                if trial.error(changes) <= self._limit:
                    return self._from(trial, changes)
        return []


@final
class _Trial:
    """Permutes one group under changed axes."""

    def __init__(self, layout: Layout, point: Point, alone: Permutation, group: str) -> None:
        self._layout = layout
        self._point = point
        self._group = group
        self._index = alone.indices[group]
        self._permuted = alone.apply(dict(point.tensors))
        self.runs = 0

    def error(self, changes: Sequence[Change]) -> float:
        self.runs += 1
        return self._point.error(self._with(changes))

    def candidates(self) -> Iterator[Change]:
        """Yield the likely corrections of each axis of the layout."""
        size = self._layout.groups[self._group].size
        for name, axes in self._layout.axes.items():
            for dim, axis in enumerate(axes):
                for changed, hint in _changes(axis, self._group, size):
                    if self._is_admitted((*axes[:dim], changed, *axes[dim + 1 :])):
                        yield Change(name, dim, changed, hint, self._layout)

    def _is_admitted(self, axes: Sequence[Axis]) -> bool:
        try:
            Layout(self._layout.groups, {"trial": tuple(axes)})
        except SpecError:  # a nested group without its outer group
            return False
        return True

    def _with(self, changes: Sequence[Change]) -> dict[str, Tensor]:
        permuted = dict(self._permuted)
        for name in dict.fromkeys(change.tensor for change in changes):
            of_tensor = [change for change in changes if change.tensor == name]
            axes = list(self._layout.axes[name])
            for change in of_tensor:
                axes[change.dimension] = change.axis
            layout = of_tensor[0].layout
            indices = {**self._identity(self._layout), **self._identity(layout), self._group: self._index}
            both = Layout({**self._layout.groups, **layout.groups}, {})
            permuted[name] = act(both, indices, self._point.tensors[name], axes)
        return permuted

    @staticmethod
    def _identity(layout: Layout) -> Mapping[str, Tensor]:
        return Permutation.identity(layout).indices


def traced_layout(model: nn.Module, inputs: Inputs, keeps: Callable[[Layout], bool]) -> Layout | None:
    """Return the layout that is traced from a model, if tracing succeeds and the layout preserves the function.

    Args:
        model: The model.
        inputs: Inputs of the model.
        keeps: Returns whether a layout preserves the function.

    Returns:
        The layout, or None.
    """
    try:
        layout = derive(model, inputs.args, kwargs=inputs.kwargs).layout
    except (RebasinError, RuntimeError, TypeError, ValueError, LookupError, AttributeError):
        return None  # the exporter raises errors of many types; suggestions are then found by search
    return layout if keeps(layout) else None


def _differences(layout: Layout, traced: Layout, group: str) -> list[Change]:
    """Return the changes that turn the axes of a group in a layout into those in the traced layout."""
    if traced.axes.keys() != layout.axes.keys():
        return []  # other stacks
    renamed = _renamed(traced, layout, group)
    if renamed is None:
        return []
    found: list[Change] = []
    for name, axes in layout.axes.items():
        for dim, (own, other) in enumerate(zip(axes, renamed.axes[name], strict=True)):
            # Only this group is permuted, so differences in other groups are irrelevant.
            kept = _of_group(own, group)
            wanted = _of_group(other, group)
            if kept == wanted:
                continue
            if is_fixed(wanted):
                hint = _REMOVE
            elif is_fixed(own):
                hint = _ADD
                hint += "" if wanted == Atom(wanted.size, group) else f", as `{_text(other, renamed)}`"
            elif isinstance(own, Product) and product(*reversed(own.factors)) == other:
                hint = _REVERSE
            else:
                hint = f"should be `{_text(other, renamed)}`"
            found.append(Change(name, dim, other, hint, renamed))
    return found


def _text(axis: Axis, layout: Layout) -> str:
    return format_axes((axis,), dict(layout.groups))


def _of_group(axis: Axis, group: str) -> Axis:
    """Return an axis with all other groups replaced by fixed axes."""
    match axis:
        case Atom():
            return axis if axis.group == group else Atom(axis.size)
        case Product(factors):
            return product(*(_of_group(factor, group) for factor in factors))
        case Concat(parts):
            return concat(*(_of_group(part, group) for part in parts))


def _renamed(traced: Layout, layout: Layout, group: str) -> Layout | None:
    """Rename the groups of the traced layout to those of another layout; None if it does not have this group."""
    names: dict[str, str] = {}
    for own in (group, *(name for name in layout.groups if name != group)):
        counts = Counter(
            name
            for tensor, axes in layout.axes.items()
            for axis, other in zip(axes, traced.axes[tensor], strict=True)
            if any(atom.group == own for atom in atoms_of(axis))
            for name in {atom.group for atom in atoms_of(other)}
            if name is not None and name not in names and traced.groups[name].size == layout.groups[own].size
        )
        if counts:
            names[counts.most_common(1)[0][0]] = own
        elif own == group:
            return None
    for name in traced.groups:
        names.setdefault(name, f"traced.{name}")
    groups = {
        names[name]: Group(names[name], entry.size, None if entry.within is None else names[entry.within])
        for name, entry in traced.groups.items()
    }
    renamed = Layout(groups, {n: tuple(_with_names(axis, names) for axis in axes) for n, axes in traced.axes.items()})
    return renamed if renamed.index_shape(group) == layout.index_shape(group) else None


def _with_names(axis: Axis, names: Mapping[str, str]) -> Axis:
    match axis:
        case Atom():
            return axis if axis.group is None else Atom(axis.size, names[axis.group])
        case Product(factors):
            return Product(tuple(_with_names(factor, names) for factor in factors))
        case Concat(parts):
            return Concat(tuple(_with_names(part, names) for part in parts))


def _changes(axis: Axis, group: str, size: int) -> Iterator[tuple[Axis, str]]:
    """Yield the likely corrections of an axis, each with its description."""
    if any(atom.group == group for atom in atoms_of(axis)):
        yield Atom(axis.size), _REMOVE
        if isinstance(axis, Product):
            yield product(*reversed(axis.factors)), _REVERSE
    elif axis == Atom(size):
        yield Atom(size, group), _ADD
