"""Searches for alignments of checkpoints continue after their process was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rebasin_core as rc
from rebasin_core.api.checkpoints.compared import ComparedPair
from rebasin_core.api.checkpoints.network import CheckpointNetwork
from rebasin_core.api.checkpoints.search import CheckpointSearch
from rebasin_core.checkpoints.naming import NamePolicy
from rebasin_core.checkpoints.stored import StoredForm
from rebasin_core.matchers import WeightMatcher
from tests.api.checkpoints.networks import MLP, write

ROOT = Path(__file__).parents[3]


@pytest.mark.skipif(sys.platform == "win32", reason="processes cannot be forked")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.nightly)])
def test_killed_runs_continue_and_write_the_same_bytes(tmp_path: Path, kills: int) -> None:
    command = [sys.executable, "-m", "tests.api.checkpoints.kills", str(tmp_path), str(kills), "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=580)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["AlignRecipe", str(kills), "MergeRecipe", str(kills)]


@pytest.fixture
def networks(tmp_path: Path) -> list[CheckpointNetwork]:
    spec = specification()
    form = StoredForm({name: spec.layout.shape(name) for name in spec.layout.axes})
    paths = [write(tmp_path / f"{seed}.safetensors", MLP.network(seed)) for seed in range(3)]
    return [CheckpointNetwork.of(rc.open_checkpoint(path), spec.layout.names, form, NamePolicy()) for path in paths]


def specification() -> rc.PermutationSpec:
    axes = {
        "0.weight": "first, -", "0.bias": "first", "2.weight": "second, first", "2.bias": "second",
        "4.weight": "-, second", "4.bias": "-",
    }  # fmt: skip
    return rc.table_spec(axes, MLP.network())


def pair(reference: CheckpointNetwork, candidate: CheckpointNetwork) -> ComparedPair:
    return ComparedPair.of(specification(), reference, candidate)


def search(folder: Path, *, seed: int = 0, max_sweeps: int = 100) -> CheckpointSearch:
    return CheckpointSearch(WeightMatcher(max_sweeps=max_sweeps), folder, seed, progress=False)


def test_results_are_those_of_the_matcher_and_are_read_by_the_next_run(
    networks: list[CheckpointNetwork], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = networks
    found = search(tmp_path / "w").align(pair(first, second))
    generator = torch.Generator().manual_seed(0)
    direct = WeightMatcher().match(first.posterior, second.posterior, specification(), generator=generator)
    assert found.permutation == direct.permutation
    assert found.objective == direct.objective
    monkeypatch.setattr(WeightMatcher, "match", None)  # the next run does not search
    again = search(tmp_path / "w").align(pair(first, second))
    assert again == found


def test_results_of_other_searches_are_not_read(networks: list[CheckpointNetwork], tmp_path: Path) -> None:
    first, second, third = networks
    folder = tmp_path / "w"
    found = search(folder).align(pair(first, second))
    for other in (
        search(folder).align(pair(first, third)),
        search(folder).align(pair(second, first)),
        search(folder, max_sweeps=1).align(pair(first, second)),
    ):
        assert other.trace != found.trace
    assert len(list(folder.glob("aligned-*.completed.safetensors"))) == 4


def test_a_damaged_result_is_computed_again(networks: list[CheckpointNetwork], tmp_path: Path) -> None:
    first, second, _ = networks
    found = search(tmp_path / "w").align(pair(first, second))
    (path,) = (tmp_path / "w").glob("*.completed.safetensors")
    for content in (b"", path.read_bytes()[:-3], b"\x00" * 100):
        path.write_bytes(content)
        again = search(tmp_path / "w").align(pair(first, second))
        assert again.permutation == found.permutation
        assert again.trace == found.trace


def test_the_shuffled_copy_is_removed_and_gives_the_same_distances_again(
    networks: list[CheckpointNetwork], tmp_path: Path
) -> None:
    first, second, _ = networks
    found, extent = search(tmp_path / "w").align_by_chance(pair(first, second))
    assert 0 < extent < 0.5
    assert [path.suffixes[0] for path in (tmp_path / "w").iterdir()] == [".completed"] * 3
    assert search(tmp_path / "w").align_by_chance(pair(first, second)) == (found, extent)
    assert search(tmp_path / "w", seed=1).align_by_chance(pair(first, second)) != (found, extent)
    # Shuffling changes no entry, so norms are those of the reference.
    norm = sum(float(tensor.double().square().sum()) for tensor in first.tensors.values())
    assert found.total.reference == pytest.approx(norm, rel=1e-6)
