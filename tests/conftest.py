"""What tests of every part share."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

from rebasin_core import Registry

# The networks here are tiny: a second thread only waits, and subprocesses run beside each other.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
# How long an example takes depends on what else the machine does: `pytest-timeout` finds tests that hang.
settings.register_profile("loaded machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("loaded machine")


def pytest_runtest_setup() -> None:
    """Start every test from the same state of torch's own generator, whatever ran before it in this process."""
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
