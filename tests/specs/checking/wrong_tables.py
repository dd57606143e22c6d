"""Random wrong specifications, derived from correct ones, and an oracle that shares no code with the check."""

from __future__ import annotations

import copy
import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rebasin_core.errors import SpecError
from rebasin_core.specs import GivenSpec
from rebasin_core.symmetry import Permutation
from rebasin_core.symmetry.axis import Atom, Axis, Concat, Group, Product, atoms_of, concat, product
from rebasin_core.symmetry.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True)
class WrongTable:
    """A layout with one change, and a description of the change."""

    kind: str
    where: str
    layout: Layout

    @property
    def spec(self) -> GivenSpec:
        return GivenSpec(self.layout)


def wrong_tables(layout: Layout, seed: int) -> Iterator[WrongTable]:
    """Yield layouts with one wrong tensor or group, in random order, each once."""
    draw = random.Random(seed)
    changed_axes = [*_fixed_axes(layout), *_added_axes(layout), *_reversed_factors(layout)]
    by_kind: dict[str, list[WrongTable]] = {}
    for table in [*changed_axes, *_split(layout, draw), *_merged(layout)]:
        by_kind.setdefault(table.kind, []).append(table)
    for tables in by_kind.values():
        draw.shuffle(tables)
    while by_kind:
        for kind in draw.sample(sorted(by_kind), len(by_kind)):
            yield by_kind[kind].pop()
            if not by_kind[kind]:
                del by_kind[kind]


def _replaced(axis: Axis, change: Callable[[Atom], Axis]) -> Axis:
    match axis:
        case Atom():
            return change(axis)
        case Product(factors):
            return product(*(_replaced(factor, change) for factor in factors))
        case Concat(parts):
            return concat(*(_replaced(part, change) for part in parts))


def _renamed(axis: Axis, old: str, new: str | None) -> Axis:
    return _replaced(axis, lambda atom: Atom(atom.size, new) if atom.group == old else atom)


def _with(layout: Layout, tensor: str, dim: int, axis: Axis, groups: dict[str, Group] | None = None) -> Layout | None:
    axes = [*layout.axes[tensor]]
    axes[dim] = axis
    try:
        return Layout({**layout.groups, **(groups or {})}, {**layout.axes, tensor: tuple(axes)})
    except SpecError:
        return None  # the notation does not admit it


def _grouped_axes(layout: Layout) -> Iterator[tuple[str, int, Axis, str]]:
    for name, axes in layout.axes.items():
        for dim, axis in enumerate(axes):
            for group in dict.fromkeys(atom.group for atom in atoms_of(axis) if atom.group and atom.size > 1):
                yield name, dim, axis, group


def _fixed_axes(layout: Layout) -> Iterator[WrongTable]:
    for name, dim, axis, group in _grouped_axes(layout):
        fixed = _renamed(axis, group, None)
        changed = _with(layout, name, dim, fixed)
        if changed is not None:
            yield WrongTable("an axis fixed", f"{name}[{dim}]", changed)
        for other in layout.groups.values():
            if other.name != group and other.size == layout.groups[group].size and other.within is None:
                regrouped = _renamed(axis, group, other.name)
                changed = _with(layout, name, dim, regrouped)
                if changed is not None:
                    yield WrongTable("an axis in another group", f"{name}[{dim}]", changed)


def _added_axes(layout: Layout) -> Iterator[WrongTable]:
    for name, axes in layout.axes.items():
        for dim, axis in enumerate(axes):
            for group in layout.groups.values():
                if axis == Atom(group.size) and group.size > 1 and group.within is None:
                    changed = _with(layout, name, dim, Atom(group.size, group.name))
                    if changed is not None:
                        yield WrongTable("a fixed axis in a group", f"{name}[{dim}]", changed)
            if isinstance(axis, Atom) and axis.group is None and axis.size > 1:
                lone = {"lone": Group("lone", axis.size)}
                changed = _with(layout, name, dim, Atom(axis.size, "lone"), lone)
                if changed is not None:
                    yield WrongTable("a fixed axis as a new group", f"{name}[{dim}]", changed)


def _reversed_factors(layout: Layout) -> Iterator[WrongTable]:
    for name, axes in layout.axes.items():
        for dim, axis in enumerate(axes):
            if isinstance(axis, Product):
                other = product(*reversed(axis.factors))
                changed = None if other == axis else _with(layout, name, dim, other)
                if changed is not None:
                    yield WrongTable("factors in reverse order", f"{name}[{dim}]", changed)


