"""What would mend a specification: the axes at fault, all of them at once."""

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

# Runs of the model that are spent on one group.
_RUNS = 600


@final
@dataclass(frozen=True, slots=True)
class Change:
    """Another axis in the place of one that a specification has.

    Attributes:
        tensor: The tensor.
        dimension: Which of its axes.
        axis: What it should be.
        hint: That in words.
        layout: Where the groups of the axis are.
    """

    tensor: str
    dimension: int
    axis: Axis
    hint: str
    layout: Layout

    @override
    def __str__(self) -> str:
        """Return the advice."""
        return f"`{self.tensor}`, axis {self.dimension}: {self.hint}"


@final
class Adviser:
    """Finds what is wrong with the axes of a group.

    Args:
        layout: The layout that does not keep the function.
        point: Where it does not.
        limit: What counts as rounding there.
        traced: Returns the layout that the model's graph has; None if it has none that keeps the function.
    """

    def __init__(self, layout: Layout, point: Point, limit: float, traced: Callable[[], Layout | None]) -> None:
        self._layout = layout
        self._point = point
        self._limit = limit
        self._traced = traced

    def advice(self, alone: Permutation, group: str) -> list[str]:
        """Return the changes that would mend a group.

        Args:
            alone: A group element that moves only this group.
            group: The group.

        Returns:
            Single changes each of which would do; else all changes that are needed together, as one sentence; else
            the tensors it acts on.
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
            return [f"{len(together)} axes are at fault together: {'; '.join(map(str, together))}"]
        return [f"no change to a few axes mends it; it acts on {shorten([*self._layout.tensors_of(group)])}"]

    def _single(self, trial: _Trial) -> list[Change]:
        return [change for change in trial.candidates() if trial.error([change]) <= self._limit]

    def _from(self, trial: _Trial, changes: Sequence[Change]) -> list[Change]:
        """Return those of some changes that are needed; none if not even all of them together mend the group."""
        if not changes or trial.error(changes) > self._limit:
            return []
        needed = list(changes)
        for change in changes:
            others = [other for other in needed if other != change]
            if others and trial.error(others) <= self._limit:
                needed = others
        return needed

    def _searched(self, trial: _Trial) -> list[Change]:
        """Return changes found by trying modules, whose tensors are most often forgotten together."""
        pieces: dict[tuple[str, str, int], list[Change]] = {}
        for change in trial.candidates():
            module = change.tensor.rpartition(".")[0]
            pieces.setdefault((module, change.hint, change.dimension), []).append(change)
        for number in range(1, len(pieces) + 1):
            for chosen in combinations(pieces.values(), number):
                if trial.runs >= _RUNS:
                    return []
                changes = [change for piece in chosen for change in piece]
                if trial.error(changes) <= self._limit:
                    return self._from(trial, changes)
        return []


@final
class _Trial:
    """A group moved alone, with some axes changed."""

    def __init__(self, layout: Layout, point: Point, alone: Permutation, group: str) -> None:
        self._layout = layout
        self._point = point
        self._group = group
        self._index = alone.indices[group]
        self._moved = alone.apply(dict(point.tensors))
        self.runs = 0

    def error(self, changes: Sequence[Change]) -> float:
        self.runs += 1
        return self._point.error(self._with(changes))

    def candidates(self) -> Iterator[Change]:
        """Yield the likely corrections of each axis."""
        size = self._layout.groups[self._group].size
        for name, axes in self._layout.axes.items():
            for place, axis in enumerate(axes):
                for changed, hint in _changes(axis, self._group, size):
                    if self._is_admitted((*axes[:place], changed, *axes[place + 1 :])):
                        yield Change(name, place, changed, hint, self._layout)

    def _is_admitted(self, axes: Sequence[Axis]) -> bool:
        try:
            Layout(self._layout.groups, {"trial": tuple(axes)})
        except SpecError:  # a group within another one, without that
            return False
        return True

    def _with(self, changes: Sequence[Change]) -> dict[str, Tensor]:
        moved = dict(self._moved)
        for name in dict.fromkeys(change.tensor for change in changes):
            of_tensor = [change for change in changes if change.tensor == name]
            axes = list(self._layout.axes[name])
            for change in of_tensor:
                axes[change.dimension] = change.axis
            layout = of_tensor[0].layout
            indices = {**self._identity(self._layout), **self._identity(layout), self._group: self._index}
            both = Layout({**self._layout.groups, **layout.groups}, {})
            moved[name] = act(both, indices, self._point.tensors[name], axes)
        return moved

    @staticmethod
    def _identity(layout: Layout) -> Mapping[str, Tensor]:
        return Permutation.identity(layout).indices


def traced_layout(model: nn.Module, inputs: Inputs, keeps: Callable[[Layout], bool]) -> Layout | None:
    """Return the layout that the graph of a model has, if it can be had and keeps the function.

    Args:
        model: The model.
        inputs: What it is called with.
        keeps: Whether a layout keeps the function.

    Returns:
        The layout, or None.
    """
    try:
        layout = derive(model, inputs.args, kwargs=inputs.kwargs).layout
    except (RebasinError, RuntimeError, TypeError, ValueError, LookupError, AttributeError):
        return None  # the exporter raises whatever it likes; the advice is then found by search
    return layout if keeps(layout) else None


def _differences(layout: Layout, traced: Layout, group: str) -> list[Change]:
    """Return where a group stands in a layout and does not in the traced one, or the other way round."""
    renamed = _renamed(traced, layout, group)
    if renamed is None:
        return []
    found: list[Change] = []
    for name, axes in layout.axes.items():
        for place, (own, other) in enumerate(zip(axes, renamed.axes[name], strict=True)):
            # Other groups are not moved: only what is said of this one can differ.
            kept = _of_group(own, group)
            wanted = _of_group(other, group)
            if kept == wanted:
                continue
            if is_fixed(wanted):
                hint = "should not move with it"
            elif is_fixed(own):
                hint = "should move with it"
                hint += "" if wanted == Atom(wanted.size, group) else f", as `{_text(other, renamed)}`"
            elif isinstance(own, Product) and product(*reversed(own.factors)) == other:
                hint = "its factors should stand in the other order"
            else:
                hint = f"should be `{_text(other, renamed)}`"
            found.append(Change(name, place, other, hint, renamed))
    return found


def _text(axis: Axis, layout: Layout) -> str:
    return format_axes((axis,), dict(layout.groups))


def _of_group(axis: Axis, group: str) -> Axis:
    """Return an axis of which only one group is left."""
    match axis:
        case Atom():
            return axis if axis.group == group else Atom(axis.size)
        case Product(factors):
            return product(*(_of_group(factor, group) for factor in factors))
        case Concat(parts):
            return concat(*(_of_group(part, group) for part in parts))


def _renamed(traced: Layout, layout: Layout, group: str) -> Layout | None:
    """Return the traced layout with the names of another one for the same groups; None if it has not this group."""
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
    """Yield the likely corrections of an axis, each with the advice it stands for."""
    if any(atom.group == group for atom in atoms_of(axis)):
        yield Atom(axis.size), "should not move with it"
        if isinstance(axis, Product):
            yield product(*reversed(axis.factors)), "its factors should stand in the other order"
    elif axis == Atom(size):
        yield Atom(size, group), "should move with it"
