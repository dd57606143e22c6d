"""Entries of parameters that the model does not read for the example inputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.symmetry import Kind
from rebasin_core.symmetry.axis import atoms_of

WIDTH, LENGTH = 8, 16


class Positions(nn.Module):
    """A residual stream with learned positions, read by a range."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(11, WIDTH), nn.Parameter(torch.randn(LENGTH, WIDTH))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 11)

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        output: Tensor = self.head(self.norm(self.embed(tokens) + self.positions[: tokens.shape[1]]))
        return output


class Halves(nn.Module):
    """Two ranges of one weight: the first half of its rows, and in between."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.out = nn.Parameter(torch.randn(12, 4)), nn.Linear(6, 3)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        hidden = (inputs @ self.weight[:6].T).relu() + (inputs @ self.weight[4:10].T).relu()
        output: Tensor = self.out(hidden)
        return output


@pytest.mark.parametrize("length", [1, 7, LENGTH])
def test_positions_beyond_the_inputs_are_fixed(length: int) -> None:
    model = Positions().eval()
    spec = rc.trace_spec(model, torch.randint(0, 11, (2, length)))
    (group,) = spec.groups.values()
    assert group.size == WIDTH
    assert [linear.kind for linear in spec.folded_symmetry.linear] == [Kind.ORTHOGONAL_FIXING_ONES]
    assert all(atom.group is None for atom in atoms_of(spec.layout.axes["positions"][0]))
    longer = torch.randint(0, 11, (3, LENGTH))
    rc.check_spec(spec, model, longer).require()
    assert ("not read for inputs of this shape" in str(spec.coverage)) == (length < LENGTH)


def test_overlapping_ranges_fix_only_what_neither_reads() -> None:
    spec = rc.trace_spec(Halves(), torch.randn(2, 4))
    rc.check_spec(spec, Halves(), torch.randn(5, 4)).require()
    atoms = [*atoms_of(spec.layout.axes["weight"][0])]
    assert atoms[-1].group is None
    assert atoms[-1].size == 2