def _split(layout: Layout, draw: random.Random) -> Iterator[WrongTable]:
    for group in layout.groups.values():
        positions = [(name, dim) for name, dim, _, found in _grouped_axes(layout) if found == group.name]
        if len(positions) < 2 or any(other.within == group.name for other in layout.groups.values()):
            continue
        for _ in range(3):
            chosen = set(draw.sample(positions, draw.randint(1, len(positions) - 1)))
            twin = Group(f"{group.name}.twin", group.size, group.within)
            axes = {
                name: tuple(
                    _renamed(a, group.name, twin.name) if (name, dim) in chosen else a for dim, a in enumerate(found)
                )
                for name, found in layout.axes.items()
            }
            yield WrongTable("a group split", group.name, Layout({**layout.groups, twin.name: twin}, axes))


def _merged(layout: Layout) -> Iterator[WrongTable]:
    names = [group for group in layout.groups.values() if group.within is None and group.size > 1]
    for first in names:
        for second in names:
            if first.name < second.name and first.size == second.size:
                nested = any(group.within in {first.name, second.name} for group in layout.groups.values())
                if nested:
                    continue
                axes = {
                    name: tuple(_renamed(a, second.name, first.name) for a in found)
                    for name, found in layout.axes.items()
                }
                kept = {name: group for name, group in layout.groups.items() if name != second.name}
                yield WrongTable("two groups merged", f"{first.name} and {second.name}", Layout(kept, axes))


def truly_changes(model: nn.Module, inputs: Tensor, right: Layout, wrong: Layout, draws: int = 24) -> bool:
    """Return whether a wrong layout changes the function at random parameters that are not those of the check.

    At one of ``draws`` parameters, a random element of the wrong layout must change an entry of the outputs 1e6 times
    more than elements of the correct layout do (rounding), and 1e6 times more than the rounding error of the entry.
    """
    wide = copy.deepcopy(model).double().eval()
    x = inputs.double() if inputs.is_floating_point() else inputs
    generator = torch.Generator().manual_seed(0)
    names = [name for name, _ in wide.named_parameters()]
    start = {n: t.detach().clone() for n, t in [*wide.named_parameters(), *wide.named_buffers()]}
    for number in range(draws):
        gain = (1.0, 2.0, 4.0, 0.5, 8.0, 16.0)[number % 6]
        values = {n: _redrawn(t, n in names, gain, generator) for n, t in start.items()}
        before = _run(wide, values, x)
        if before is None:
            continue
        same = [_run(wide, Permutation.random(right, generator=generator).apply(values), x) for _ in range(3)]
        noise = torch.stack([(found - before).abs() for found in same if found is not None]).amax(0)
        other = _run(wide, Permutation.random(wrong, generator=generator).apply(values), x)
        if other is None:
            return True
        usable = torch.isfinite(before) & torch.isfinite(other)
        floor = 1e6 * torch.maximum(noise, 2.0**-52 * before.abs())
        if bool(((other - before).abs() > floor)[usable & (before.abs() > 0)].any()):
            return True
    return False


def _redrawn(tensor: Tensor, parameter: bool, gain: float, generator: torch.Generator) -> Tensor:  # ruff: ignore[boolean-type-hint-positional-argument]
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return tensor.clone()
    if tensor.is_complex():
        return torch.randn(tensor.shape, generator=generator, dtype=torch.complex128)
    if bool((tensor > 0).all()):
        return 0.6 + torch.rand(tensor.shape, generator=generator).to(tensor) * gain / 2
    if tensor.dim() < 2 or not parameter:
        return 0.1 * torch.randn(tensor.shape, generator=generator).to(tensor)
    scale = gain / math.sqrt(tensor[0].numel())
    return scale * torch.randn(tensor.shape, generator=generator).to(tensor)


def _run(model: nn.Module, values: dict[str, Tensor], x: Tensor) -> Tensor | None:
    torch.manual_seed(0)
    try:
        with torch.no_grad():
            output: Tensor = torch.func.functional_call(model, {n: t.clone() for n, t in values.items()}, (x,))
    except RuntimeError:
        return None
    return output
