from __future__ import annotations

from time import perf_counter
from typing import Any

import pytest
import torch

import rebasin_core as rc
from rebasin_core.bilinear import changes, products
from rebasin_core.bilinear.coordinate_descent import CoordinateDescent
from rebasin_core.bilinear.similarity import SimilarityMatrices
from rebasin_core.bilinear.terms import Channels
from rebasin_core.symmetry.layout import Layout

# Residual streams (a group twice in one tensor), nested groups, convolutions, products after flattening.
ARCHITECTURES = {
    "mlp": (rc.architectures.MLPArchitecture(hidden=[30, 20, 25]), (8,)),
    "resnet": (rc.architectures.CifarResNetArchitecture(depth=8), (3, 8, 8)),
    "vit": (rc.architectures.ViTArchitecture(patch=4, width=16, depth=2, heads=4), (3, 8, 8)),
}


def nudged(index: torch.Tensor, part: float, generator: torch.Generator) -> torch.Tensor:
    """Return an index with some of its units permuted cyclically."""
    units = torch.randperm(index.shape[-1], generator=generator)[: max(2, int(part * index.shape[-1]))]
    changed = index.clone()
    changed[..., units] = index[..., units.roll(1)]
    return changed


def problem(name: str) -> tuple[Layout, Channels, Channels]:
    """Return the layout of an architecture, and one channel of each of two networks with random weights."""
    architecture, shape = ARCHITECTURES[name]
    models = [architecture.build(shape, 5, generator=torch.Generator().manual_seed(seed)).double() for seed in (1, 2)]
    channels = [{n: p.detach().unsqueeze(0) for n, p in model.named_parameters()} for model in models]
    return architecture.spec(models[0]).layout, channels[0], channels[1]


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("large", [True, False])
def test_updated_matrices_equal_recomputed_ones(*, name: str, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if large:  # small tensors are treated like large ones: only changed columns are computed, in reused memory
        monkeypatch.setattr(changes, "SMALL", 0)
        monkeypatch.setattr(changes, "MAX_ENTRIES", 60)
        monkeypatch.setattr(products, "_LARGE", 0)
    updates: list[bool] = []
    update = SimilarityMatrices._update

    def watched(self: SimilarityMatrices, *arguments: Any) -> bool:
        updates.append(update(self, *arguments))
        return updates[-1]

    monkeypatch.setattr(SimilarityMatrices, "_update", watched)
    layout, first, second = problem(name)
    solver = CoordinateDescent(layout, first, second)
    generator = torch.Generator().manual_seed(0)
    for step in range(20):
        group = list(layout.groups)[step % len(layout.groups)]
        solver.indices = {**solver.indices, group: nudged(solver.indices[group], 0.2, generator)}
        fresh = CoordinateDescent(layout, first, second, initial=solver.indices)
        for other in layout.groups:
            expected = fresh.similarity(other)
            torch.testing.assert_close(solver.similarity(other), expected, rtol=0, atol=1e-10)
    assert any(updates) == large


def test_only_matrices_that_are_kept_need_memory() -> None:
    layout, first, second = problem("mlp")
    # The middle group has no weights next to inputs or outputs, so there is no constant part.
    middle = 20 * 20 * 8
    assert CoordinateDescent(layout, first, second, memory=middle - 1)._similarities.remembered == frozenset()
    (kept,) = CoordinateDescent(layout, first, second, memory=middle)._similarities.remembered
    assert layout.groups[kept].size == 20
    both = middle + 2 * 25 * 25 * 8
    assert len(CoordinateDescent(layout, first, second, memory=both)._similarities.remembered) == 2


def test_the_accumulated_objective_equals_the_inner_product() -> None:
    architecture, shape = ARCHITECTURES["mlp"]
    models = [architecture.build(shape, 5, generator=torch.Generator().manual_seed(s)) for s in (1, 2)]
    reference = rc.posteriors.PointPosterior.from_module(models[0])
    candidate = rc.posteriors.PointPosterior.from_module(models[1])
    result = rc.matchers.WeightMatcher().match(reference, candidate, architecture.spec(models[0]))
    aligned = result.apply(candidate).mean
    expected = sum((t.double() * aligned[n].double()).sum().item() for n, t in reference.mean.items())
    assert result.objective == pytest.approx(expected, rel=1e-6)
    assert result.trace[-1] == result.objective
    assert list(result.trace) == sorted(result.trace)


@pytest.mark.parametrize("large", [True, False])
def test_a_returned_matrix_is_a_copy(*, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if large:
        monkeypatch.setattr(changes, "SMALL", 0)
    solver = CoordinateDescent(*problem("mlp"))
    for name in solver.indices:
        expected = solver.similarity(name).clone()
        solver.similarity(name).zero_()
        torch.testing.assert_close(solver.similarity(name), expected, rtol=0, atol=0)


def test_times_add_up_over_steps() -> None:
    solver = CoordinateDescent(*problem("mlp"))
    start = perf_counter()
    solver.initialize_greedily()
    first = dict(solver.seconds)
    assert all(seconds > 0 for seconds in first.values())
    solver.sweep(torch.Generator().manual_seed(0))
    second = dict(solver.seconds)
    assert all(second[name] > first[name] for name in first)
    assert sum(second.values()) < perf_counter() - start


def test_a_converged_descent_changes_no_unit() -> None:
    solver = CoordinateDescent(*problem("mlp"))
    generator = torch.Generator().manual_seed(0)
    while solver.sweep(generator):
        pass
    indices, objective = {name: index.clone() for name, index in solver.indices.items()}, solver.objective()
    assert not solver.sweep(generator)
    assert all(torch.equal(solver.indices[name], index) for name, index in indices.items())
    assert solver.objective() == objective
    # From there, a fresh descent changes no unit either.
    again = CoordinateDescent(*problem("mlp"))
    again.start_at(indices)
    assert not again.sweep(generator)
    assert again.objective() == pytest.approx(objective)
