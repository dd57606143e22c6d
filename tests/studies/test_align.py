"""Samples that are aligned within each posterior of a run or study, before posteriors are matched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import rebasin_core as rc
from rebasin_core.errors import ConfigError
from rebasin_core.studies.kinds.names import POSTERIOR
from rebasin_core.studies.planning.contents import Contents
from rebasin_core.studies.planning.run import RunPlan
from rebasin_core.studies.results import read_posteriors, read_results

ENSEMBLE = {"name": "deep_ensemble", "members": 3, "epochs": 2}
BASE: dict[str, Any] = {
    "data": "digits",
    "architecture": {"name": "mlp", "hidden": [6]},
    "inference": ENSEMBLE,
    "barrier": {"name": "marginalized", "num_points": 3, "num_samples": 3},
    "matchers": ["weight"],
    "num_train": 300,
    "num_test": 100,
}


def samples(posterior: rc.Posterior) -> rc.posteriors.SamplesPosterior:
    assert isinstance(posterior, rc.posteriors.SamplesPosterior)
    return posterior


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> rc.Study:
    """Return a finished study with and without the option."""
    config = rc.StudyConfig(
        base=BASE, variants={"as trained": {}, "aligned": {"align_samples": "wasserstein"}}, seeds=[1, 2]
    )
    found = rc.Study(config, tmp_path_factory.mktemp("align") / "store")
    assert not found.run().failures
    return found


def test_samples_are_those_of_the_function_and_trainings_are_shared(study: rc.Study) -> None:
    found = {(one.cell.label, one.member): one for one in read_posteriors(study)}
    data = study.config.base.data.load()
    architecture = study.config.base.architecture
    spec = architecture.spec(architecture.build(data.input_shape, 10))
    assert study.plan.graph.counts()["train"] == study.plan.graph.counts()["align"] == 2
    for seed in ("1", "2"):
        trained = found["variant=as trained", seed]
        aligned = found["variant=aligned", seed]
        expected = rc.align_samples(samples(trained.posterior), spec, matcher="wasserstein")
        for name, tensor in expected.samples.as_tensors().items():
            torch.testing.assert_close(aligned.posterior.as_tensors()[name], tensor, rtol=0, atol=0)
        distances = study.store.read(aligned.id).documents["aligned"]["mean_squared_distances"]
        assert distances == pytest.approx(expected.mean_squared_distances)
        assert distances[-1] < distances[0]


def test_the_predictive_distribution_is_unchanged(study: rc.Study) -> None:
    scores = {(row.factors["variant"], row.member): row.scores for row in read_results(study).scores}
    for seed in ("1", "2"):
        assert scores["aligned", seed]["nll"] == pytest.approx(scores["as trained", seed]["nll"], rel=1e-5)


def test_matches_and_barriers_are_those_of_the_aligned_posteriors(study: rc.Study) -> None:
    found = {(one.cell.label, one.member): one.posterior for one in read_posteriors(study)}
    data = study.config.base.data.load()
    architecture = study.config.base.architecture
    model = architecture.build(data.input_shape, 10)
    spec = architecture.spec(model)
    first, second = [rc.align_samples(samples(found["variant=as trained", seed]), spec).samples for seed in ("1", "2")]
    candidate = rc.match(first, second, spec, matcher="weight").apply(second)
    task = rc.Task(model, data.test.first(100).batches(100))
    curve = rc.barrier(first, candidate, task, num_points=3, num_samples=3)
    heights = {
        row.factors["variant"]: row.height
        for row in read_results(study).rows
        if (row.alignment, row.barrier) == ("weight", "marginalized")
    }
    assert heights["aligned"] == pytest.approx(curve.height, rel=1e-5)
    assert heights["as trained"] != pytest.approx(curve.height, rel=1e-3)


def test_a_run_writes_the_aligned_posteriors_and_its_permutations_apply_to_them(tmp_path: Path) -> None:
    result = rc.run(rc.RunConfig(**BASE, align_samples="weight"), tmp_path / "run")
    posteriors = [
        rc.load_posterior(tmp_path / "run" / "posteriors" / f"{n}.safetensors") for n in ("reference", "candidate")
    ]
    assert {"align samples of reference", "align samples of candidate"} <= set(result.computed)
    permutation = rc.Permutation.load(tmp_path / "run" / "permutations" / "weight.safetensors")
    distance = rc.posteriors.wasserstein_distance(posteriors[0], permutation.apply(posteriors[1]))
    assert result.distances["weight"] == pytest.approx(distance, rel=1e-5)
    assert not rc.run(rc.RunConfig(**BASE, align_samples="weight"), tmp_path / "run").computed


def test_a_matcher_that_runs_the_network_reads_the_training_data() -> None:
    plan = RunPlan(rc.RunConfig(**BASE, align_samples="activation", num_match=20), Contents(rc.default_registry()))
    stage = plan.roles["posterior/reference"]
    assert stage.kind == "align"
    reads = dict(stage.reads)
    assert reads["train"] == plan.cell.data("train", 20).id
    assert reads["posterior"] == plan.cell.origins[stage.id].id != stage.id
    assert set(reads) == {"network", "posterior", "train"}


def test_a_single_network_is_an_error_before_training() -> None:
    config = rc.RunConfig(**{**BASE, "inference": {"name": "map", "epochs": 1}}, align_samples="weight")
    with pytest.raises(ConfigError, match="needs posteriors with several samples, but reference is a single network"):
        RunPlan(config, Contents(rc.default_registry()))


def test_a_posterior_without_samples_is_an_error_of_its_stage(tmp_path: Path) -> None:
    base = {**BASE, "inference": {"name": "mean_field_vi", "epochs": 1}, "align_samples": "weight"}
    study = rc.Study(rc.StudyConfig(base=base, seeds=1, pairs="none"), tmp_path / "store")
    (failure,) = study.run().failures.values()
    assert failure.stage.kind == "align"
    assert failure.is_permanent
    assert (
        "expected samples or a mixture for the option `align_samples`, got a posterior of the kind" in failure.message
    )


def test_invalid_loaded_posteriors_are_reported_before_training(tmp_path: Path) -> None:
    (tmp_path / POSTERIOR).write_bytes(b"no file of tensors")
    base = {**BASE, "align_samples": "weight"}
    posteriors = {"a": {"seed": 1}, "b": {"path": tmp_path / POSTERIOR}}
    study = rc.StudyConfig(base=base, posteriors=posteriors)
    with pytest.raises(rc.errors.RebasinError):
        rc.Study(study, tmp_path / "store").run()
