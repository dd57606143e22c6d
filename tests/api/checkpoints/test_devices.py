"""Computations on a device give the results of the CPU.

The devices are a GPU, if there is one, and a pretended device, which rejects mixed devices and counts memory: networks
that do not fit into the allowed memory are never on it as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.api.checkpoints import apply_to_checkpoint, load_recipe, run_recipe
from rebasin_core.api.checkpoints.memory import memory_needed
from rebasin_core.bilinear import pieces
from rebasin_core.errors import ConfigError, InvalidInputError
from tests.api.checkpoints.networks import CASES, CONVOLUTIONAL, MLP, Case, Tensors, noisy, write
from tests.pretend import NAME, PretendedDevice

EXTENTS = ["whole", "slices"]


@pytest.fixture(params=[NAME, pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a device, which is available during the test."""
    name = str(request.param)
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    with PretendedDevice() if name == NAME else nullcontext():
        yield name


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut all tensors with more than 40 entries."""
    monkeypatch.setattr(pieces, "MAX_ENTRIES", 40)


def pair(case: Case, folder: Path, noise: float = 0.02, dtype: torch.dtype = torch.float32) -> tuple[Path, Path]:
    """Write a network and a permuted noisy copy."""
    first = case.network()
    second = case.permuted(noisy(first, noise), case.orders())
    paths = folder / "a.safetensors", folder / "b.safetensors"
    for path, tensors in zip(paths, (first, second), strict=True):
        write(path, {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()})
    return paths


def least_memory(found: rc.api.checkpoints.CheckpointAlignment) -> int:
    """Return a memory limit for which whole networks are too large."""
    return memory_needed(found.spec.layout, found.reference.tensors)


def assert_close(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("extent", EXTENTS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_planted_permutations_are_recovered(case: Case, extent: str, device: str, tmp_path: Path) -> None:
    paths = pair(case, tmp_path)
    on_cpu = rc.align_checkpoints(*paths, model=case.source, chance=False)
    memory = least_memory(on_cpu) if extent == "slices" else None
    found = rc.align_checkpoints(*paths, model=case.source, chance=False, device=device, memory=memory)
    aligned = {name: found.tensor(name) for name in found.candidate.tensors}
    expected = noisy(case.network(), 0.02)
    assert aligned.keys() <= expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in aligned.items())
    assert found.function is not None
    assert found.function.is_kept
    for name, distance in on_cpu.distances.tensors.items():
        assert found.distances.tensors[name].before == pytest.approx(distance.before, rel=1e-5)
        assert found.distances.tensors[name].after == pytest.approx(distance.after, rel=1e-4)


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float64])
def test_all_dtypes_are_aligned_in_slices(dtype: torch.dtype, device: str, tmp_path: Path) -> None:
    paths = pair(MLP, tmp_path, dtype=dtype)
    options: dict[str, Any] = {"model": MLP.source, "check": False, "chance": False}
    on_cpu = rc.align_checkpoints(*paths, **options)
    for memory in (None, least_memory(on_cpu)):
        found = rc.align_checkpoints(*paths, **options, device=device, memory=memory)
        assert found.permutation == on_cpu.permutation


def test_the_comparison_with_chance_is_that_of_the_cpu(device: str, tmp_path: Path) -> None:
    paths = write(tmp_path / "a.safetensors", MLP.network()), write(tmp_path / "b.safetensors", MLP.network(seed=4))
    on_cpu = rc.align_checkpoints(*paths, model=MLP.source)
    found = rc.align_checkpoints(*paths, model=MLP.source, device=device, memory=least_memory(on_cpu))
    assert found.verdict.relation == on_cpu.verdict.relation
    assert found.chance is not None
    assert on_cpu.chance is not None
    assert found.chance.total.aligned == pytest.approx(on_cpu.chance.total.aligned, rel=1e-4)


class Deep(nn.Sequential):
    """Eight layers of equal width."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for _ in range(8):
            layers += [nn.Linear(64, 64), nn.ReLU()]
        super().__init__(*layers)


