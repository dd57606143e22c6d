from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rebasin_core import RunConfig, Task, load_posterior, load_run, run
from rebasin_core.architectures import MLPArchitecture
from rebasin_core.barriers import PointwiseBarrier, RepairBarrier
from rebasin_core.data import DigitsSource
from rebasin_core.errors import (
    ConfigError,
    DataError,
    FileFormatError,
    InvalidInputError,
    MissingDataError,
    SpecError,
    StorageError,
)
from rebasin_core.tensors.modules import named_tensors

TEXT = """
data: digits
architecture: {name: mlp, hidden: [16]}
inference: {name: mean_field_vi, epochs: 2, optimizer: {name: Adam, lr: 0.01}}
matchers: [weight, wasserstein, kl]
barrier: {name: marginalized, num_points: 3, num_samples: 4}
num_train: 300
num_test: 100
"""


def config(folder: Path, change: str = "", base: str = TEXT) -> RunConfig:
    (folder / "run.yaml").write_text(base + change)
    return load_run(folder / "run.yaml")


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files that equal runs must agree on: all but the run times, which are in the store, too."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not {"stages", "store"} & set(p.relative_to(folder).parts)
    }


def checkpoint(path: Path, seed: int) -> None:
    model = MLPArchitecture(hidden=[16]).build((1, 8, 8), 10, generator=torch.Generator().manual_seed(seed))
    save_file({name: tensor.detach() for name, tensor in named_tensors(model).items()}, path)


def test_the_folder_contains_all_results(tmp_path: Path) -> None:
    result = run(config(tmp_path), tmp_path / "out")
    out = tmp_path / "out"
    assert set(result.curves["test"]) == {"unaligned", "weight", "wasserstein", "kl"}
    for path in (
        "run.json", "summary.json", "posteriors/reference.safetensors", "posteriors/candidate.safetensors",
        "permutations/kl.safetensors", "permutations/kl.json", "curves/test/unaligned.json", "curves/test/weight.csv",
    ):  # fmt: skip
        assert (out / path).is_file(), path
    assert json.loads((out / "run.json").read_text())["config"]["num_train"] == 300
    rows = list(csv.DictReader((out / "curves/test/weight.csv").read_text().splitlines()))
    assert [float(row["t"]) for row in rows] == [0.0, 0.5, 1.0]
    assert float(rows[1]["loss"]) == result.curves["test"]["weight"].loss[1]
    assert not list(out.rglob("*.training*"))
    assert not list(out.rglob("*.part*"))
    found = json.loads((out / "summary.json").read_text())["barriers"]["test"]["weight"]
    curve, means = result.curves["test"]["weight"], result.means["test"]["weight"]
    assert found["height_bias"] == curve.height_bias
    assert (found["interior_excess"], found["notes"]) == (curve.interior_excess, list(curve.notes))
    assert found["means"]["height"] == means.height
    assert not means.is_random
    assert means.loss[0] != curve.loss[0]
    assert 2.2 < found["baseline"] <= math.log(10)


def test_results_keep_the_order_of_the_run_file(tmp_path: Path) -> None:
    run(config(tmp_path), tmp_path / "out")
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert list(summary["barriers"]["test"]) == ["unaligned", "weight", "wasserstein", "kl"]
    assert list(summary["matches"]) == ["weight", "wasserstein", "kl"]
    assert list(summary["wasserstein_distances"]) == ["unaligned", "weight", "wasserstein", "kl"]
    scores = json.loads((tmp_path / "out/scores/test/reference.json").read_text())["scores"]
    assert list(scores)[:3] == ["nll", "nll_stderr", "nll_bias"]


def test_a_run_of_single_networks_has_no_barrier_of_means(tmp_path: Path) -> None:
    single = TEXT.replace("[weight, wasserstein, kl]", "[weight]").replace("mean_field_vi", "map")
    single = single.replace("marginalized, num_points: 3, num_samples: 4", "pointwise, num_points: 3")
    assert not run(config(tmp_path, base=single), tmp_path / "out").means


