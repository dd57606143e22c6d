"""Results of a real small study, compared with its stored artifacts."""

from __future__ import annotations

import csv
import math
import shutil
from pathlib import Path

import pytest
import torch

import rebasin_core as rc
from rebasin_core.studies.results import Results, ScoresRow, read_posteriors, read_results

CONFIG = rc.StudyConfig.model_validate({
    "base": {
        "data": "digits",
        "architecture": {"name": "mlp", "hidden": [8]},
        "inference": {"name": "map", "epochs": 1},
        "barrier": {"name": "pointwise", "num_points": 3},
        "matchers": ["weight"],
        "num_train": 200,
        "num_test": 100,
    },
    "grid": {"width": {"narrow": {"architecture.hidden": [4]}, "wide": {"architecture.hidden": [8]}}},
    "seeds": 3,
})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the store of the finished study."""
    folder = tmp_path_factory.mktemp("results") / "store"
    assert not rc.Study(CONFIG, folder).run().failures
    return folder


@pytest.fixture
def study(finished: Path, tmp_path: Path) -> rc.Study:
    """Return the finished study in a store of its own."""
    shutil.copytree(finished, tmp_path / "store")
    return rc.Study(CONFIG, tmp_path / "store")


def test_curves_and_scores_are_those_of_the_store(study: rc.Study) -> None:
    found = read_results(study)
    assert [(row.factors["width"], row.reference, row.candidate, row.alignment) for row in found.rows] == [
        (width, *pair, alignment)
        for width in ("narrow", "wide")
        for pair in (("1", "2"), ("1", "3"), ("2", "3"))
        for alignment in ("unaligned", "weight")
    ]
    for row, planned in zip(found.rows, study.plan.curves, strict=True):
        artifact = study.store.read(planned.stage)
        assert (row.id, row.height) == (planned.stage, artifact.documents["curve"]["height"])
        assert (row.seconds, row.torch) == (artifact.about["seconds"], torch.__version__)
    assert [(row.factors["width"], row.member, row.split) for row in found.scores] == [
        (width, seed, "test") for width in ("narrow", "wide") for seed in ("1", "2", "3")
    ]
    for scored, scores_of in zip(found.scores, study.plan.scores, strict=True):
        stored = study.store.read(scores_of.stage).documents["scores"]["scores"]
        assert {name: None if math.isnan(v) else v for name, v in scored.scores.items()} == stored
    assert not found.missing


def test_posteriors_are_those_that_were_trained(study: rc.Study) -> None:
    found = list(read_posteriors(study))
    assert [(one.cell.label, one.member) for one in found] == [
        (f"width={width}", seed) for width in ("narrow", "wide") for seed in ("1", "2", "3")
    ]
    assert [one.posterior.mean["layers.0.weight"].shape[0] for one in found] == [4, 4, 4, 8, 8, 8]
    stored = {(str(row.factors["width"]), row.member): row for row in read_results(study).scores}
    data = CONFIG.base.data.load()
    for one in found:
        model = one.cell.config.architecture.build(data.input_shape, data.target.output_size)
        score = rc.score(one.posterior, rc.Task(model, data.test.first(100).batches(100)))
        assert score.nll == pytest.approx(stored[str(one.cell.factors["width"]), one.member].scores["nll"], rel=1e-5)


def test_what_is_removed_is_missing_by_kind(study: rc.Study) -> None:
    curve, scores, posterior = study.plan.curves[1], study.plan.scores[0], study.plan.posteriors[-1]
    for planned in (curve, scores, posterior):
        study.store.remove(planned.stage)
    found = read_results(study)
    assert found.missing == {"train": 1, "scores": 1, "curve": 1}
    assert curve.stage not in {row.id for row in found.rows}
    assert (len(found.rows), len(found.scores)) == (11, 5)
    assert len(list(read_posteriors(study))) == 5


def test_damaged_results_are_noted_and_the_others_are_read(study: rc.Study, tmp_path: Path) -> None:
    damaged = study.plan.curves[0].stage
    record = tmp_path / "store" / "records" / damaged[:2] / f"{damaged}.json"
    record.chmod(0o644)
    record.write_text(record.read_text()[:-40])
    found = read_results(study)
    assert len(found.rows) == 11
    assert found.missing == {"curve": 1}
    assert any(f"1 stored result is damaged and not included, such as {damaged};" in note for note in found.notes)


def test_failures_of_missing_stages_are_noted(study: rc.Study) -> None:
    curve = study.plan.curves[0].stage
    study.store.write_failure(curve, {"error": "InvalidInputError", "message": "no luck"})
    assert not [note for note in read_results(study).notes if "failed" in note], "it was computed later"
    study.store.remove(curve)
    (note,) = [note for note in read_results(study).notes if "failed" in note]
    assert note.startswith("1 stage failed: ")
    assert note.endswith("InvalidInputError: no luck")
    assert curve[:8] in note


def test_different_circumstances_are_noted(study: rc.Study) -> None:
    assert not [note for note in read_results(study).notes if "threads" in note]
    planned = study.plan.curves[0].stage
    artifact = study.store.read(planned)
    study.store.remove(planned)
    about = {**artifact.about, "threads": 77, "device": "NVIDIA H200", "torch": "2.6.0"}
    study.store.write(artifact.stage, artifact.documents, {}, about)
    notes = [note for note in read_results(study).notes if "Results were computed with different" in note]
    others = 6 + 6 + 6 + 11  # posteriors, scores, matches, curves
    assert f"numbers of threads: {torch.get_num_threads()} ({others} results), 77 (1 results)." in notes[0]
    assert "different devices: cpu" in notes[1]
    assert "NVIDIA H200 (1 results)" in notes[1]
    assert "2.6.0 (1 results)" in notes[2]


def test_notes_of_curves_are_counted_and_numbers_ignored(study: rc.Study) -> None:
    found = read_results(study)
    poor = [row for row in found.rows if any(note.startswith("the reference and the cand") for note in row.notes)]
    assert poor, "one epoch does not suffice"
    (note,) = [note for note in found.notes if "the reference and the cand" in note]
    assert note == f"{len(poor)} of 12 curves, for example: {poor[0].notes[0]}."


def test_scores_as_columns_and_csv(tmp_path: Path) -> None:
    document = {"scores": {"nll": 0.5, "split": 1.0, "width": None}, "notes": ["few samples"]}
    one = ScoresRow.of(document, {"width": 8}, member="1", split="test", threads=2)
    two = ScoresRow.of({"scores": {"nll": 1.0, "rmse": 3.0}, "notes": []}, {"width": "all"}, member="1", split="test")
    results = Results((), ("width",), (one, two))
    columns = results.scores_columns()
    assert columns["width"] == ["8", "all"]
    assert (columns["nll"], columns["rmse"]) == ([0.5, 1.0], [None, 3.0])
    assert (columns["split_score"], columns["width_score"]) == ([1.0, None], [None, None])
    assert columns["notes"] == ["few samples", ""]
    assert list(results.scores_frame()["threads"].iloc[:1]) == [2]
    results.scores_to_csv(tmp_path / "s.csv")
    with (tmp_path / "s.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [line["nll"] for line in read] == ["0.5", "1.0"]
    assert list(read[0]) == list(columns)
