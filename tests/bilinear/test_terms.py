from __future__ import annotations

import math

import pytest
import torch

from rebasin_core.bilinear import terms
from rebasin_core.bilinear.terms import Term, Workspace, add_inner_products, rows_of_units, total_product
from rebasin_core.symmetry import Atom

ATOMS = (Atom(7, "out"), Atom(5, "in"), Atom(9))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return standard normal numbers in double precision."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize(("place", "sum_over"), [(0, "cuik,cvik->uv"), (1, "coik,cojk->ij")])
def test_inner_products_are_those_of_einsum(
    *, large: bool, place: int, sum_over: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terms, "_LARGE", 0 if large else 2**30)
    term = Term(random(2, 7, 5, 9), random(2, 7, 5, 9, seed=1), ATOMS)
    indices = {"out": torch.tensor([3, 0, 6, 1, 2, 5, 4]), "in": torch.tensor([4, 2, 0, 1, 3])}
    other = "in" if place == 0 else "out"
    moved = term.candidate.index_select(2 - place, indices[other])
    expected = torch.einsum(sum_over, term.reference, moved)
    workspace = Workspace()
    total = torch.full_like(expected, torch.nan)
    add_inner_products(total, term, place, indices, workspace, empty=True)
    torch.testing.assert_close(total, expected)
    add_inner_products(total, term, place, indices, workspace, empty=False)
    torch.testing.assert_close(total, 2 * expected)


def test_a_group_on_both_axes_moves_the_other_one() -> None:
    term = Term(random(1, 6, 6), random(1, 6, 6, seed=1), (Atom(6, "stream"), Atom(6, "stream")))
    index = torch.tensor([5, 3, 0, 1, 2, 4])
    total = torch.zeros(6, 6, dtype=torch.float64)
    add_inner_products(total, term, 1, {"stream": index}, Workspace(), empty=True)
    torch.testing.assert_close(total, term.reference[0].T @ term.candidate[0][index])


def test_rows_are_views_where_they_can_be() -> None:
    cell, workspace = random(1, 300, 200), Workspace()
    for place in (0, 1):
        rows = rows_of_units(cell, place, workspace, "reference")
        torch.testing.assert_close(rows, cell[0] if place == 0 else cell[0].T)
        assert rows.data_ptr() == cell.data_ptr()
    kernels = random(1, 60, 50, 9)
    rows = rows_of_units(kernels, 1, workspace, "reference")
    torch.testing.assert_close(rows, kernels[0].transpose(0, 1).reshape(50, -1))
    again = rows_of_units(kernels + 1, 1, workspace, "reference")
    assert again.data_ptr() == rows.data_ptr()  # the same memory, as its description warns


def test_memory_is_kept_apart_by_role_and_grows() -> None:
    workspace, like = Workspace(), torch.zeros(1)
    first, second = workspace.take("first", (4, 5), like), workspace.take("second", (4, 5), like)
    first.fill_(1.0)
    second.fill_(2.0)
    assert torch.equal(first, torch.ones(4, 5))
    assert workspace.take("first", (3,), like).data_ptr() == first.data_ptr()
    assert workspace.take("first", (50, 50), like).shape == (50, 50)
    assert workspace.take("first", (2,), like.double()).dtype == torch.float64


@pytest.mark.parametrize("size", [0, 1, 2**14, 2**14 + 1, 10**6])
def test_total_products_are_as_good_as_double_precision(size: int) -> None:
    left, right = random(size).float(), random(size, seed=1).float()
    exact = (left.double() * right.double()).sum().item()
    scale = math.sqrt(size)
    assert total_product(left, right) == pytest.approx(exact, rel=0, abs=1e-6 * scale + 1e-30)
    assert total_product(left.reshape(1, -1), right.reshape(1, -1)) == total_product(left, right)