def test_repair_uses_the_training_data(tmp_path: Path) -> None:
    text = """
data: digits
architecture: {name: mlp, hidden: [16]}
inference: {name: map, epochs: 2, optimizer: {name: Adam, lr: 0.01}}
matchers: [weight]
barrier: {name: repair, estimator: {name: pointwise, num_points: 3}}
num_train: 300
num_test: 100
"""
    result = run(config(tmp_path, base=text), tmp_path / "out")
    endpoints = [load_posterior(tmp_path / f"out/posteriors/{name}.safetensors") for name in ("reference", "candidate")]
    splits = DigitsSource().load()
    model = MLPArchitecture(hidden=[16]).build((1, 8, 8), 10, generator=torch.Generator().manual_seed(0))
    train, test = splits.train.first(300).batches(100), splits.test.first(100).batches(100)
    estimator = RepairBarrier(estimator=PointwiseBarrier(num_points=3))
    expected = {
        name: estimator.estimate(endpoints[0], endpoints[1], Task(model, test, calibration=calibration)).loss[1]
        for name, calibration in (("train", train), ("test", test))
    }
    assert result.curves["test"]["unaligned"].loss[1] == pytest.approx(expected["train"], rel=1e-5)
    assert expected["test"] != pytest.approx(expected["train"], rel=1e-4)


