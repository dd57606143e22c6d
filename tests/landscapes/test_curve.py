"""Curves through several points, and their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.interpolate import BPoly

from rebasin_core.errors import FileFormatError, InvalidInputError
from rebasin_core.landscapes import Curve
from rebasin_core.landscapes.curve import curve_weights
from rebasin_core.posteriors import DiagonalGaussianPosterior, PointPosterior


def point(*values: float, count: int = 3) -> PointPosterior:
    return PointPosterior(
        {"w": torch.tensor(values, dtype=torch.float64)},
        buffers={"running_mean": torch.tensor([sum(values)], dtype=torch.float64), "count": torch.tensor(count)},
    )


POINTS = (point(0.0, 0.0), point(1.0, 2.0), point(-1.0, 3.0), point(2.0, 0.5))


@pytest.mark.parametrize("t", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_a_bezier_curve_is_that_of_scipy(t: float) -> None:
    control = torch.stack([p.mean["w"] for p in POINTS]).numpy()
    expected = BPoly(control[:, None, :], [0, 1])(t)
    assert Curve("bezier", POINTS).at(t).mean["w"].tolist() == pytest.approx(expected.tolist())


def test_a_polygon_passes_through_its_points_and_the_midpoints_of_segments() -> None:
    curve = Curve("polygon", POINTS)
    for index, expected in enumerate(POINTS):
        assert curve.at(index / 3).mean["w"].tolist() == pytest.approx(expected.mean["w"].tolist())
    assert curve.at(0.5).mean["w"].tolist() == pytest.approx([0.0, 2.5])


def test_buffers_have_the_weights_of_the_parameters() -> None:
    found = Curve("bezier", (point(0.0, 0.0), point(4.0, 0.0), point(0.0, 2.0, count=8))).at(0.5).buffers
    assert found["running_mean"].tolist() == [2.5]
    assert found["count"].dtype == torch.int64


@pytest.mark.parametrize("kind", ["bezier", "polygon"])
@pytest.mark.parametrize("num_points", [2, 3, 6])
def test_weights_of_a_curve_are_convex_and_reversible(kind: Any, num_points: int) -> None:
    for t in (0.0, 0.3, 1.0):
        weights = curve_weights(kind, num_points, t)
        assert min(weights) >= 0
        assert sum(weights) == pytest.approx(1.0)
        assert curve_weights(kind, num_points, 1 - t)[::-1] == pytest.approx(weights)


def test_a_curve_is_read_as_it_was_written(tmp_path: Path) -> None:
    curve = Curve("polygon", POINTS, history=(0.5, 0.25))
    curve.save(tmp_path / "curve.safetensors")
    found = Curve.load(tmp_path / "curve.safetensors")
    assert (found.kind, found.history, found.num_bends) == ("polygon", (0.5, 0.25), 2)
    for expected, got in zip(curve.points, found.points, strict=True):
        torch.testing.assert_close(got.mean, expected.mean)
        torch.testing.assert_close(got.buffers, expected.buffers)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"curve": "spline"}, "kind 'bezier' or 'polygon'"),
        ({"num_points": 3}, "tensors of 3 networks"),
        ({"num_points": 10**9}, "number of networks"),
        ({"num_points": True}, "number of networks"),
        ({"num_points": 1}, "tensors of 1 networks"),
        ({"history": {"a": 1}}, "list of numbers"),
        ({"history": ["1"]}, "list of numbers"),
    ],
)
def test_contradicting_files_raise_errors(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    path = tmp_path / "curve.safetensors"
    document = {"curve": "polygon", "num_points": 4, "history": [], **change}
    Curve("polygon", POINTS).save(path)
    metadata = {"rebasin_core": json.dumps({"format": "rebasin_core/1", "kind": "curve", "document": document})}
    save_file(load_file(path), path, metadata=metadata)
    with pytest.raises(FileFormatError, match=expected):
        Curve.load(path)


def test_networks_of_a_file_have_equal_tensors(tmp_path: Path) -> None:
    path = tmp_path / "curve.safetensors"
    tensors = {"0/parameter/w": torch.zeros(2), "1/parameter/w": torch.zeros(3)}
    document = {"curve": "polygon", "num_points": 2, "history": []}
    metadata = {"rebasin_core": json.dumps({"format": "rebasin_core/1", "kind": "curve", "document": document})}
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(FileFormatError, match="do not fit each other"):
        Curve.load(path)
    with pytest.raises(FileFormatError, match=r"missing\.safetensors"):
        Curve.load(tmp_path / "missing.safetensors")


def test_invalid_curves_raise_errors() -> None:
    with pytest.raises(InvalidInputError, match="at least 2 points of a curve, got 1"):
        Curve("bezier", POINTS[:1])
    with pytest.raises(InvalidInputError, match="shape"):
        Curve("bezier", (point(0.0), point(0.0, 1.0)))
    gaussian: Any = DiagonalGaussianPosterior({"w": torch.zeros(2)}, {"w": torch.ones(2)})
    with pytest.raises(InvalidInputError, match="diagonal_gaussian"):
        Curve("bezier", (POINTS[0], gaussian))
    with pytest.raises(InvalidInputError, match=r"\[0, 1\]"):
        Curve("bezier", POINTS).at(1.5)
