from __future__ import annotations

import math

import pytest
import torch

from rebasin_core.bilinear import products
from rebasin_core.bilinear.products import Workspace, add_inner_products, rows_of_units, total_product
from rebasin_core.bilinear.stacked_cell import whole
from rebasin_core.bilinear.terms import Term
from rebasin_core.symmetry import Atom

ATOMS = (Atom(7, "out"), Atom(5, "in"), Atom(9))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return standard normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize(("position", "equation"), [(0, "cuik,cvik->uv"), (1, "coik,cojk->ij")])
def test_inner_products_are_those_of_einsum(
    *, large: bool, position: int, equation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_LARGE", 0 if large else 2**30)
    term = Term(random(2, 7, 5, 9), random(2, 7, 5, 9, seed=1), ATOMS)
    indices = {"out": torch.tensor([3, 0, 6, 1, 2, 5, 4]), "in": torch.tensor([4, 2, 0, 1, 3])}
    other = "in" if position == 0 else "out"
    permuted = whole(term.candidate).index_select(2 - position, indices[other])
    expected = torch.einsum(equation, whole(term.reference), permuted)
    workspace = Workspace()
    total = torch.full_like(expected, torch.nan)
    add_inner_products(total, term, position, indices, workspace, empty=True)
    torch.testing.assert_close(total, expected)
    add_inner_products(total, term, position, indices, workspace, empty=False)
    torch.testing.assert_close(total, 2 * expected)


def test_a_group_on_both_axes_permutes_the_other_axis() -> None:
    term = Term(random(1, 6, 6), random(1, 6, 6, seed=1), (Atom(6, "stream"), Atom(6, "stream")))
    index = torch.tensor([5, 3, 0, 1, 2, 4])
    total = torch.zeros(6, 6, dtype=torch.float64)
    add_inner_products(total, term, 1, {"stream": index}, Workspace(), empty=True)
    torch.testing.assert_close(total, whole(term.reference)[0].T @ whole(term.candidate)[0][index])


def test_rows_are_views_if_the_memory_layout_permits() -> None:
    cell, workspace = random(1, 300, 200), Workspace()
    for position in (0, 1):
        rows = rows_of_units(cell, position, workspace, "reference")
        torch.testing.assert_close(rows, cell[0] if position == 0 else cell[0].T)
        assert rows.data_ptr() == cell.data_ptr()
    kernels = random(1, 60, 50, 9)
    rows = rows_of_units(kernels, 1, workspace, "reference")
    torch.testing.assert_close(rows, kernels[0].transpose(0, 1).reshape(50, -1))
    again = rows_of_units(kernels + 1, 1, workspace, "reference")
    assert again.data_ptr() == rows.data_ptr()  # the same memory, as documented


def test_buffers_are_separate_for_each_role_and_grow() -> None:
    workspace, like = Workspace(), torch.zeros(1)
    first, second = workspace.buffer("first", (4, 5), like), workspace.buffer("second", (4, 5), like)
    first.fill_(1.0)
    second.fill_(2.0)
    assert torch.equal(first, torch.ones(4, 5))
    assert workspace.buffer("first", (3,), like).data_ptr() == first.data_ptr()
    assert workspace.buffer("first", (50, 50), like).shape == (50, 50)
    assert workspace.buffer("first", (2,), like.double()).dtype == torch.float64


@pytest.mark.parametrize("size", [0, 1, 2**14, 2**14 + 1, 10**6])
def test_total_products_are_accurate_to_single_precision(size: int) -> None:
    left, right = random(size).float(), random(size, seed=1).float()
    exact = (left.double() * right.double()).sum().item()
    scale = math.sqrt(size)
    assert total_product(left, right) == pytest.approx(exact, rel=0, abs=1e-6 * scale + 1e-30)
    assert total_product(left.reshape(1, -1), right.reshape(1, -1)) == total_product(left, right)
