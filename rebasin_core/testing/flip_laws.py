"""Laws of posteriors under flips of units, which add entries of a weight to a bias."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, cast

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.symmetry.axis import Atom, Group
from rebasin_core.symmetry.kind import Kind, Shift, Slot
from rebasin_core.symmetry.layout import Layout
from rebasin_core.symmetry.linear import LinearSymmetry, Symmetry
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.symmetry.symmetry_element import SymmetryElement
from rebasin_core.testing.law import expect, expect_equal, law, seeded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from rebasin_core.posteriors.base import Posterior

_GROUP = "units"
_MAX_PAIRS = 4


def _pairs(posterior: Posterior) -> Iterator[tuple[str, str]]:
    """Yield matrices and vectors of the length of their rows: a weight and a bias of the same layer, or as if."""
    mean = {name: tensor for name, tensor in posterior.mean.items() if tensor.is_floating_point()}
    for weight, matrix in mean.items():
        for bias, vector in mean.items():
            if matrix.dim() == 2 and vector.dim() == 1 and len(vector) == len(matrix) and matrix.numel():
                yield weight, bias


def _element(posterior: Posterior, weight: str, bias: str) -> SymmetryElement:
    """Return a permutation of the columns of a weight, and flips that add some of them to a bias."""
    tensors = {**posterior.mean, **posterior.buffers}
    axes = {name: tuple(map(Atom, tensor.shape)) for name, tensor in tensors.items()}
    rows, columns = tensors[weight].shape
    layout = Layout({_GROUP: Group(_GROUP, columns)}, {**axes, weight: (Atom(rows), Atom(columns, _GROUP))})
    flips = LinearSymmetry(_GROUP, Kind.FLIP, {Slot(weight, 1): 1}, shifts=(Shift(weight, 0, bias),))
    signs = torch.where(torch.arange(columns) % 2 == 0, -1.0, 1.0).double()
    permutation = Permutation.random(layout, generator=seeded())
    return SymmetryElement(Symmetry(layout, (flips,)), permutation, [signs])


def _by_hand(element: SymmetryElement, weight: str, bias: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with every second column of a weight added to the bias, negated, and then permuted."""
    flipped = tensors[weight][..., ::2]
    columns = tensors[weight].clone()
    columns[..., ::2] = -flipped
    index = element.permutation.indices[_GROUP].to(columns.device)
    return {**tensors, bias: tensors[bias] + flipped.sum(-1), weight: columns[..., index]}


@law("posterior")
def flips_add_weights_to_biases(example: object, folder: Path) -> None:
    """Flips transform mean and samples as they transform networks, or an error names the group and the kind."""
    del folder
    posterior = cast("Posterior", example)
    for weight, bias in islice(_pairs(posterior), _MAX_PAIRS):
        element = _element(posterior, weight, bias)
        noise = posterior.draw_noise((3,), generator=seeded(1))
        try:
            transformed = posterior.transform(element)
        except InvalidInputError as error:
            expect(not posterior.is_point, f"expected a single network to be closed under flips, got: {error}")
            named = repr(str(Kind.FLIP)) in str(error) and repr(_GROUP) in str(error)
            expect(named, f"the error does not name the group {_GROUP!r} and the kind {str(Kind.FLIP)!r}: {error}")
            continue
        wanted = _by_hand(element, weight, bias, posterior.mean)
        expect_equal(transformed.mean, wanted, f"mean under flips of `{weight}`", tolerance=1e-6)
        samples = transformed.from_noise(posterior.transform_noise(element, noise))
        wanted = _by_hand(element, weight, bias, posterior.from_noise(noise))
        expect_equal(samples, wanted, f"samples under flips of `{weight}`", tolerance=1e-6)
