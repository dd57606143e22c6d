"""The arguments of `barrier` that override options of the estimator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.errors import ConfigError, UnknownNameError

MODEL = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)).double()
PROBLEM: dict[str, Any] = {"task": rc.Task(MODEL, [(X, torch.arange(12) % 3)])}
ESTIMATORS = [
    None,
    "marginalized",
    "pointwise",
    "curved",
    "repair",
    "reset",
    {"name": "repair", "estimator": "pointwise"},
    {"name": "reset", "estimator": {"name": "repair", "estimator": {"name": "curved", "epochs": 1}}},
]


def tensors(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(p.shape, generator=generator).double() for n, p in MODEL.named_parameters()}


POINTS = [rc.posteriors.PointPosterior(tensors(seed)) for seed in (1, 2)]
GAUSSIANS = [
    rc.posteriors.DiagonalGaussianPosterior(
        tensors(seed), {n: torch.full_like(t, 0.1) for n, t in tensors(seed).items()}
    )
    for seed in (1, 2)
]


@pytest.mark.parametrize("pair", [POINTS, GAUSSIANS], ids=["points", "gaussians"])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_overrides_apply_to_every_estimator(estimator: Any, pair: list[rc.Posterior]) -> None:
    curve = rc.barrier(
        pair[0], pair[1], **PROBLEM, estimator=estimator, num_points=5, num_samples=4, path="moments", metric="brier"
    )
    assert curve.t == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert curve.metric == "brier"


def test_overrides_apply_to_the_innermost_estimator() -> None:
    inner = {"name": "marginalized", "num_points": 3, "num_samples": 4, "path": "moments", "metric": "gibbs"}
    expected = rc.barrier(GAUSSIANS[0], GAUSSIANS[1], **PROBLEM, estimator={"name": "reset", "estimator": inner})
    found = rc.barrier(
        GAUSSIANS[0],
        GAUSSIANS[1],
        **PROBLEM,
        estimator="reset",
        num_points=3,
        num_samples=4,
        path="moments",
        metric="gibbs",
    )
    assert found == expected


def test_single_networks_need_one_sample() -> None:
    # The path between single networks is deterministic.
    expected = rc.barrier(POINTS[0], POINTS[1], **PROBLEM)
    assert rc.barrier(POINTS[0], POINTS[1], **PROBLEM, num_samples=16) == expected
    assert rc.barrier(GAUSSIANS[0], GAUSSIANS[1], **PROBLEM, estimator="pointwise", num_samples=16) == expected


def test_overrides_apply_to_an_instance() -> None:
    expected = rc.barrier(GAUSSIANS[0], GAUSSIANS[1], **PROBLEM, estimator="marginalized", num_points=3, num_samples=4)
    given = rc.barriers.MarginalizedBarrier(num_samples=4)
    assert rc.barrier(GAUSSIANS[0], GAUSSIANS[1], **PROBLEM, estimator=given, num_points=3) == expected


def test_overrides_are_validated_as_options() -> None:
    with pytest.raises(ConfigError, match="num_points: expected an odd number of points"):
        rc.barrier(GAUSSIANS[0], GAUSSIANS[1], **PROBLEM, estimator="repair", num_points=4)
    with pytest.raises(ConfigError, match="no path 'moment'; did you mean 'moments'"):
        rc.barrier(GAUSSIANS[0], GAUSSIANS[1], **PROBLEM, path="moment")
    with pytest.raises(UnknownNameError, match="no metric 'bier'; did you mean 'brier'"):
        rc.barrier(GAUSSIANS[0], GAUSSIANS[1], **PROBLEM, estimator="reset", metric="bier")
