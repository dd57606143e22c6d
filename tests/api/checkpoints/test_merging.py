"""Merges of permuted copies, compared with the arithmetic of their tensors before they were permuted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

import rebasin_core as rc
from rebasin_core.api.checkpoints import CheckpointMerge, merge_checkpoints
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.task import Task
from tests.api.checkpoints.networks import CONVOLUTIONAL, MLP, TIED, Case, Tensors, noisy, write


def family(case: Case, folder: Path, count: int = 3) -> tuple[list[Path], list[Tensors]]:
    """Write a network and permuted noisy copies; return the files, and the networks before permutation."""
    networks = [case.network(), *(noisy(case.network(), 0.02, seed) for seed in range(1, count))]
    paths = [write(folder / "0.safetensors", networks[0])]
    for number, network in enumerate(networks[1:], start=1):
        paths.append(write(folder / f"{number}.safetensors", case.permuted(network, case.orders(number))))
    return paths, networks


def merged(case: Case, paths: list[Path], **options: object) -> CheckpointMerge:
    return merge_checkpoints(paths, model=case.source, chance=False, **options)  # type: ignore[arg-type]


def assert_close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        torch.testing.assert_close(found[name], tensor, rtol=tolerance, atol=tolerance)


def mean(networks: list[Tensors], weights: list[float]) -> Tensors:
    total = sum(weights)
    return {
        name: sum(w * net[name].double() for w, net in zip(weights, networks, strict=True)).div(total).to(first.dtype)  # type: ignore[union-attr]  # of at least one term
        if first.is_floating_point()
        else first
        for name, first in networks[0].items()
    }


@pytest.mark.parametrize("case", [MLP, CONVOLUTIONAL, TIED], ids=["mlp", "convolutional", "tied"])
def test_the_mean_of_permuted_copies_is_that_of_the_copies(case: Case, tmp_path: Path) -> None:
    paths, networks = family(case, tmp_path)
    files = merged(case, paths).write(tmp_path / "m.safetensors")
    assert_close(load_file(tmp_path / "m.safetensors"), mean(networks, [1, 1, 1]))
    assert {path.name for path in files} == {
        "m.safetensors",
        "m.permutation_2.safetensors",
        "m.permutation_3.safetensors",
    }
    # The permutations are those of the second and the third checkpoint.
    for number in (2, 3):
        permutation = rc.Permutation.load(tmp_path / f"m.permutation_{number}.safetensors")
        restored = permutation.apply(load_file(paths[number - 1]))
        assert_close(restored, networks[number - 1], 0)


def test_weights_are_relative(tmp_path: Path) -> None:
    paths, networks = family(MLP, tmp_path)
    merged(MLP, paths, weights=[1, 2, 5]).write(tmp_path / "m.safetensors")
    assert_close(load_file(tmp_path / "m.safetensors"), mean(networks, [1, 2, 5]))


def test_weights_can_differ_between_tensors(tmp_path: Path) -> None:
    paths, networks = family(MLP, tmp_path)
    merged(MLP, paths, weights={"4.*": [0, 0, 1], "*.bias": [1, 0, 0]}).write(tmp_path / "m.safetensors")
    equal, first, last = mean(networks, [1, 1, 1]), networks[0], networks[2]
    expected = {
        name: last[name] if name.startswith("4.") else first[name] if name.endswith("bias") else equal[name]
        for name in first
    }
    assert_close(load_file(tmp_path / "m.safetensors"), expected)


def test_task_arithmetic_adds_the_differences_from_the_base(tmp_path: Path) -> None:
    paths, networks = family(MLP, tmp_path)
    found = merged(MLP, paths[1:], base=paths[0], method="task_arithmetic", weights=[0.5, -2.0])
    found.write(tmp_path / "m.safetensors")
    base, second, third = networks
    expected = {
        name: base[name] + 0.5 * (second[name] - base[name]) - 2.0 * (third[name] - base[name]) for name in base
    }
    assert_close(load_file(tmp_path / "m.safetensors"), expected, 1e-5)
    assert (tmp_path / "m.permutation_1.safetensors").exists()  # both are aligned with the base
    assert (tmp_path / "m.permutation_2.safetensors").exists()


def test_ties_merges_the_largest_differences_of_the_elected_sign(tmp_path: Path) -> None:
    paths, networks = family(MLP, tmp_path)
    found = merged(MLP, paths[1:], base=paths[0], method={"name": "ties", "density": 0.5})
    found.write(tmp_path / "m.safetensors")
    base = networks[0]
    expected = {}
    for name, start in base.items():
        differences = torch.stack([network[name] - start for network in networks[1:]])
        for each in differences:  # keep the larger half
            count = round(0.5 * each.numel())
            each[each.abs() < each.abs().flatten().topk(count).values[-1]] = 0
        sign = differences.sum(0).sign()
        agreeing = (differences.sign() == sign) & (sign != 0)
        number = agreeing.sum(0).clamp(min=1)
        expected[name] = start + (differences * agreeing).sum(0) / number
    assert_close(load_file(tmp_path / "m.safetensors"), expected, 1e-5)


def test_without_alignment_tensors_are_merged_as_they_are(tmp_path: Path) -> None:
    paths, _ = family(MLP, tmp_path)
    found = merge_checkpoints(paths, align=False)
    assert found.report() == "Merged without alignment by 'mean'."
    assert [path.name for path in found.write(tmp_path / "m.safetensors")] == ["m.safetensors"]
    assert_close(load_file(tmp_path / "m.safetensors"), mean([load_file(path) for path in paths], [1, 1, 1]))


def test_names_and_dtypes_are_those_of_the_first(tmp_path: Path) -> None:
    paths, networks = family(MLP, tmp_path, 2)
    half = {f"module.{name}": tensor.half() for name, tensor in networks[0].items()}
    torch.save({"state_dict": half, "epoch": 3}, tmp_path / "first.ckpt")
    merged(MLP, [tmp_path / "first.ckpt", paths[1]]).write(tmp_path / "m.safetensors")
    rounded = {name: tensor.half().float() for name, tensor in networks[0].items()}
    expected = {f"module.{name}": tensor.half() for name, tensor in mean([rounded, networks[1]], [1, 1]).items()}
    assert_close(load_file(tmp_path / "m.safetensors"), expected, 0)


def test_halves_are_summed_in_higher_precision(tmp_path: Path) -> None:
    large = {name: torch.full_like(tensor, 6e4).half() for name, tensor in MLP.network().items()}
    path = write(tmp_path / "large.safetensors", large)
    merge_checkpoints([path] * 3, align=False).write(tmp_path / "m.safetensors")
    assert_close(load_file(tmp_path / "m.safetensors"), large, 0)


def digits(model: nn.Module) -> Task:
    data = load_digits()
    inputs = torch.from_numpy(data.images[:300] / 16).float().unsqueeze(1)
    return Task(model, [(inputs, torch.from_numpy(data.target[:300]))])


@pytest.mark.filterwarnings("ignore::rebasin_core.errors.AlignmentWarning")  # the network is not trained
def test_batch_statistics_are_recomputed_from_data(tmp_path: Path) -> None:
    paths, networks = family(CONVOLUTIONAL, tmp_path, 2)
    found = merged(CONVOLUTIONAL, paths, repair="reset", task=digits, keep="aligned")
    found.write(tmp_path / "m.safetensors")
    output, equal = load_file(tmp_path / "m.safetensors"), mean(networks, [1, 1])
    statistics = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    others = equal.keys() - statistics
    assert_close({name: output[name] for name in others}, {name: equal[name] for name in others})
    module = CONVOLUTIONAL.kind()
    module.load_state_dict(equal)
    assert isinstance(module, nn.Sequential)
    with torch.no_grad():
        activations = module[0](digits(module).data[0][0])  # type: ignore[index]  # a list
    torch.testing.assert_close(output["1.running_mean"], activations.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output["1.running_var"], activations.var((0, 2, 3)), rtol=1e-2, atol=1e-5)
    assert not torch.allclose(output["1.running_mean"], equal["1.running_mean"], atol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": [1.0]}, "expected 3 nonnegative weights"),
        ({"weights": [1.0, -1.0, 0.0]}, "expected 3 nonnegative weights"),
        ({"weights": {"0.*": [1.0]}}, "expected 3 nonnegative weights"),
        ({"weights": {"0.wieght": [1.0, 2.0, 3.0]}}, "did you mean '0.weight'"),
        ({"method": "ties"}, "expected a base network"),
        ({"method": "slerp"}, "2"),
        ({"repair": "reset"}, "needs data"),
        ({"repair": "reset", "task": digits, "align": False}, "needs alignment"),
    ],
)
def test_options_that_do_not_fit_are_rejected_before_networks_are_aligned(
    tmp_path: Path, options: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, _ = family(MLP, tmp_path)
    monkeypatch.setattr("rebasin_core.api.checkpoints.merging.aligned_pair", None)
    with pytest.raises(InvalidInputError, match=message):
        merged(MLP, paths, **options)


def test_one_checkpoint_is_no_merge(tmp_path: Path) -> None:
    paths, _ = family(MLP, tmp_path, 2)
    with pytest.raises(InvalidInputError, match="at least two checkpoints"):
        merged(MLP, paths[:1])


def test_json_has_all_alignments(tmp_path: Path) -> None:
    paths, _ = family(MLP, tmp_path)
    record = json.loads(json.dumps(merged(MLP, paths).as_json(), allow_nan=False))
    assert record["alignments"][0] is None
    assert [each["candidate"] for each in record["alignments"][1:]] == [str(path) for path in paths[1:]]
    assert record["method"]["name"] == "mean"
