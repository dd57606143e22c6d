"""Maps of one group: replacement of rounded ones, checks of large ones, and the distribution of random ones."""

from __future__ import annotations

import pytest
import torch

from rebasin_core import Group, Layout, Permutation
from rebasin_core.errors import InvalidInputError
from rebasin_core.symmetry import Atom, Kind, LinearSymmetry, Slot, Symmetry, SymmetryElement
from tests.symmetry.test_symmetry_element import KINDS, element, one


def test_single_precision_maps_are_replaced_by_the_nearest_orthogonal_ones() -> None:
    for kind in (Kind.ORTHOGONAL, Kind.ORTHOGONAL_FIXING_ONES):
        of = one(kind, 40)
        exact = element(of, 2)
        assert exact.maps[0] is not None
        rounded = SymmetryElement(of, exact.permutation, [exact.maps[0].float()])
        assert rounded.maps[0] is not None
        g = rounded.maps[0]
        assert (g.T @ g - torch.eye(40)).abs().max().item() < 1e-13
        assert (g - exact.maps[0]).abs().max().item() < 1e-6
        if kind is Kind.ORTHOGONAL_FIXING_ONES:
            torch.testing.assert_close(g.sum(0), torch.ones(40).double(), rtol=0, atol=1e-13)
            torch.testing.assert_close(g.sum(1), torch.ones(40).double(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", [Kind.ORTHOGONAL, Kind.ORTHOGONAL_FIXING_ONES])
def test_large_matrices_are_checked_by_products_with_vectors(kind: Kind) -> None:
    of = one(kind, 600)
    (value,) = element(of, 1).maps
    assert value is not None
    identity = Permutation.identity(of.permutations)
    assert SymmetryElement(of, identity, [value]).maps[0] is not value
    wrong = value.clone()
    wrong[0, 0] += 1e-4  # one entry of 360,000
    with pytest.raises(InvalidInputError, match="expected orthogonal matrices"):
        SymmetryElement(of, identity, [wrong])


@pytest.mark.parametrize("kind", KINDS)
def test_distribution_of_random_maps(kind: Kind) -> None:
    """Means and second moments of entries against those of the Haar measure and of the logarithms."""
    layout = Layout({"h": Group("h", 4000), "s": Group("s", 4, "h")}, {"w": (Atom(4000, "h"), Atom(4, "s"))})
    of = Symmetry(layout, (LinearSymmetry("s", kind, {Slot("w", 1): 1}),))
    (value,) = SymmetryElement.random(of, generator=torch.Generator().manual_seed(1), log_stddev=0.3).maps
    assert value is not None
    error = 5 / 4000**0.5
    if kind.is_factor or kind is Kind.ROTATION:
        size = value.abs() if kind.is_factor else value.norm(dim=-1)
        expected = 0.0 if kind is Kind.SIGN else 0.3
        assert size.log().std().item() == pytest.approx(expected, abs=0.3 * error)
        assert (value < 0).double().mean().item() == pytest.approx(0 if kind is Kind.POSITIVE else 0.5, abs=error)
    elif kind is Kind.INVERTIBLE:
        assert torch.linalg.svdvals(value).log().std().item() == pytest.approx(0.3, abs=0.3 * error)
    elif kind is Kind.ORTHOGONAL:
        torch.testing.assert_close(value.mean(0), torch.zeros(4, 4).double(), rtol=0, atol=error)
        torch.testing.assert_close(value.square().mean(0), torch.full((4, 4), 0.25).double(), rtol=0, atol=error)
        assert (torch.linalg.det(value) > 0).double().mean().item() == pytest.approx(0.5, abs=error)
    else:
        # The mean over O(3) on the complement of the ones is zero, and 1/4 remains of each entry.
        torch.testing.assert_close(value.mean(0), torch.full((4, 4), 0.25).double(), rtol=0, atol=error)
        torch.testing.assert_close(value.sum(-1), torch.ones(4000, 4).double())
