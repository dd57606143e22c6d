"""One call for the common case: `align` with batches, different heads, and results that print, save and plot."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.barriers import plot_curves
from rebasin_core.errors import InvalidInputError

X = torch.randn(80, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] * X[:, 1] > 0).long()
DATA = [{"x": x, "y": y} for x, y in zip(X.split(30), Y.split(30), strict=True)]


def network(classes: int = 2, width: int = 16, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 12), nn.ReLU(), nn.Linear(12, classes)
    ).eval()


@cache
def trained(seed: int) -> nn.Sequential:
    model = network(seed=seed)
    method = rc.inference.MAPInference(epochs=60, optimizer={"name": "Adam", "lr": 0.02})
    found = method.fit(model, DATA).posterior
    model.load_state_dict({**found.mean, **found.buffers})
    return model


def shuffled(model: nn.Sequential, classes: int) -> nn.Sequential:
    """Return a network with permuted hidden units, and another head."""
    generator = torch.Generator().manual_seed(1)
    spec = rc.trace_spec(model, X)
    permuted: nn.Sequential = rc.Permutation.random(spec.layout, generator=generator).apply(model)
    if classes != 2:
        head = permuted[5] = nn.Linear(12, classes)
        with torch.no_grad():
            head.weight.copy_(torch.arange(12.0).expand(classes, 12))
    return permuted


def test_batches_instead_of_a_task() -> None:
    model = trained(0)
    result = rc.align(model, shuffled(model, 2), DATA)
    assert torch.equal(result.aligned.mean["0.weight"], model.state_dict()["0.weight"])
    assert result.helped
    assert result.effect is not None
    expected = nn.functional.cross_entropy(model(X), Y).item()
    assert result.effect.reference == pytest.approx(expected, rel=1e-5)


def test_options_of_a_task_with_batches() -> None:
    model = network(classes=1)
    result = rc.align(model, model, [(X, Y)], likelihood=nn.BCEWithLogitsLoss())
    expected = nn.functional.binary_cross_entropy_with_logits(model(X)[:, 0], Y.float()).item()
    assert result.effect is not None
    assert result.effect.reference == pytest.approx(expected, rel=1e-5)
    with pytest.raises(InvalidInputError, match="in the `Task`, got them as separate"):
        rc.align(model, model, rc.Task(model, [(X, Y)]), likelihood="bernoulli")


def test_batches_need_a_module() -> None:
    tensors = dict(network().state_dict())
    with pytest.raises(InvalidInputError, match="expected a `Task`, or a network given as a module"):
        rc.align(tensors, tensors, DATA)


@pytest.mark.parametrize("matcher", ["wasserstein", "weight", "activation"])
def test_networks_with_different_classes_are_aligned_in_their_bodies(matcher: str) -> None:
    model = network()
    candidate = shuffled(model, 5)
    with torch.no_grad():
        before = candidate(X)
    result = rc.align(model, candidate, DATA, matcher=matcher)
    assert result.heads == ("5.weight", "5.bias")
    assert result.effect is None
    for name in ("0.weight", "0.bias", "1.running_mean", "3.weight", "3.bias"):
        assert torch.equal({**result.aligned.mean, **result.aligned.buffers}[name], model.state_dict()[name]), name
    aligned: nn.Sequential = result.match.apply(candidate)
    with torch.no_grad():
        assert torch.allclose(aligned(X), before, atol=1e-5)
    heads = [network.state_dict()["5.weight"] for network in (aligned, candidate)]
    assert not torch.equal(*heads)  # the head follows the units
    assert torch.equal(heads[0].sort().values, heads[1].sort().values)


def test_heads_that_cannot_be_separated_are_errors() -> None:
    model = network()
    with pytest.raises(InvalidInputError, match=r"same hidden widths, got `0.weight`.*TransportMatcher"):
        rc.align(model, network(width=20), DATA)
    other = dict(shuffled(model, 5).state_dict())
    with pytest.raises(InvalidInputError, match="the candidate as a module"):
        rc.align(model, other, DATA)


def test_results_print_save_and_convert(tmp_path: Path) -> None:
    model, other = trained(0), trained(1)
    result = rc.align(model, other, DATA, num_points=5)
    assert set(result.curves) == {"unaligned", "aligned"}
    assert "units permuted in 2 groups" in str(result)
    assert "aligned: barrier" in str(result)
    frame = result.to_frame()
    assert frame["units"].tolist() == [16, 12]
    assert frame["permuted"].tolist() == list(result.match.moved.values())
    permuted = sum(result.match.moved.values())
    assert str(result.match).startswith(f"{permuted} of 28 units permuted; objective")
    result.save(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "aligned.json", "aligned.safetensors", "permutation.safetensors", "specification.json", "unaligned.json",
    ]  # fmt: skip
    read = rc.load_posterior(tmp_path / "out" / "aligned.safetensors")
    assert torch.equal(read.mean["0.weight"], result.aligned.mean["0.weight"])
    assert rc.load_spec(tmp_path / "out" / "specification.json").layout == result.spec.layout
    assert rc.load_element(tmp_path / "out" / "permutation.safetensors", result.spec.layout) == result.match.permutation
    curve = result.curves["aligned"]
    assert rc.LossCurve.load(tmp_path / "out" / "aligned.json") == curve
    assert curve.to_frame()["loss"].tolist() == list(curve.loss)


def test_scores_print_save_and_convert(tmp_path: Path) -> None:
    model = network()
    scores = rc.score(model, rc.Task(model, DATA))
    assert str(scores).startswith(f"nll {scores.nll:.4g} ±")
    assert "accuracy" in str(scores)
    assert scores.to_frame()["nll"].tolist() == [scores.nll]
    scores.save(tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text())["accuracy"] == scores.values["accuracy"]


def test_a_curve_prints_its_barrier_and_notes() -> None:
    model, other = network(), network(seed=5)
    curve = rc.barrier(model, other, rc.Task(model, DATA), num_points=3, estimator="reset")
    lines = str(curve).splitlines()
    assert lines[0].startswith(f"barrier {curve.height:.4g} ± {curve.height_data_stderr:.2g} (data) nats per example")
    assert lines[3:] == list(curve.notes)


def test_curves_matrices_and_planes_plot_and_save(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib").use("Agg")
    networks = [trained(seed) for seed in (0, 1, 2)]
    task = rc.Task(networks[0], DATA)
    result = rc.align(networks[0], networks[1], DATA, num_points=5)
    axes = result.plot()
    legend: Any = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["unaligned", "aligned"]
    drawn: Any = axes.lines[1].get_ydata()
    assert list(drawn) == list(result.curves["aligned"].loss)
    assert plot_curves(result.curves, axes, excess=True) is axes
    matrix = rc.barrier_matrix(networks, task, spec=result.spec, num_points=3)
    assert matrix.aligned is not None
    image: Any = matrix.plot(labels=["a", "b", "c"]).images[0].get_array()
    assert torch.equal(torch.as_tensor(image.data), matrix.aligned)
    frame = matrix.to_frame()
    assert frame["first"].tolist() == [0, 0, 1]
    assert frame["aligned"].tolist() == [matrix.aligned[i, j].item() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert str(matrix).startswith("unaligned: mean barrier")
    matrix.save(tmp_path / "matrix.safetensors")
    read = rc.api.BarrierMatrix.load(tmp_path / "matrix.safetensors")
    assert read.aligned is not None
    assert torch.equal(read.aligned, matrix.aligned)
    result.match.permutation.save(tmp_path / "other.safetensors")
    with pytest.raises(rc.errors.FileFormatError, match="barrier_matrix"):
        rc.api.BarrierMatrix.load(tmp_path / "other.safetensors")
    star = rc.star([networks[0], result.aligned], task, num_points=3)
    assert len(star.plot(labels=["a", "b"]).lines) == 2
    plane = rc.loss_plane(networks[0], networks[1], networks[2], task, num_points=4)
    assert plane.plot().get_aspect() == 1.0
    rows = plane.to_frame()
    assert rows["loss"][1] == plane.loss[0, 1].item()
    assert rows["u"][1] == plane.u[1].item()


def test_plots_without_curves_are_errors() -> None:
    model = network()
    with pytest.raises(InvalidInputError, match="call `align` with `num_points`"):
        rc.align(model, model, DATA).plot()
    with pytest.raises(InvalidInputError, match="at least one curve"):
        plot_curves({})


def test_missing_pandas_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    model = network()
    with pytest.raises(rc.errors.PluginError, match=r"pip install 'rebasin-core\[frames\]'"):
        rc.score(model, rc.Task(model, DATA)).to_frame()
