"""Settings and fixtures of all tests."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

from rebasin_core import Registry

# The networks are tiny: a second thread has no benefit, and several test processes run in parallel.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
# The time of an example depends on the load of the machine; `pytest-timeout` detects tests that hang.
settings.register_profile("loaded machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("loaded machine")


def pytest_runtest_setup() -> None:
    """Start every test from the same state of the global generator of torch."""
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def builtin_registry() -> Registry:
    return Registry(external=False)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    return torch.device(request.param)
