"""Runs with matchers that find linear maps."""

from __future__ import annotations

from pathlib import Path

import pytest

import rebasin_core as rc
from rebasin_core.symmetry import Kind


def test_a_run_saves_the_group_element_and_its_curve_is_that_of_the_transformed_candidate(tmp_path: Path) -> None:
    config = rc.RunConfig.model_validate({
        "data": "digits",
        "architecture": {"name": "mlp", "hidden": [6]},
        "spec": "traced",
        "inference": {"name": "map", "epochs": 2},
        "barrier": {"name": "pointwise", "num_points": 3},
        "matchers": ["activation", {"name": "weight", "symmetry": "full"}],
        "num_train": 300,
        "num_test": 100,
    })
    result = rc.run(config, tmp_path / "run")
    folder = tmp_path / "run"
    pair = [rc.load_posterior(folder / "posteriors" / f"{role}.safetensors") for role in ("reference", "candidate")]
    paths = sorted((folder / "permutations").glob("*.safetensors"))
    elements = {path.stem: rc.load_element(path) for path in paths}
    (name,) = [name for name, element in elements.items() if isinstance(element, rc.SymmetryElement)]
    element = elements[name]
    assert isinstance(element, rc.SymmetryElement)
    assert {linear.kind for linear in element.symmetry.linear} == {Kind.POSITIVE}
    aligned = element.apply(pair[1])
    assert result.distances[name] == pytest.approx(rc.wasserstein_distance(pair[0], aligned), rel=1e-5)
    data = config.data.load()
    task = rc.Task(config.architecture.build(data.input_shape, 10), data.test.first(100).batches(100))
    curve = rc.barrier(pair[0], aligned, task, num_points=3)
    assert list(result.curves["test"][name].loss) == pytest.approx(list(curve.loss), rel=1e-5)
