"""Which stages a change of one option affects: exactly those whose results it can change."""

from __future__ import annotations

from typing import Any

import pytest

import rebasin_core as rc
from rebasin_core.studies.planning.contents import Contents
from rebasin_core.studies.planning.run import RunPlan

BASE: dict[str, Any] = {
    "data": "digits",
    "architecture": {"name": "mlp", "hidden": [8]},
    "inference": {"name": "mean_field_vi", "epochs": 1},
    "matchers": [{"name": "weight"}, {"name": "activation"}],
    "barrier": {"name": "marginalized", "num_points": 3, "num_samples": 2},
    "num_train": 300,
    "num_test": 100,
}
TRAININGS = {"posterior/reference", "posterior/candidate"}
WEIGHT = {"match/weight", "similarities/weight", "curve/test/weight", "means/test/weight"}
ACTIVATION = {"match/activation", "similarities/activation", "curve/test/activation", "means/test/activation"}
MARGINALIZED = {"curve/test/unaligned", "curve/test/weight", "curve/test/activation"}
MEANS = {"means/test/unaligned", "means/test/weight", "means/test/activation"}
CURVES = MARGINALIZED | MEANS
SCORES = {"scores/test/reference", "scores/test/candidate"}
ALL = TRAININGS | WEIGHT | ACTIVATION | CURVES | SCORES | {"summary"}


def roles(options: dict[str, Any], contents: Contents) -> dict[str, str]:
    return {role: stage.id for role, stage in RunPlan(rc.RunConfig(**options), contents).roles.items()}


CONTENTS = Contents(rc.default_registry())
CASES: list[tuple[dict[str, Any], set[str]]] = [
    ({"inference": {"name": "mean_field_vi", "epochs": 2}}, ALL),
    ({"architecture": {"name": "mlp", "hidden": [4]}}, ALL),
    ({"dtype": "float64"}, ALL),
    ({"batch_size": 64}, ALL),
    ({"compiled": True}, ALL),
    ({"num_train": 200}, ALL),
    ({"validation_fraction": 0.1}, ALL),
    ({"device": "cpu"}, ALL),
    ({"candidate": {"seed": 3}}, ALL - {"posterior/reference", "scores/test/reference"}),
    ({"matchers": [{"name": "weight", "max_sweeps": 7}, {"name": "activation"}]}, WEIGHT | {"summary"}),
    ({"num_match": 100}, ACTIVATION | {"summary"}),
    ({"num_test": 50}, CURVES | SCORES | {"summary"}),
    ({"barrier": {"name": "marginalized", "num_points": 3, "num_samples": 3}}, MARGINALIZED | {"summary"}),
    ({"num_score_samples": 8}, SCORES),
    ({"num_calibration": 100}, set()),
    ({"allow_untested": True}, set()),
    ({"seed": 5}, ALL - TRAININGS),
    # Batches of validation data are not used without a validation fraction.
    ({"evaluation_batch_size": 50}, ACTIVATION | CURVES | SCORES | {"summary"}),
    ({"spec": "traced"}, ALL - TRAININGS - SCORES - {"curve/test/unaligned", "means/test/unaligned"}),
]


@pytest.mark.parametrize(("change", "expected"), CASES, ids=[next(iter(change)) for change, _ in CASES])
def test_a_change_affects_exactly_the_stages_that_depend_on_it(change: dict[str, Any], expected: set[str]) -> None:
    before = roles(BASE, CONTENTS)
    after = roles({**BASE, **change}, CONTENTS)
    assert set(before) == set(after) == ALL
    assert {role for role in before if before[role] != after[role]} == expected


def test_calibration_data_affect_estimators_that_use_them() -> None:
    base = {**BASE, "barrier": {"name": "repair", "estimator": {"name": "pointwise", "num_points": 3}}}
    before = roles(base, CONTENTS)
    after = roles({**base, "num_calibration": 100}, CONTENTS)
    changed = {role for role in before if before[role] != after[role]}
    assert changed == {role for role in before if role.startswith(("curve/", "summary"))}
