"""Inner products of all pairs of nested units, compared with sums over whole tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import rebasin_core as rc
from rebasin_core.bilinear import changes, pair_products
from rebasin_core.bilinear.pair_products import PairProducts
from rebasin_core.bilinear.terms import Term, terms_of

TABLE = {"in": "g*m@g, s*t@s", "scale": "g*m", "out": "o, g*m", "free": "-, g*m"}
SHAPES = {"in": (12, 10), "scale": (12,), "out": (6, 12), "free": (4, 12)}
SPEC = rc.table_spec(TABLE, {n: torch.zeros(s) for n, s in SHAPES.items()}, sizes={"g": 3, "s": 5})
LAYOUT = SPEC.layout


def tensors(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}


def terms() -> list[Term]:
    first, second = tensors(0), tensors(1)
    return [
        term
        for name in SHAPES
        for term in terms_of(LAYOUT.axes[name], first[name].unsqueeze(0), second[name].unsqueeze(0))
    ]


def expected(indices: dict[str, Tensor]) -> Tensor:
    """Return ``[g, g, m, m]``: the units are rows of matrices, whose columns are permuted by the other groups."""
    others = {**SPEC.identity().indices, **{name: indices[name] for name in ("s", "t", "o")}}
    first, second = tensors(0), rc.Permutation(LAYOUT, others).apply_to_deviations(tensors(1))
    sides = [
        torch.cat([side["in"], side["scale"].unsqueeze(1), side["out"].T, side["free"].T], dim=1)
        for side in (first, second)
    ]
    return (sides[0] @ sides[1].T).view(3, 4, 3, 4).transpose(1, 2)


@pytest.mark.parametrize("remembered", [(), ("g",)])
def test_matrices_are_those_of_whole_tensors_after_any_changes(
    remembered: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "SMALL", 0)
    updates: list[int] = []

    def watched(*arguments: Any) -> Any:
        found = changes.changes_of(*arguments)
        updates.extend([] if found is None else [len(found)])
        return found

    monkeypatch.setattr(pair_products, "changes_of", watched)
    products = PairProducts(LAYOUT, torch.float64, remembered)
    every = terms()
    generator = torch.Generator().manual_seed(0)
    indices = dict(SPEC.identity().indices)
    for step in range(20):
        group = ("t", "o", "s", "m", "g")[step % 5]
        changed = indices[group].clone()
        units = torch.randperm(changed.shape[-1], generator=generator)[:2]
        changed[..., units] = changed[..., units.flip(0)]
        indices = {**indices, group: changed}
        torch.testing.assert_close(products.of("m", every, indices), expected(indices))
    assert bool(updates) == bool(remembered)


def test_unchanged_matrices_are_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    products = PairProducts(LAYOUT, torch.float64, ("g",))
    indices = dict(SPEC.identity().indices)
    every = terms()
    first = products.of("m", every, indices)
    monkeypatch.setattr(pair_products, "inner_products", None)
    # The matrix does not depend on the permutations of the compared groups.
    again = products.of("m", every, {**indices, "g": indices["g"].flip(0), "m": indices["m"].flip(-1)})
    assert again.data_ptr() == first.data_ptr()


DEEP_TABLE = {"in": "g*h@g*m@h, s*t@s", "out": "o, g*h*m"}
DEEP = rc.table_spec(DEEP_TABLE, {n: torch.zeros(SHAPES[n]) for n in DEEP_TABLE}, sizes={"g": 2, "h": 3, "s": 5})


def expected_of_three_levels(indices: dict[str, Tensor]) -> Tensor:
    """Return ``[g h, g h, m, m]``."""
    others = {**DEEP.identity().indices, **{name: indices[name] for name in ("s", "t", "o")}}
    candidate = {name: tensors(1)[name] for name in DEEP_TABLE}
    first, second = tensors(0), rc.Permutation(DEEP.layout, others).apply_to_deviations(candidate)
    sides = [torch.cat([side["in"], side["out"].T], dim=1) for side in (first, second)]
    return (sides[0] @ sides[1].T).view(6, 2, 6, 2).transpose(1, 2)


def test_units_of_three_levels_are_compared_after_changes_of_other_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "SMALL", 0)
    every = [
        term
        for name in DEEP_TABLE
        for term in terms_of(DEEP.axes[name], tensors(0)[name].unsqueeze(0), tensors(1)[name].unsqueeze(0))
    ]
    products = PairProducts(DEEP.layout, torch.float64, ("g",))
    generator = torch.Generator().manual_seed(0)
    indices = dict(DEEP.identity().indices)
    for step in range(12):
        group = ("t", "o", "s", "m", "h", "g")[step % 6]
        changed = indices[group].clone()
        units = torch.randperm(changed.shape[-1], generator=generator)[:2]
        changed[..., units] = changed[..., units.flip(0)]
        indices = {**indices, group: changed}
        torch.testing.assert_close(products.of("m", every, indices, top="g"), expected_of_three_levels(indices))