def test_networks_that_do_not_fit_are_never_whole_on_the_device(tmp_path: Path) -> None:
    source = {"name": "factory", "factory": f"{__name__}:Deep", "inputs": ["2,64"]}
    paths = [write(tmp_path / f"{seed}.safetensors", Deep().state_dict()) for seed in (0, 1)]
    networks = sum(path.stat().st_size for path in paths)
    memory = least_memory(rc.align_checkpoints(*paths, model=source, chance=False))
    peaks = {}
    for limit in (None, memory):
        with PretendedDevice() as used:
            rc.align_checkpoints(*paths, model=source, chance=False, device=NAME, memory=limit)
        peaks[limit] = used.peak
    assert peaks[None] > networks
    assert 0 < peaks[memory] < 0.75 * networks
    with PretendedDevice() as used:
        rc.merge_checkpoints(paths, align=False, device=NAME).write(tmp_path / "m.safetensors")
    # Both layers of one name, the merged one, and blocks of them in double precision: 9 times the largest tensor.
    assert 0 < used.peak < 10 * 4 * 64 * 65
    assert used.copied == pytest.approx(networks, rel=0.1)


@pytest.mark.parametrize("extent", EXTENTS)
@pytest.mark.parametrize(
    ("method", "bases"),
    [
        ("mean", 0),
        ("slerp", 0),
        ("task_arithmetic", 1),
        ({"name": "ties", "density": 0.5}, 1),
        ({"name": "dare", "density": 0.5}, 1),
        ("karcher", 0),
        ("model_stock", 1),
    ],
    ids=str,
)
def test_merges_are_those_of_the_cpu(
    method: str | dict[str, object], bases: int, extent: str, device: str, tmp_path: Path
) -> None:
    paths = list(pair(CONVOLUTIONAL, tmp_path))
    base = write(tmp_path / "base.safetensors", noisy(CONVOLUTIONAL.network(), 0.3, seed=9)) if bases else None
    written = {}
    for name in ("cpu", device):
        found = rc.merge_checkpoints(
            paths, base=base, method=method, model=CONVOLUTIONAL.source, device=name,
            memory=402 * 10**6 if extent == "slices" and name != "cpu" else None, chance=False,
        )  # fmt: skip
        target = tmp_path / f"{name}.safetensors"
        found.write(target)
        written[name] = load_file(target)
    assert_close(written[device], written["cpu"])


def test_applied_permutations_are_those_of_the_cpu(device: str, tmp_path: Path) -> None:
    first, second = pair(CONVOLUTIONAL, tmp_path, dtype=torch.float8_e5m2)
    found = rc.align_checkpoints(first, second, model=CONVOLUTIONAL.source, check=False, chance=False)
    for name in ("cpu", device):
        apply_to_checkpoint(found.permutation, second, tmp_path / f"{name}.safetensors", device=name)
    on_cpu, applied = load_file(tmp_path / "cpu.safetensors"), load_file(tmp_path / f"{device}.safetensors")
    for name, tensor in on_cpu.items():
        assert torch.equal(applied[name].view(-1).view(torch.uint8), tensor.view(-1).view(torch.uint8))


def task(model: nn.Module) -> rc.Task:
    generator = torch.Generator().manual_seed(3)
    shape = (30, 1, 8, 8)
    return rc.Task(model, [(torch.randn(shape, generator=generator), torch.arange(30) % 10)])


def require_evaluation(device: str, extent: str) -> None:
    """Skip a test that evaluates losses on the pretended device, which has no random numbers."""
    if device == NAME and extent == "whole":
        pytest.skip("losses are evaluated on a CUDA device")


