from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from rebasin_core import LossCurve
from rebasin_core.errors import FileFormatError
from rebasin_core.report import barrier_table, write_figures
from rebasin_core.tensors.files import write_json


def curve(height: float) -> LossCurve:
    return LossCurve(
        t=(0.0, 0.5, 1.0),
        loss=(0.1, 0.1 + height, 0.1),
        stderr=(0.01, float("nan"), 0.01),
        data_stderr=(0.01, 0.01, 0.01),
        excess=(0.0, height, 0.0),
        excess_stderr=(0.0, 0.01, 0.0),
        gibbs=(0.1, 0.2, 0.1),
        bias=(0.0, 0.0, 0.0),
        score=(0.9, 0.8, 0.9),
        score_name="accuracy",
        height=height,
        height_stderr=0.01,
        height_data_stderr=float("nan"),
        location=0.5,
    )


def test_figures_are_reproducible(tmp_path: Path) -> None:
    curves = {"unaligned": curve(1.0), "weight": curve(0.1)}
    for label, found in curves.items():
        write_json(tmp_path / "curves" / "test" / f"{label}.json", found.as_json())
    write_json(tmp_path / "summary.json", {"wasserstein_distances": dict.fromkeys(curves)})
    paths = write_figures(tmp_path)
    assert [path.name for path in paths] == ["barrier_test.png", "barrier_test.svg", "barrier_test.pdf"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert paths[2].read_bytes().startswith(b"%PDF")
    text = "".join(ET.parse(paths[1]).getroot().itertext())
    assert text or paths[1].stat().st_size > 10_000
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_figures(tmp_path)] == before


def test_a_folder_without_curves_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="has no curves"):
        write_figures(tmp_path)


def test_the_table_contains_standard_errors() -> None:
    text = barrier_table({"unaligned": curve(1.0), "weight": curve(0.1)}, {"unaligned": 3.0, "weight": None})
    assert "1.0000" in text
    assert "0.0100" in text
    assert "3.00" in text
    assert text.startswith("alignment")


def test_a_curve_can_be_plotted() -> None:
    axes = curve(0.5).plot(label="mine")
    assert axes.get_xlabel() == "interpolation coefficient $t$"
    assert curve(0.5).plot(axes, excess=True) is axes
    assert len(axes.lines) == 2
