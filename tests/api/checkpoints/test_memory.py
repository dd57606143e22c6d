"""Limits of memory: rejected with the needed number, and without influence on the result."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import rebasin_core as rc
from rebasin_core.api.checkpoints.memory import memory_needed, within_memory
from rebasin_core.api.checkpoints.network import CheckpointNetwork
from rebasin_core.api.checkpoints.placement import placed
from rebasin_core.checkpoints import StoredForm, StoredTensor
from rebasin_core.checkpoints.naming import NamePolicy
from rebasin_core.errors import InvalidInputError
from rebasin_core.matchers import SinkhornMatcher, WeightMatcher
from tests.api.checkpoints.networks import CONVOLUTIONAL, write


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Independent networks, whose alignment takes several sweeps."""
    return tuple(write(tmp_path / f"{seed}.safetensors", CONVOLUTIONAL.network(seed)) for seed in (0, 1))  # type: ignore[return-value]


def wide(width: int) -> tuple[rc.PermutationSpec, dict[str, torch.Tensor]]:
    module = nn.Sequential(nn.Linear(4, width, device="meta"), nn.ReLU(), nn.Linear(width, 4, device="meta"))
    tensors = dict(module.state_dict())
    axes = {"0.weight": "hidden, -", "0.bias": "hidden", "2.weight": "-, hidden", "2.bias": "-"}
    return rc.table_spec(axes, tensors), tensors


def test_the_needed_memory_grows_with_the_matrices_of_the_largest_group() -> None:
    small, large = (memory_needed(spec.layout, tensors) for spec, tensors in map(wide, (10_000, 20_000)))
    # Similarities of 20,000 units in single precision are 1.6 GB; there are at least two such matrices.
    assert 2 * 4 * (20_000**2 - 10_000**2) <= large - small <= 4 * 4 * (20_000**2 - 10_000**2)


def test_the_needed_memory_includes_all_pairs_of_units_inside_a_group() -> None:
    def needed(channels: int) -> int:
        tensors = {
            "in": torch.empty(8 * channels, 4, device="meta"),
            "out": torch.empty(4, 8 * channels, device="meta"),
        }
        spec = rc.table_spec({"in": "heads*width@heads, -", "out": "-, heads*width"}, tensors, sizes={"heads": 8})
        return memory_needed(spec.layout, tensors)

    # Every unit of one network is compared with every unit of the other, inside all pairs of the 8 heads.
    assert 2 * 4 * (16_000**2 - 8_000**2) <= needed(2000) - needed(1000) <= 4 * 4 * (16_000**2 - 8_000**2)


def test_too_little_memory_is_rejected_with_the_needed_number(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="in addition to mapped files") as error:
        rc.align_checkpoints(*pair, model=CONVOLUTIONAL.source, memory=10**6)
    needed = re.search(r"needs about ([\d.]+) GB", str(error.value))
    assert needed is not None
    allowed = round(float(needed[1]) * 10**9 + 10**8)
    limited = rc.align_checkpoints(*pair, model=CONVOLUTIONAL.source, memory=allowed)
    limited.write(tmp_path / "limited.safetensors")
    free = rc.align_checkpoints(*pair, model=CONVOLUTIONAL.source)
    free.write(tmp_path / "free.safetensors")
    assert (tmp_path / "limited.permutation.safetensors").read_bytes() == (
        tmp_path / "free.permutation.safetensors"
    ).read_bytes()
    first, second = load_file(tmp_path / "limited.safetensors"), load_file(tmp_path / "free.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in second)


def test_the_matcher_gets_the_memory_that_remains() -> None:
    spec, tensors = wide(64)
    needed = memory_needed(spec.layout, tensors)
    found = within_memory(WeightMatcher(), needed + 1000, spec.layout, tensors)
    assert isinstance(found, WeightMatcher)
    assert found.memory == 1000
    assert within_memory(WeightMatcher(), None, spec.layout, tensors) == WeightMatcher()


def test_matchers_without_a_limit_are_rejected() -> None:
    spec, tensors = wide(64)
    with pytest.raises(InvalidInputError, match="the memory of the matcher 'sinkhorn' cannot be limited"):
        within_memory(SinkhornMatcher(), 10**12, spec.layout, tensors)


def test_matchers_over_linear_maps_are_rejected() -> None:
    spec, tensors = wide(64)
    with pytest.raises(InvalidInputError, match=r"'weight' cannot be limited; align modulo permutations"):
        within_memory(WeightMatcher(symmetry="full"), 10**12, spec.layout, tensors)


def test_tensors_that_are_assembled_from_parts_need_memory(tmp_path: Path) -> None:
    shapes = {"in": (6, 4), "out": (3, 6)}
    halves = {f"in.{half}": StoredTensor("in", (3, 4), (4, 1), 12 * half) for half in range(2)}
    form = StoredForm(shapes, {**halves, "out": StoredTensor.whole("out", torch.empty(3, 6))})
    axes = {"in": "hidden, -", "out": "-, hidden"}
    spec = rc.table_spec(axes, {name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    networks = []
    for number in range(3):
        tensors = {name: torch.full(part.shape, 1.0 + number).bfloat16() for name, part in form.stored.items()}
        checkpoint = rc.open_checkpoint(write(tmp_path / f"{number}.safetensors", tensors))
        networks.append(CheckpointNetwork.of(checkpoint, spec.layout.names, form, NamePolicy()))
    assert [network.assembled_bytes for network in networks] == [6 * 4 * 2] * 3
    needed = memory_needed(spec.layout, networks[0].tensors) + 2 * 6 * 4 * 2  # of one pair at a time
    matcher, _ = placed(WeightMatcher(), needed, torch.device("cpu"), spec.layout, networks)
    assert isinstance(matcher, WeightMatcher)
    assert matcher.memory == 0
    with pytest.raises(InvalidInputError, match="in addition to mapped files"):
        placed(WeightMatcher(), needed - 1, torch.device("cpu"), spec.layout, networks)
