"""Figures of the results of a study: lines, bars and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from matplotlib.figure import Figure

from rebasin_core.errors import UnknownNameError
from rebasin_core.report.style import UNALIGNED_COLOR
from rebasin_core.studies.results import Results, draw_means, write_figures
from tests.studies.results.rows import row, study


def test_lines_have_the_means_and_the_intervals() -> None:
    table = Results(tuple(study())).group_by("kl_weight")
    axes = Figure().subplots()
    draw_means(axes, table, "inference.kl_weight")
    unaligned, weight = cast(Any, axes.containers)
    assert (unaligned.get_label(), weight.get_label()) == ("unaligned", "weight")
    line = unaligned.lines[0]
    assert line.get_color() == UNALIGNED_COLOR
    means = [group.means["height"] for group in table.groups if group.keys["alignment"] == "unaligned"]
    assert list(line.get_xdata()) == pytest.approx([0.05, 1.0], rel=0.05)
    assert list(line.get_ydata()) == pytest.approx([mean.mean for mean in means])
    bars = unaligned.lines[2][0].get_segments()
    assert [tuple(bar[:, 1]) for bar in bars] == [pytest.approx(mean.interval()) for mean in means]
    assert axes.get_xscale() == "log"


def test_names_are_equally_spaced_categories() -> None:
    axes = Figure().subplots()
    draw_means(axes, Results(tuple(study())).group_by("width"), "width")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["narrow", "wide"]
    assert list(cast(Any, axes.containers)[1].lines[0].get_xdata()) == pytest.approx([0, 1], abs=0.05)


def test_one_figure_for_each_factor_with_panels(tmp_path: Path) -> None:
    results = Results(tuple(study(splits=("test", "train"), barriers=("m", "p"))))
    written = write_figures(results, tmp_path)
    names = ["barrier_inference.kl_weight.png", "barrier_inference.kl_weight.svg", "barrier_width.png"]
    assert [path.name for path in written] == [*names, "barrier_width.svg"]
    text = written[1].read_text()
    assert all(f"{barrier}, {split} data" in text for barrier in "mp" for split in ("test", "train"))
    before = [path.read_bytes() for path in written]
    write_figures(results, tmp_path)
    assert [path.read_bytes() for path in written] == before
    assert len(write_figures(results, tmp_path, "width")) == 2
    with pytest.raises(UnknownNameError):
        write_figures(results, tmp_path, "depth")


def test_without_factors_barriers_are_plotted_against_the_alignment(tmp_path: Path) -> None:
    rows = [row(("1", "2"), "unaligned", 0.5), row(("1", "2"), "weight", 0.1)]
    assert [path.name for path in write_figures(Results(tuple(rows)), tmp_path)] == [
        "barrier_alignment.png",
        "barrier_alignment.svg",
    ]
