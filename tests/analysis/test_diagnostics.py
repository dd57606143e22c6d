"""Diagnostics of chains, compared with ArviZ and with their definitions."""

from __future__ import annotations

import itertools
import math
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import rebasin_core as rc
from rebasin_core.errors import InvalidInputError

ARVIZ: Any = import_module("arviz_stats.base").array_stats
CHAINS = torch.arange(60) // 20


def draws(entries: int = 6) -> torch.Tensor:
    noise = torch.randn(60, entries, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return noise + 0.8 * noise.roll(1, 0)


def diagnosed(tensor: torch.Tensor) -> rc.analysis.ChainDiagnostics:
    return rc.analysis.diagnose_chains(rc.posteriors.SamplesPosterior({"w": tensor}, chains=CHAINS))


def autocorrelation(values: Any) -> Any:
    return ARVIZ.autocorr(values, axis=1).mean((0, 2))


def test_diagnostics_equal_those_of_arviz() -> None:
    tensor = draws()
    found = diagnosed(tensor)
    values = tensor.reshape(3, 20, 6).numpy()
    assert_allclose(found.rhat["w"], ARVIZ.rhat(values, chain_axis=0, draw_axis=1))
    assert_allclose(found.ess["w"], ARVIZ.ess(values, chain_axis=0, draw_axis=1))
    assert_allclose(np.array(found.autocorrelation), autocorrelation(values))
    assert found.autocorrelation[0] == pytest.approx(1)


@pytest.mark.parametrize("constant", [1, 3, 5])
def test_constant_entries_are_excluded_from_the_autocorrelation(constant: int) -> None:
    tensor = draws()
    tensor[:, :constant] = 1.5
    found = diagnosed(tensor)
    assert found.autocorrelation == pytest.approx(diagnosed(tensor[:, constant:]).autocorrelation)
    assert found.autocorrelation[0] == pytest.approx(1)
    assert bool(found.rhat["w"][:constant].isnan().all())
    assert found.ess["w"][:constant].tolist() == [60.0] * constant
    assert found.quantiles() == diagnosed(tensor[:, constant:]).quantiles()


def test_constant_chains_are_excluded_from_the_autocorrelation() -> None:
    tensor = draws(1)
    tensor[:20] = 0.0
    expected = autocorrelation(tensor[20:].reshape(2, 20, 1).numpy())
    assert_allclose(np.array(diagnosed(tensor).autocorrelation), expected)


def test_diagnostics_of_constant_draws() -> None:
    found = diagnosed(torch.ones(60, 3))
    assert all(math.isnan(value) for value in (*found.autocorrelation, *found.quantiles()))
    assert found.quantiles("ess") == (60.0, 60.0, 60.0)


def test_distances_of_chains_are_means_over_pairs_of_draws() -> None:
    tensor = draws()
    samples = rc.posteriors.SamplesPosterior({"v": tensor[:, :2], "w": tensor[:, 2:]}, chains=CHAINS + 3)
    found = rc.analysis.chain_distances(samples)
    squares = np.square(tensor.numpy()[:, None] - tensor.numpy()[None]).sum(-1)
    chains = CHAINS.numpy()
    for a, b in itertools.product(range(3), repeat=2):
        pairs = (chains[:, None] == a) & (chains[None] == b) & ~np.eye(60, dtype=bool)
        assert found[a, b].item() == pytest.approx(math.sqrt(squares[pairs].mean()))
    single = rc.posteriors.SamplesPosterior({"w": torch.zeros(2, 1)}, chains=torch.arange(2))
    assert rc.analysis.chain_distances(single).isnan().tolist() == [[True, False], [False, True]]


def test_weighted_samples_are_an_error() -> None:
    samples = rc.posteriors.SamplesPosterior({"w": draws()}, chains=CHAINS, weights=torch.arange(1.0, 61.0))
    with pytest.raises(InvalidInputError, match="expected samples of equal weights, since diagnostics"):
        rc.analysis.diagnose_chains(samples)
