"""The command `rebasin results` on a study that is not computed, partly computed and finished."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import rebasin_core as rc
from rebasin_core.studies.results import read_results
from tests.cli.conftest import Called

FILE = """
base:
  data: digits
  architecture: {name: mlp, hidden: [8]}
  inference: {name: map, epochs: 1}
  barrier: {name: pointwise, num_points: 3}
  matchers: [weight]
  num_train: 200
  num_test: 100
grid:
  width: {narrow: {architecture.hidden: [4]}, wide: {architecture.hidden: [8]}}
seeds: 3
"""


@pytest.mark.slow
def test_tables_files_and_figures(tmp_path: Path, called: Called) -> None:
    (tmp_path / "s.yaml").write_text(FILE)
    code, output, errors = called("results", "s.yaml", cwd=tmp_path)
    assert (code, errors) == (0, "")
    assert "There are no results yet." in output
    assert (
        "12 of 12 curves are missing; `rebasin study s.yaml` computes the remaining stages: 2 data, 6 train," in output
    )

    config = rc.load_study(tmp_path / "s.yaml")
    partly = rc.Study(config, tmp_path / "rebasin-store", only=["*narrow*"])
    assert not partly.run().failures
    code, output, errors = called("results", "s.yaml", cwd=tmp_path)
    assert (code, errors) == (0, "")
    assert "6 of 12 curves are missing" in output
    code, output, _ = called("results", "s.yaml", "--only", "*narrow*", cwd=tmp_path)
    assert (code, "missing" in output, "Note: " in output) == (0, False, True)
    study = rc.Study(config, tmp_path / "rebasin-store")
    assert not study.run().failures

    written = ("--csv", "r.csv", "--parquet", "r.parquet", "--figures", "figures", "--scores", "scores.csv")
    code, output, errors = called("results", "s.yaml", "--group-by", "width, matcher", *written, cwd=tmp_path)
    assert (code, errors) == (0, "")
    assert "missing" not in output
    found = read_results(study)
    group = found.group_by("width").groups[1]
    mean = group.means["reduction"]
    assert f"{mean.mean:+.4f} ± {mean.stderr:.4f}" in output
    with (tmp_path / "r.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["width"], row["reference"], row["candidate"], row["alignment"]) for row in rows[:3]] == [
        ("narrow", "1", "2", "unaligned"),
        ("narrow", "1", "2", "weight"),
        ("narrow", "1", "3", "unaligned"),
    ]
    assert pq.read_table(tmp_path / "r.parquet").to_pydict() == found.columns()
    assert {path.name for path in (tmp_path / "figures").iterdir()} >= {"barrier_width.png", "barrier_width.svg"}
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 1 + 6
    aligned, unaligned = found.rows[1], found.rows[0]
    assert 0 < aligned.distance < unaligned.distance
    artifact = study.store.read(aligned.id)
    assert artifact.documents["curve"]["height"] == aligned.height
    assert aligned.seconds == artifact.about["seconds"]


def test_a_study_without_pairs_has_a_table_of_scores(tmp_path: Path, called: Called) -> None:
    (tmp_path / "s.yaml").write_text(FILE + "pairs: none\n")
    assert not rc.Study(rc.load_study(tmp_path / "s.yaml"), tmp_path / "rebasin-store").run().failures
    code, output, errors = called("results", "s.yaml", "--group-by", "width", cwd=tmp_path)
    assert (code, errors) == (0, "")
    group = read_results(rc.Study(rc.load_study(tmp_path / "s.yaml"), tmp_path / "rebasin-store")).scores_by().groups[0]
    mean = group.means["accuracy"]
    assert f"{mean.mean:.4f} ± {mean.stderr:.4f}" in output
    assert mean.stderr > 0
    assert group.means["train_seconds"].mean > 0


def test_unknown_names_are_errors(tmp_path: Path, called: Called) -> None:
    (tmp_path / "s.yaml").write_text(FILE)
    code, _, errors = called("results", "s.yaml", "--group-by", "widht", cwd=tmp_path)
    assert code == 2
    assert "did you mean 'width'?" in errors
