from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from rebasin_core.bilinear import CoordinateDescent, pieces
from rebasin_core.bilinear.stacked_cell import whole
from rebasin_core.bilinear.terms import Term
from rebasin_core.specs import table_spec
from rebasin_core.symmetry import Atom

if TYPE_CHECKING:
    from torch import Tensor

ATOMS = (Atom(7, "out"), Atom(5, "in"), Atom(9))
SPEC = table_spec(
    {
        "embed": "-, stream",
        "query": "heads*width@heads, stream",
        "value": "heads*inner@heads, stream",
        "out": "stream, heads*inner",
        "up": "hidden, stream",
        "down": "stream, hidden",
        "bias": "hidden",
        "head": "-, stream",
    },
    shapes := {
        "embed": torch.zeros(50, 12),
        "query": torch.zeros(6, 12),
        "value": torch.zeros(6, 12),
        "out": torch.zeros(12, 6),
        "up": torch.zeros(30, 12),
        "down": torch.zeros(12, 30),
        "bias": torch.zeros(30),
        "head": torch.zeros(50, 12),
    },
    sizes={"heads": 3},
)


def network(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(t.shape, generator=generator).to(dtype) for name, t in shapes.items()}


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut every tensor of more than 40 entries."""
    monkeypatch.setattr(pieces, "MAX_ENTRIES", 40)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("whole", [(), (0,), (1,), (0, 1), (2,), (0, 2)])
def test_pieces_cover_the_permuted_term(whole: tuple[int, ...]) -> None:
    left, right = torch.randn(2, 7, 5, 9), torch.randn(2, 7, 5, 9)
    indices = {"out": torch.randperm(7), "in": torch.randperm(5)}
    total = torch.zeros(())
    count = 0
    for reference, candidate, done in pieces.pieces(Term(left, right, ATOMS), indices, whole=whole):
        assert done
        assert not set(done) & set(whole)
        permuted = candidate
        for position, group in ((0, "out"), (1, "in")):
            if position not in done:
                permuted = permuted.index_select(1 + position, indices[group])
        total += (reference * permuted).sum()
        count += 1
    assert count > 1
    expected = (left * right.index_select(1, indices["out"]).index_select(2, indices["in"])).sum()
    torch.testing.assert_close(total, expected)


def test_a_small_term_in_single_precision_is_one_view() -> None:
    term = Term(torch.randn(1, 7, 5, 9), torch.randn(1, 7, 5, 9), ATOMS)
    ((reference, candidate, done),) = pieces.pieces(term, {})
    assert reference.data_ptr() == whole(term.reference).data_ptr()
    assert candidate.data_ptr() == whole(term.candidate).data_ptr()
    assert done == ()


def test_half_precision_is_widened_and_nested_groups_are_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "MAX_ENTRIES", 1)
    term = Term(torch.ones(1, 7, 5).bfloat16(), torch.ones(1, 7, 5).bfloat16(), ATOMS[:2])
    ((reference, _, done),) = pieces.pieces(term, {}, nested={"out", "in"})
    assert reference.dtype == torch.float32
    assert done == ()


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("memory", [None, 0, 2_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_descent_in_pieces_finds_what_one_on_whole_tensors_finds(
    memory: int | None, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(reference: dict[str, Tensor], candidate: dict[str, Tensor], limit: int | None) -> CoordinateDescent:
        left, right = ({n: t.unsqueeze(0) for n, t in side.items()} for side in (reference, candidate))
        descent = CoordinateDescent(SPEC.layout, left, right, memory=limit)
        descent.initialize_greedily()
        descent.run(torch.Generator().manual_seed(1), 20)
        return descent

    for seed in range(3):
        first, second = network(seed, dtype), network(seed + 10, dtype)
        found = run(first, second, memory)
        with monkeypatch.context() as patch:
            patch.setattr(pieces, "MAX_ENTRIES", 2**40)
            exact = [{n: t.double() for n, t in side.items()} for side in (first, second)]
            expected = run(exact[0], exact[1], None)
        for name, index in expected.indices.items():
            assert torch.equal(found.indices[name], index), name
        assert found.objective() == pytest.approx(expected.objective(), rel=1e-5)
        assert found.upper_bound() == pytest.approx(expected.upper_bound(), rel=1e-5)


@pytest.mark.usefixtures("small_pieces")
def test_planted_elements_are_recovered_in_half_precision_without_kept_matrices() -> None:
    reference = network(0, torch.bfloat16)
    planted = SPEC.random_permutation(generator=torch.Generator().manual_seed(3))
    candidate = planted.apply(reference)
    sides = ({n: t.unsqueeze(0) for n, t in side.items()} for side in (reference, candidate))
    descent = CoordinateDescent(SPEC.layout, *sides, memory=0)
    descent.initialize_greedily()
    descent.run(torch.Generator().manual_seed(0), 20)
    inverse = planted.inverse().indices
    assert all(torch.equal(descent.indices[name], inverse[name]) for name in inverse)
