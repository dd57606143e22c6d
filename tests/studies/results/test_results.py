"""Rows, files and tables of the results of a study, compared with loops and other readers."""

from __future__ import annotations

import csv
import math
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rebasin_core.barriers.curve import LossCurve
from rebasin_core.errors import InvalidInputError, PluginError, StorageError, UnknownNameError
from rebasin_core.studies.results import Results, Row
from tests.studies.results.rows import row, study

CURVE = LossCurve(
    t=(0.0, 0.5, 1.0),
    loss=(0.1, 0.6, 0.3),
    stderr=(0.01, 0.02, 0.01),
    data_stderr=(0.1, 0.1, 0.1),
    excess=(0.0, 0.4, 0.0),
    excess_stderr=(0.0, 0.03, 0.0),
    gibbs=(0.2, 0.7, 0.4),
    bias=(0.0, 0.0, 0.0),
    score=(0.9, 0.5, 0.8),
    score_name="accuracy",
    height=0.4,
    height_stderr=0.03,
    height_data_stderr=0.05,
    location=0.5,
)


def test_a_row_has_the_numbers_of_its_curve() -> None:
    names = {"reference": "1", "candidate": "2", "split": "test", "barrier": "m", "alignment": "weight"}
    found = Row.of(CURVE, {"width": 64, "hidden": [64, 64], "inference": {"name": "map"}}, **names, seconds=2.0)
    assert dict(found.factors) == {"width": 64, "hidden": "[64, 64]", "inference": "map"}
    assert (found.reference_loss, found.midpoint_loss, found.candidate_loss) == (0.1, 0.6, 0.3)
    assert (found.reference_score, found.midpoint_score, found.candidate_score) == (0.9, 0.5, 0.8)
    assert (found.height, found.interior_excess, found.interior_location) == (0.4, 0.4, 0.5)
    assert (found.values()["seconds"], found.values()["objective"]) == (2.0, None)
    assert list(found.values())[:4] == ["width", "hidden", "inference", "reference"]
    noted = Row.of(replace(CURVE, notes=("one; two", "three")), {}, **names, torch="2.9")
    assert noted.notes == ("one; two", "three")
    assert (noted.values()["notes"], noted.values()["torch"], found.values()["notes"]) == (
        "one; two | three",
        "2.9",
        "",
    )


