"""Large stacks are stacked one slice at a time, with the same results."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from rebasin_core.bilinear import pieces, stacked_cell
from rebasin_core.bilinear.coordinate_descent import CoordinateDescent
from rebasin_core.bilinear.stacked_cell import StackedCell, stacked_cells, whole
from tests.symmetry.experts import Mixture, spec, tensors_of


def members() -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 3, 4, generator=g) for _ in range(6))


def test_slices_are_those_of_the_stacked_tensor() -> None:
    cell = StackedCell(members(), (2, 3))
    expected = torch.stack(members(), 1).view(2, 2, 3, 3, 4)
    assert (cell.shape, cell.numel(), cell.dtype) == (expected.shape, expected.numel(), expected.dtype)
    assert torch.equal(whole(cell), expected)
    index = torch.tensor([1, 0])
    for dim in range(5):
        assert torch.equal(cell.narrow(dim, 1, 1), expected.narrow(dim, 1, 1))
        assert torch.equal(cell.select(dim, index), expected.index_select(dim, index))


def test_descents_with_and_without_stacking_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = spec().layout
    sides = [{n: t.unsqueeze(0) for n, t in tensors_of(Mixture(seed)).items()} for seed in range(2)]
    eager = CoordinateDescent(layout, *sides)
    monkeypatch.setattr(stacked_cell, "LARGE", 8)
    monkeypatch.setattr(pieces, "MAX_ENTRIES", 12)
    assert any(isinstance(own, StackedCell) for _, own, _ in stacked_cells(layout, *sides))
    sliced = CoordinateDescent(layout, *sides)
    for descent in (eager, sliced):
        descent.initialize_greedily()
        descent.run(torch.Generator().manual_seed(0), 10)
    assert sliced.objective() == pytest.approx(eager.objective(), rel=1e-12)
    assert sliced.upper_bound() == pytest.approx(eager.upper_bound(), rel=1e-12)
    assert all(torch.equal(index, sliced.indices[name]) for name, index in eager.indices.items())


_CODE = """
import resource, sys, torch
from rebasin_core.bilinear.coordinate_descent import CoordinateDescent
from rebasin_core.specs import table_spec

def peak():
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found / (1 if sys.platform == "darwin" else 1024)  # in MiB

torch.set_num_threads(1)
EXPERTS, WIDTH, UNITS = 4, 2**21, 4
tensors = {
    f"{layer}.experts.{k}.w": torch.full((UNITS, WIDTH), 0.01 + k, dtype=torch.bfloat16)
    for layer in ("a", "b", "c", "d") for k in range(EXPERTS)
}  # four stacks of 64 MiB each
table = {f"{layer}.experts.{{{layer}}}.w": f"{layer}_units@{layer}, -" for layer in ("a", "b", "c", "d")}
layout = table_spec(table, tensors).layout
channels = {name: tensor.unsqueeze(0) for name, tensor in tensors.items()}
before = peak()
descent = CoordinateDescent(layout, channels, channels)
print(peak() - before)
"""


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform == "win32", reason="the peak of a process is read with the module `resource`")
def test_stacks_are_not_copied_together() -> None:
    done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=True, timeout=100)
    # Two copies of all stacks would have 512 MiB.
    assert float(done.stdout) < 64
