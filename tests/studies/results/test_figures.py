"""Figures of the results of a study: lines, bars and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
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
    line = cast(Any, axes.containers)[1].lines[0]
    assert list(line.get_xdata()) == pytest.approx([0, 1], abs=0.05)
    assert line.get_linestyle() == "None", "categories have no order"


def test_numeric_levels_label_the_axis() -> None:
    axes = Figure().subplots()
    draw_means(axes, Results(tuple(study())).group_by("kl_weight"), "inference.kl_weight")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.05", "1.0"]
    assert cast(Any, axes.containers)[0].lines[0].get_linestyle() == "-"


def test_two_networks_have_a_point_without_a_bar() -> None:
    axes = Figure().subplots()
    draw_means(axes, Results(tuple(study(2))).group_by("width"), "width")
    container = cast(Any, axes.containers)[0]
    assert len(container.lines[0].get_ydata()) == 2
    assert not any(np.isfinite(bar).all() and len(bar) for bar in container.lines[2][0].get_segments())


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
    assert len(write_figures(results, tmp_path, "width", "split")) == 2, "splits are panels"
    with pytest.raises(UnknownNameError):
        write_figures(results, tmp_path, "depth")


def test_one_figure_for_each_level_of_further_factors(tmp_path: Path) -> None:
    results = Results(tuple(study()))
    written = write_figures(results, tmp_path, "kl_weight", "width", "matcher")
    stem = "barrier_inference.kl_weight_width"
    assert [path.name for path in written[1::2]] == [f"{stem}=narrow.svg", f"{stem}=wide.svg"]
    assert "width: wide" in written[3].read_text()
    assert "width: wide" not in written[1].read_text()


def test_levels_whose_file_names_are_equal_have_their_own_figures(tmp_path: Path) -> None:
    rows = [row(("1", "2"), "unaligned", 0.5, a=a, b=b) for a in (1, 2) for b in ("x y", "x_y")]
    written = write_figures(Results(tuple(rows)), tmp_path, "a", "b")
    assert [path.name for path in written[::2]] == ["barrier_a_b=x_y.png", "barrier_a_b=x_y_2.png"]
    assert len({path.read_bytes() for path in written}) == 4


def test_without_factors_barriers_are_plotted_against_the_alignment(tmp_path: Path) -> None:
    rows = [row(("1", "2"), "unaligned", 0.5), row(("1", "2"), "weight", 0.1)]
    assert [path.name for path in write_figures(Results(tuple(rows)), tmp_path)] == [
        "barrier_alignment.png",
        "barrier_alignment.svg",
    ]
