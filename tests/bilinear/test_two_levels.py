"""Groups and nested groups assigned jointly, where tensors have several nested groups; compared with enumerations."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations, product

import pytest
import torch

from rebasin_core import PermutationSpec, table_spec
from rebasin_core.assignment import default_solver
from rebasin_core.bilinear import CoordinateDescent, two_levels
from rebasin_core.bilinear.levels import Level
from rebasin_core.bilinear.terms import terms_of
from rebasin_core.matchers import WeightMatcher
from rebasin_core.posteriors import PointPosterior
from rebasin_core.symmetry import Permutation

Tensors = dict[str, torch.Tensor]

# A grouped convolution between two others, as in ResNeXt: 3 groups of 2 input and 2 output channels.
GROUPED = {"in": "g*a@g, -", "scale": "g*a", "mid": "g*b@g, a, -", "out": "-, g*b"}
GROUPED_SHAPES = {"in": (6, 4), "scale": (6,), "mid": (6, 2, 3), "out": (4, 6)}
# Grouped-query attention with rotary positions: 2 keys and values, each for 2 queries, and 3 features of the values.
QUERIES = {"q": "g*q@g*-, -", "k": "g*-, -", "v": "g*v@g, -", "o": "-, g*q*v"}
QUERIES_SHAPES = {"q": (16, 5), "k": (8, 5), "v": (6, 5), "o": (5, 12)}
# A grouped convolution inside a residual connection: inputs and outputs are permuted identically.
TIED = {"in": "g*a@g, -", "mid": "g*a@g, a, -", "out": "-, g*a"}
TIED_SHAPES = {"in": (6, 4), "mid": (6, 2, 3), "out": (4, 6)}
CASES = [(GROUPED, GROUPED_SHAPES, 3), (QUERIES, QUERIES_SHAPES, 2), (TIED, TIED_SHAPES, 3)]
NAMES = ["grouped", "queries", "tied"]


def random_tensors(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Tensors:
    g = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=g, dtype=torch.float64) for name, shape in shapes.items()}


def spec_of(table: Mapping[str, str], tensors: Tensors, size: int) -> PermutationSpec:
    sizes = {"g": size, "q": 2} if table is QUERIES else {"g": size}
    return table_spec(table, tensors, sizes=sizes)


def value(a: Tensors, b: Mapping[str, torch.Tensor]) -> float:
    return sum((tensor * b[name]).sum().item() for name, tensor in a.items())


def every_element(spec: PermutationSpec) -> list[Permutation]:
    """Return all elements of the symmetry group."""
    indices = []
    for name in spec.groups:
        *outer, size = spec.layout.index_shape(name)
        rows = [torch.tensor(order) for order in permutations(range(size))]
        count = outer[0] if outer else 1
        indices.append([torch.stack(chosen).view(*outer, size) for chosen in product(rows, repeat=count)])
    return [Permutation(spec.layout, dict(zip(spec.groups, chosen, strict=True))) for chosen in product(*indices)]


def channels(tensors: Tensors) -> Tensors:
    return {name: tensor.unsqueeze(0) for name, tensor in tensors.items()}


@pytest.mark.parametrize(("table", "shapes", "size"), CASES, ids=NAMES)
@pytest.mark.parametrize("seed", range(4))
def test_planted_elements_with_noise_reach_the_global_optimum(
    table: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], size: int, seed: int
) -> None:
    a = random_tensors(shapes, seed)
    spec = spec_of(table, a, size)
    noise = random_tensors(shapes, seed + 100)
    planted = spec.random_permutation(generator=torch.Generator().manual_seed(seed))
    b = planted.apply({name: tensor + 0.1 * noise[name] for name, tensor in a.items()})
    result = WeightMatcher().match(PointPosterior(a), PointPosterior(b), spec)
    best = max(value(a, element.apply(b)) for element in every_element(spec))
    assert result.objective == pytest.approx(best)
    assert result.objective == pytest.approx(value(a, result.apply(b)))


@pytest.mark.parametrize(("table", "shapes", "size"), CASES, ids=NAMES)
@pytest.mark.parametrize("seed", range(6))
def test_a_joint_step_is_at_least_as_good_as_every_outer_permutation_alone(
    table: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], size: int, seed: int
) -> None:
    a, b = random_tensors(shapes, seed), random_tensors(shapes, seed + 100)
    spec = spec_of(table, a, size)
    initial = spec.random_permutation(generator=torch.Generator().manual_seed(seed))
    moved = initial.apply(b)
    best = max(value(a, element.apply(moved)) for element in outer_elements(spec, size))
    descent = CoordinateDescent(spec.layout, channels(a), channels(b), initial=initial.indices)
    before = descent.objective()
    descent._step("g")
    assert before == pytest.approx(value(a, moved))
    assert descent.objective() >= best - 1e-9
    found = Permutation(spec.layout, descent.indices)
    assert descent.objective() == pytest.approx(value(a, found.apply(b)))


def outer_elements(spec: PermutationSpec, size: int) -> list[Permutation]:
    """Return the elements that permute only the units of the outer group."""
    identity = spec.identity().indices
    orders = [torch.tensor(order) for order in permutations(range(size))]
    return [Permutation(spec.layout, {**identity, "g": order}) for order in orders]


@pytest.mark.parametrize("seed", range(8))
def test_the_current_inner_permutations_are_kept_where_they_are_better(seed: int) -> None:
    # Only the grouped convolutions of the networks agree. Their neighbors mislead the inner assignments.
    shapes = {"in": (12, 4), "scale": (12,), "mid": (12, 6, 3), "out": (4, 12)}
    a, b = random_tensors(shapes, seed), random_tensors(shapes, seed + 100)
    spec = spec_of(GROUPED, a, 2)
    swap = outer_elements(spec, 2)[1]
    b = swap.apply({name: 0.5 * tensor for name, tensor in b.items()} | {"mid": 0.5 * a["mid"]})
    best = max(value(a, element.apply(b)) for element in outer_elements(spec, 2))
    descent = CoordinateDescent(spec.layout, channels(a), channels(b))
    descent._step("g")
    assert descent.objective() >= best - 1e-9


@pytest.mark.parametrize(("table", "shapes", "size"), CASES, ids=NAMES)
@pytest.mark.parametrize("seed", range(6))
def test_no_joint_step_improves_a_local_optimum(
    table: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], size: int, seed: int
) -> None:
    a, b = random_tensors(shapes, seed), random_tensors(shapes, seed + 100)
    spec = spec_of(table, a, size)
    descent = CoordinateDescent(spec.layout, channels(a), channels(b))
    values = [descent.objective()]
    sweeps = descent.sweeps(torch.Generator().manual_seed(seed), 100)
    values.extend(descent.objective() for _ in sweeps)
    assert values == sorted(values)
    found = Permutation(spec.layout, descent.indices)
    assert descent.objective() == pytest.approx(value(a, found.apply(b)))
    again = CoordinateDescent(spec.layout, channels(a), channels(b), initial=descent.indices)
    assert not any(again._step(name) for name in spec.groups)


@pytest.mark.parametrize("limit", [1, 40, 2**24])
@pytest.mark.parametrize(("table", "shapes", "size"), CASES, ids=NAMES)
def test_values_are_inner_products_of_the_chosen_assignments(
    table: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
    size: int,
    limit: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(two_levels, "MAX_ENTRIES", limit)
    a, b = random_tensors(shapes, 0), random_tensors(shapes, 1)
    spec = spec_of(table, a, size)
    inner = [name for name in spec.groups if name != "g"]
    terms = [
        term
        for name, axes in spec.axes.items()
        for term in terms_of(axes, a[name].unsqueeze(0), b[name].unsqueeze(0))
        if not set(inner).isdisjoint(term.groups)
    ]
    blocks = two_levels.TwoLevels(Level(spec.layout, "g", "g"), terms, spec.identity().indices, default_solver())
    values, choices = blocks.solve()
    assert not blocks.is_exact
    for i, j in product(range(size), repeat=2):
        order = list(range(size))
        order[i], order[j] = j, i
        rows = torch.arange(size), torch.tensor(order)
        aligned = Permutation(spec.layout, {"g": rows[1], **{name: choices[name][rows] for name in inner}}).apply(b)
        names = [name for name in a if name != "k"]
        expected = sum((part(table, a, name, i, size) * part(table, aligned, name, i, size)).sum() for name in names)
        assert values[i, j].item() == pytest.approx(float(expected))


def part(
    table: Mapping[str, str], tensors: Mapping[str, torch.Tensor], name: str, unit: int, size: int
) -> torch.Tensor:
    """Return the part of a tensor that belongs to one unit of the outer group."""
    dim = [axis.startswith("g*") for axis in table[name].split(", ")].index(True)
    return tensors[name].chunk(size, dim)[unit]


@pytest.mark.parametrize("seed", range(4))
def test_inner_groups_of_three_levels_are_coupled(seed: int) -> None:
    table = {"in": "g*h@g*a@h, -", "mid": "g*h*b@h, a", "out": "-, g*h*b", "gate": "g, -"}
    shapes = {"in": (12, 4), "mid": (12, 2), "out": (4, 12), "gate": (2, 5)}
    a = random_tensors(shapes, seed)
    spec = table_spec(table, a, sizes={"g": 2, "h": 3})
    moved = {name: spec.identity().indices[name] for name in spec.groups}
    generator = torch.Generator().manual_seed(seed)
    random = spec.random_permutation(generator=generator).indices
    planted = Permutation(spec.layout, {**random, "g": moved["g"]})
    b = planted.apply(a)
    result = WeightMatcher(start="identity").match(PointPosterior(a), PointPosterior(b), spec)
    assert result.objective == pytest.approx(value(a, a))


@pytest.mark.parametrize("seed", range(10))
def test_dense_layers_after_a_grouped_convolution_are_recovered(seed: int) -> None:
    # The greedy initialization matches the hidden units before the groups, only by the last layer.
    table = {**GROUPED, "out": "h, g*b", "head": "-, h"}
    shapes = {**GROUPED_SHAPES, "out": (5, 6), "head": (3, 5)}
    a = random_tensors(shapes, seed)
    spec = table_spec(table, a, sizes={"g": 3})
    b = spec.random_permutation(generator=torch.Generator().manual_seed(seed)).apply(a)
    result = WeightMatcher().match(PointPosterior(a), PointPosterior(b), spec)
    assert result.objective == pytest.approx(value(a, a))
