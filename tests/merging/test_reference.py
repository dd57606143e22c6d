"""Merge methods against results of mergekit 0.1.5 and peft 0.21.2 (see `write_reference.py`)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rebasin_core.merging import (
    DAREMerge,
    KarcherMerge,
    MergeMethod,
    ModelStockMerge,
    SLERPMerge,
    TaskArithmeticMerge,
    TIESMerge,
)

REFERENCE = json.loads(Path(__file__).with_name("reference.json").read_text())
BASE = torch.tensor(REFERENCE["base"], dtype=torch.float64)
NETWORKS = [torch.tensor(network, dtype=torch.float64) for network in REFERENCE["networks"]]
WEIGHTS = REFERENCE["weights"]
# Two networks whose angle is so small that the interpolation is linear.
PARALLEL = [NETWORKS[0], 1.5 * NETWORKS[0] + 0.001 * BASE]
CASES: dict[str, tuple[MergeMethod, list[torch.Tensor], list[float], float]] = {
    "peft task_arithmetic": (TaskArithmeticMerge(), NETWORKS, WEIGHTS, 1e-12),
    "peft ties, equal weights": (TIESMerge(density=0.5), NETWORKS, [1, 1, 1], 1e-12),
    "peft dare_ties, density 1": (DAREMerge(density=1, elect_sign=True), NETWORKS, [2, 2, 2], 1e-12),
    "mergekit ties": (TIESMerge(density=0.5), NETWORKS, WEIGHTS, 1e-12),
    # mergekit's interpolation coefficient is in float32.
    "mergekit slerp": (SLERPMerge(), NETWORKS[:2], [0.7, 0.3], 1e-7),
    "mergekit slerp, nearly parallel": (SLERPMerge(), PARALLEL, [0.7, 0.3], 1e-7),
    "mergekit karcher": (KarcherMerge(), NETWORKS, WEIGHTS, 1e-9),
    "mergekit model_stock": (ModelStockMerge(), NETWORKS, [1, 1, 1], 1e-12),
}


def test_all_results_are_compared() -> None:
    assert CASES.keys() == REFERENCE["results"].keys()


@pytest.mark.parametrize("case", CASES)
def test_result_of_another_library(case: str) -> None:
    method, networks, weights, tolerance = CASES[case]
    merged = method.merge("w", networks, weights, base=BASE if method.uses_base else None)
    expected = torch.tensor(REFERENCE["results"][case], dtype=torch.float64)
    torch.testing.assert_close(merged, expected, rtol=0, atol=tolerance)
