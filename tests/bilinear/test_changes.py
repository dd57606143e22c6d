"""Differences that changed permutations make to a term, compared with the permutation of whole tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import rebasin_core as rc
from rebasin_core.bilinear import changes
from rebasin_core.bilinear.changes import TermChange, changes_of
from rebasin_core.bilinear.stacked_cell import whole
from rebasin_core.bilinear.terms import Term, terms_of

# Three levels of groups, as where normalizations of several numbers of channels act on one stream.
TABLE = {"weight": "out, a*b@a*c@b", "first": "a*b@a*c@b", "own": "out", "value": "h*w@h, a*b@a*c@b"}
SHAPES = {"weight": (7, 24), "first": (24,), "own": (7,), "value": (6, 24)}
SPEC = rc.table_spec(TABLE, {n: torch.zeros(s) for n, s in SHAPES.items()}, sizes={"a": 3, "b": 2, "h": 3})
LAYOUT = SPEC.layout


def random_indices(seed: int) -> dict[str, Tensor]:
    return dict(SPEC.random_permutation(generator=torch.Generator().manual_seed(seed)).indices)


def term_of(name: str, generator: torch.Generator, channels: int = 2) -> Term:
    sides = [torch.randn(channels, *SHAPES[name], generator=generator, dtype=torch.float64) for _ in range(2)]
    (term,) = terms_of(LAYOUT.axes[name], sides[0], sides[1])
    return term


def permuted(term: Term, name: str, indices: dict[str, Tensor], fixed: tuple[int, ...]) -> Tensor:
    """Return the candidate, permuted as a whole tensor; the permutations of the compared groups are the identity."""
    kept = {str(term.atoms[position].group) for position in fixed}
    identity = SPEC.identity().indices
    element = rc.Permutation(LAYOUT, {n: identity[n] if n in kept else index for n, index in indices.items()})
    given = whole(term.candidate)
    rows = given.reshape(len(given), *SHAPES[name])
    return torch.stack([element.apply_to_deviations({name: row})[name] for row in rows]).view(given.shape)


CASES = [("weight", (0,)), ("weight", (1, 2)), ("value", (0, 1)), ("value", (0,)), ("first", (0, 1))]


@pytest.mark.parametrize(("name", "fixed"), CASES)
@pytest.mark.parametrize("changed", [("out",), ("a",), ("b",), ("c",), ("a", "c"), ("out", "b"), ("w",), ()])
def test_the_products_with_the_difference_are_the_difference_of_the_products(
    name: str,
    fixed: tuple[int, ...],
    changed: tuple[str, ...],
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(changes, "MAX_ENTRIES", 24)  # a few units at a time
    term = term_of(name, generator)
    before = random_indices(0)
    now = {group: random_indices(1)[group] if group in changed else index for group, index in before.items()}
    change = TermChange.of(LAYOUT, term, fixed, now, before)
    found: list[Tensor] = []
    for reference, difference, position_of in [] if change is None else change.pieces():
        assert [reference.shape[1 + position_of[p]] for p in fixed] == [term.atoms[p].size for p in fixed]
        found.append((reference * difference).sum())
    expected = whole(term.reference) * (permuted(term, name, now, fixed) - permuted(term, name, before, fixed))
    torch.testing.assert_close(sum(found, torch.zeros((), dtype=torch.float64)), expected.sum())
    changing = {str(atom.group) for p, atom in enumerate(term.atoms) if p not in fixed} & set(changed)
    assert (change is None) == (not changing)


def test_only_units_that_changed_are_compared(generator: torch.Generator) -> None:
    term = term_of("weight", generator)
    before = dict(SPEC.identity().indices)
    inner = before["c"].clone()
    inner[1, 0, :2] = inner[1, 0, :2].flip(0)
    change = TermChange.of(LAYOUT, term, (0,), {**before, "c": inner}, before)
    assert change is not None
    assert change.work == 2 * term.candidate.numel() / 24
    assert [reference.shape for reference, _, _ in change.pieces()] == [(2, 7, 2)]
    # Units within the compared units are compared as a whole.
    value = term_of("value", generator)
    within = before["w"].flip(-1)
    whole = TermChange.of(LAYOUT, value, (0,), {**before, "w": within}, before)
    assert whole is not None
    assert whole.work == value.candidate.numel()


def test_updates_with_more_work_than_the_products_are_not_made(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "SMALL", 0)
    terms = [(term_of("weight", generator), (0,))]
    before = dict(SPEC.identity().indices)
    swapped = before["c"].clone()
    swapped[0, 0, :2] = swapped[0, 0, :2].flip(0)
    found = changes_of(LAYOUT, terms, {**before, "c": swapped}, before)
    assert found is not None
    assert len(found) == 1
    assert changes_of(LAYOUT, terms, {**before, "a": before["a"].roll(1)}, before) is None
    assert changes_of(LAYOUT, terms, {**before, "a": before["a"].clone()}, before) == []
    monkeypatch.setattr(changes, "SMALL", 10_000)
    assert changes_of(LAYOUT, terms, {**before, "c": swapped}, before) is None