def test_csv_is_read_back(tmp_path: Path) -> None:
    rows = [row(("1", "2"), "unaligned", 0.1 + 0.2, width="a, b"), row(("1", "2"), "weight", 0.0, width="a, b")]
    Results(tuple(rows)).to_csv(tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [line["width"] for line in read] == ["a, b", "a, b"]
    assert float(read[0]["height"]) == 0.1 + 0.2
    assert (read[0]["distance"], read[1]["alignment"]) == ("", "weight")
    assert list(read[0]) == list(rows[0].values())


def test_parquet_and_the_data_frame_have_the_values_and_their_types(tmp_path: Path) -> None:
    rows = [
        row(("1", "2"), "unaligned", 0.25, number=1, mixed=1, flag=True),
        row(("1", "2"), "unaligned", 0.5, number=0.5, mixed="auto", flag=False),
    ]
    results = Results(tuple(rows))
    results.to_parquet(tmp_path / "r.parquet")
    table = pq.read_table(tmp_path / "r.parquet").to_pydict()
    assert table == results.columns()
    assert (table["number"], table["mixed"], table["flag"]) == ([1.0, 0.5], ["1", "auto"], [True, False])
    assert table["height"] == [0.25, 0.5]
    assert table["distance"] == [None, None]
    frame = results.frame()
    assert list(frame["height"]) == [0.25, 0.5]
    assert list(frame.columns) == list(table)


def test_files_are_replaced_or_the_error_names_the_reason(tmp_path: Path) -> None:
    results = Results(tuple(study()))
    (tmp_path / "folder").mkdir()
    for write in (results.to_csv, results.to_parquet):
        with pytest.raises(StorageError):
            write(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(("module", "call"), [("pandas", "frame"), ("pyarrow", "to_parquet")])
def test_a_missing_extra_is_named(module: str, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    arguments = [tmp_path / "r"] if call == "to_parquet" else []
    with pytest.raises(PluginError, match=r"rebasin-core\[frames\]"):
        getattr(Results(tuple(study())), call)(*arguments)


def test_means_and_errors_are_those_of_a_loop_over_seeds() -> None:
    rows = study()
    table = Results(tuple(rows)).group_by("width", "matcher")
    assert table.names == ("width", "alignment", "split", "barrier")
    assert [tuple(group.keys.values())[:2] for group in table.groups] == [
        ("narrow", "unaligned"),
        ("narrow", "weight"),
        ("wide", "unaligned"),
        ("wide", "weight"),
    ]
    unaligned = {(*r.factors.values(), r.reference, r.candidate): r.height for r in rows if r.alignment == "unaligned"}
    group = table.groups[3]

    def mean(without: str) -> float:
        return statistics.mean(
            unaligned[*r.factors.values(), r.reference, r.candidate] - r.height
            for r in rows
            if r.factors["width"] == "wide" and r.alignment == "weight" and without not in {r.reference, r.candidate}
        )

    replicates = [mean(str(seed)) for seed in range(1, 5)]
    stderr = math.sqrt(3 / 4 * sum((value - statistics.mean(replicates)) ** 2 for value in replicates))
    found = group.means["reduction"]
    assert found.mean == pytest.approx(mean(""))
    assert found.stderr == pytest.approx(stderr)
    assert (group.num_cells, group.num_pairs, group.num_networks) == (2, 12, 4)
    assert group.means["endpoint_loss"].mean == pytest.approx(0.3)
    assert "reduction" not in table.groups[0].means
    assert "distance" not in group.means
    columns = table.columns()
    assert columns["reduction"] == [None, pytest.approx(columns["reduction"][1]), None, pytest.approx(found.mean)]
    half = 3.182446 * stderr  # Student's distribution, 3 degrees of freedom
    assert columns["reduction_high"][3] == pytest.approx(found.mean + half)
    assert columns["reduction_low"][3] == pytest.approx(found.mean - half)


def test_splits_barriers_and_alignments_are_never_averaged() -> None:
    results = Results(tuple(study(splits=("test", "train"), barriers=("m", "p"))))
    table = results.group_by("split")
    assert len(table.groups) == 2 * 2 * 2
    assert {group.num_pairs for group in table.groups} == {4 * 6}
    assert len(results.group_by().groups) == 4 * 8


@pytest.mark.parametrize(
    ("given", "column"),
    [("kl_weight", "inference.kl_weight"), ("width", "width"), ("matcher", "alignment"), ("candidate", "candidate")],
)
def test_short_names_of_factors(given: str, column: str) -> None:
    assert Results(tuple(study())).resolved(given, column) == [column]


def test_ambiguous_and_unknown_names_are_errors() -> None:
    results = Results((row(("1", "2"), "unaligned", 0.0, a__epochs=1, b__epochs=2, matcher="x"),))
    with pytest.raises(UnknownNameError, match=r"'epochs' is ambiguous; expected one of \['a.epochs', 'b.epochs'\]"):
        results.group_by("epochs")
    with pytest.raises(UnknownNameError, match="no factor or column 'spilt' to group by; did you mean 'split'"):
        results.group_by("spilt")
    assert results.resolved("matcher") == ["matcher"], "a factor has priority"


def test_rows_of_one_curve_or_of_other_factors_are_errors() -> None:
    one = row(("1", "2"), "unaligned", 0.0, width=1)
    with pytest.raises(InvalidInputError, match=r"twice in the cell width=1"):
        Results((one, replace(one, height=1.0)))
    with pytest.raises(InvalidInputError, match=r"expected rows with the factors \['width'\], got \['depth'\]"):
        Results((one, row(("1", "2"), "unaligned", 0.0, depth=1)))


def test_an_unfinished_study_has_means_of_what_is_there() -> None:
    rows = [r for r in study() if not (r.alignment == "unaligned" and r.candidate == "4")]
    table = Results(tuple(rows)).group_by("width")
    assert "reduction" not in table.groups[1].means, "some pairs have no unaligned curve"
    assert table.groups[1].means["height"].num_pairs == 12
    assert not Results(()).group_by().groups
    assert Results(()).group_by().text() == "There are no results yet."


def test_a_reference_in_all_pairs_is_fixed_and_named() -> None:
    rows = [row(("1", name), "unaligned", height) for name, height in (("2", 0.1), ("3", 0.2), ("4", 0.6))]
    table = Results(tuple(rows)).group_by()
    group = table.groups[0]
    assert group.fixed == ("1",)
    assert group.means["height"].stderr == pytest.approx(statistics.stdev([0.1, 0.2, 0.6]) / math.sqrt(3))
    assert "conditional on the network 1, which is in all pairs" in table.text()
    alone = Results((rows[0],)).group_by()
    assert alone.groups[0].fixed == ()
    assert "No error is given for groups with fewer than three networks" in alone.text()


def test_the_text_fits_the_width_and_repeats_the_keys() -> None:
    table = Results(tuple(study())).group_by("kl_weight", "matcher")
    wide = table.text()
    mean = table.groups[0].means["height"]
    assert f"{mean.mean:.4f} ± {mean.stderr:.4f}" in wide
    assert "split: test, barrier: m" in wide
    assert wide.count("unaligned") == 2
    narrow = table.text(width=60)
    assert max(len(line) for line in narrow.split("\n\n±")[0].splitlines()) <= 60
    assert narrow.count("unaligned") == 2 * narrow.count("alignment")
    assert narrow.count("alignment") > 1