@pytest.mark.parametrize("repair", ["reset", "repair"])
@pytest.mark.parametrize("extent", EXTENTS)
def test_losses_and_repaired_statistics_are_those_of_the_cpu(
    extent: str, repair: rc.api.merging.RepairName, device: str, tmp_path: Path
) -> None:
    require_evaluation(device, extent)
    paths = pair(CONVOLUTIONAL, tmp_path)
    found = {}
    for name in ("cpu", device):
        memory = 400_080_000 if extent == "slices" and name != "cpu" else None
        found[name] = rc.merge_checkpoints(
            paths, model=CONVOLUTIONAL.source, task=task, keep="aligned", repair=repair, device=name, memory=memory,
            chance=False,
        )  # fmt: skip
    effects = [merge.alignments[1].effect for merge in found.values() if merge.alignments[1] is not None]
    assert effects[0] is not None
    assert effects[1] is not None
    assert effects[1].aligned == pytest.approx(effects[0].aligned, rel=1e-4)
    assert effects[1].unaligned == pytest.approx(effects[0].unaligned, rel=1e-4)
    names = found["cpu"].networks[0].tensors
    tensors = [{name: merge.tensor(name) for name in names} for merge in found.values()]
    assert_close(tensors[1], tensors[0])


def test_matchers_that_need_whole_networks(device: str, tmp_path: Path) -> None:
    require_evaluation(device, "whole")
    paths = pair(CONVOLUTIONAL, tmp_path)
    options: dict[str, Any] = {"model": CONVOLUTIONAL.source, "task": task, "matcher": "activation"}
    on_cpu = rc.align_checkpoints(*paths, **options)
    found = rc.align_checkpoints(*paths, **options, device=device)
    assert found.permutation == on_cpu.permutation


def test_matchers_that_need_whole_networks_are_rejected_if_these_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rebasin_core.api.checkpoints.memory.total_memory", lambda _: 10**6)
    paths = pair(MLP, tmp_path)
    with PretendedDevice(), pytest.raises(InvalidInputError, match=r"about 0\.4 GB"):
        rc.align_checkpoints(*paths, model=MLP.source, device=NAME)
    monkeypatch.setattr("rebasin_core.api.checkpoints.memory.total_memory", lambda _: 500_020_000)
    with PretendedDevice(), pytest.raises(InvalidInputError, match="'sinkhorn' needs whole networks on pretended"):
        rc.align_checkpoints(*paths, model=MLP.source, device=NAME, matcher="sinkhorn", task=task)


class Moved(nn.Module):
    """A network that makes a tensor on the CPU, whatever its device is."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, 4)

    @override
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.second(self.first(x).relu()) + torch.ones(4)
        return found


def test_models_that_do_not_run_on_the_device_are_checked_on_the_cpu(device: str, tmp_path: Path) -> None:
    first = write(tmp_path / "a.safetensors", Moved().state_dict())
    source = {"name": "factory", "factory": f"{__name__}:Moved", "inputs": ["2,8"]}
    found = rc.align_checkpoints(first, first, model=source, device=device, chance=False)
    assert found.function is not None
    assert found.function.is_kept
    assert not found.function.reason


def test_recipes_state_the_device(device: str, tmp_path: Path) -> None:
    pair(MLP, tmp_path)
    file = tmp_path / "recipe.json"
    entries = {"reference": "a.safetensors", "candidate": "b.safetensors", "output": "o.safetensors"}
    file.write_text(json.dumps({**entries, "model": MLP.source, "device": device}))
    recipe = load_recipe(file)
    assert recipe.device == device
    run_recipe(recipe)
    assert_close(load_file(tmp_path / "o.safetensors"), noisy(MLP.network(), 0.02))


@pytest.mark.parametrize("name", ["tpu9", "cuda:99"])
def test_devices_that_are_not_available_are_named(name: str, tmp_path: Path) -> None:
    paths = pair(MLP, tmp_path)
    message = f"the device '{name}' is not available"
    with pytest.raises(ConfigError, match=message):
        rc.align_checkpoints(*paths, model=MLP.source, device=name)
    with pytest.raises(ConfigError, match=message):
        rc.merge_checkpoints(paths, align=False, device=name)
    with pytest.raises(ConfigError, match=message):
        apply_to_checkpoint(tmp_path / "absent", paths[0], tmp_path / "o.safetensors", device=name)