def test_a_seed_determines_every_byte(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(config(tmp_path), tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_finished_stages_are_reused_and_damaged_ones_repeated(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(config(tmp_path), out)
    before = contents(out)
    times = {path: path.stat().st_mtime_ns for path in (out / "posteriors").iterdir()}
    (out / "curves/test/kl.json").write_text("{")
    (out / "permutations/weight.safetensors").unlink()
    run(config(tmp_path), out)
    assert contents(out) == before
    assert {path: path.stat().st_mtime_ns for path in (out / "posteriors").iterdir()} == times


def test_a_folder_with_other_files_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(StorageError, match=r"contains other files \(thesis.tex\)"):
        run(config(tmp_path), tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        run(config(tmp_path), tmp_path / "file")


def test_checkpoints_are_loaded_as_single_networks(tmp_path: Path) -> None:
    for seed in (1, 2):
        checkpoint(tmp_path / f"{seed}.safetensors", seed)
    change = (
        f"reference: {{path: {tmp_path}/1.safetensors}}\ncandidate: {{path: {tmp_path}/2.safetensors}}\n"
        "splits: [test, train]\n"
    )
    base = TEXT.replace("marginalized, num_points: 3, num_samples: 4", "pointwise, num_points: 3").replace(", kl]", "]")
    result = run(config(tmp_path, change, base), tmp_path / "out")
    assert set(result.curves) == {"test", "train"}
    assert result.curves["test"]["weight"].stderr == (0.0, 0.0, 0.0)
    unaligned, aligned = (result.distances[label] for label in ("unaligned", "weight"))
    assert unaligned is not None
    assert aligned is not None
    assert aligned < unaligned


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.pop("layers.0.bias"), "missing: `layers.0.bias`"),
        (lambda t: t.update(extra=torch.zeros(1)), "not expected: `extra`"),
        (
            lambda t: t.update({"layers.0.bias": torch.zeros(3)}),
            r"`layers.0.bias` of .* the model's shape \(16,\), got \(3,\)",
        ),
        (lambda t: t["layers.0.bias"].fill_(float("nan")), "16 of 16 entries that are NaN"),
    ],
)
def test_checkpoints_that_do_not_fit_are_errors(tmp_path: Path, damage: object, message: str) -> None:
    checkpoint(tmp_path / "c.safetensors", 1)
    tensors = load_file(tmp_path / "c.safetensors")
    damage(tensors)  # type: ignore[operator]  # a lambda kept as an object
    save_file(tensors, tmp_path / "c.safetensors")
    with pytest.raises((InvalidInputError, FileFormatError), match=message):
        run(config(tmp_path, f"reference: {{path: {tmp_path}/c.safetensors}}"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_specification_that_changes_the_function_is_an_error(tmp_path: Path) -> None:
    change = """
spec:
  name: table
  table: {layers.0.weight: "h, -", layers.0.bias: "-", layers.1.weight: "-, h", layers.1.bias: "-"}
"""
    with pytest.raises(SpecError, match=r"`layers\.0\.bias`, axis 0: should belong to the group"):
        run(config(tmp_path, change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_invalid_inputs_are_found_before_any_file_is_written(tmp_path: Path) -> None:
    data = TEXT.replace("digits", f"{{name: mnist, root: {tmp_path}/none}}")
    with pytest.raises(MissingDataError, match="looked for"):
        run(config(tmp_path, "", data), tmp_path / "out")
    (tmp_path / "none").mkdir()
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / "none" / f"{name}-ubyte").write_bytes(b"not an idx file")
    with pytest.raises(DataError, match="expected an idx file of unsigned bytes"):
        run(config(tmp_path, "", data), tmp_path / "out")
    with pytest.raises(ConfigError, match="the device 'tpu9' is not available"):
        run(config(tmp_path, "device: tpu9"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_invalid_training_options_are_found_before_the_first_stage(tmp_path: Path) -> None:
    short = "{name: map, epochs: 3, schedule: {name: OneCycleLR, max_lr: 0.1, total_steps: 2}}"
    with pytest.raises(InvalidInputError, match=r"expected a schedule of at least 3 steps .* got `OneCycleLR`"):
        run(config(tmp_path, f"candidate: {{seed: 2, inference: {short}}}\n"), tmp_path / "out")
    assert not (tmp_path / "out" / "posteriors").exists()


def regression(folder: Path) -> str:
    """Return the run file of a regression."""
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 3))
    np.savez(folder / "toy.npz", x=x, y=x @ [1.0, -1.0, 0.5], test_index=np.arange(10)[None])
    return TEXT.replace("digits", f"{{name: uci, dataset: toy, root: {folder}}}")


def test_a_run_of_a_regression(tmp_path: Path) -> None:
    result = run(config(tmp_path, "", regression(tmp_path)), tmp_path / "out")
    assert result.curves["test"]["weight"].score_name == "mean_squared_error"


def test_the_likelihood_is_chosen_by_name_or_with_options(tmp_path: Path) -> None:
    base = regression(tmp_path)
    curves = {
        name: run(config(tmp_path, text, base), tmp_path / name).curves["test"]["weight"]
        for name, text in (
            ("auto", "likelihood: auto\nnoise_scale: 0.3"),
            ("name", "likelihood: gaussian"),
            ("options", "likelihood: {name: gaussian, scale: 0.2}"),
            ("two outputs", "likelihood: heteroscedastic\nnoise_scale: 0.1"),
        )
    }
    assert curves["auto"] == curves["name"]
    assert len({curve.loss for curve in curves.values()}) == 3


def test_a_likelihood_must_fit_the_data_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`gaussian` is for regression, the dataset `digits` for classification"):
        run(config(tmp_path, "likelihood: gaussian"), tmp_path / "out")
    with pytest.raises(ConfigError, match="`categorical` is for classification, the dataset `uci` for regression"):
        run(config(tmp_path, "likelihood: categorical", regression(tmp_path)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_cuda_agrees_with_the_cpu(tmp_path: Path) -> None:
    # Noise is sampled on the device, so only single networks give equal results.
    points = TEXT.replace("mean_field_vi", "map").replace("[weight, wasserstein, kl]", "[weight]")
    points = points.replace("marginalized, num_points: 3, num_samples: 4", "pointwise, num_points: 3")
    here, there = (run(config(tmp_path, f"device: {d}", points), tmp_path / d) for d in ("cpu", "cuda"))
    for label, curve in here.curves["test"].items():
        assert there.curves["test"][label].loss == pytest.approx(curve.loss, rel=1e-3)
