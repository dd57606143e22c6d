"""Tests of all laws on all built-in components."""

from __future__ import annotations

import pytest
import torch

from rebasin_core import Registry
from rebasin_core.plugin.hookspecs import HOOKS
from rebasin_core.testing import LAWS, Check, conformance_checks

BUILTIN = Registry(external=False)


@pytest.mark.parametrize("check", conformance_checks("rebasin-core", registry=BUILTIN), ids=str)
def test_law_holds(check: Check) -> None:
    check.run()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("check", conformance_checks("rebasin-core", registry=BUILTIN, device="cuda"), ids=str)
def test_law_holds_on_a_gpu(check: Check) -> None:
    check.run()


def test_other_devices_only_test_families_that_use_them() -> None:
    checks = conformance_checks("rebasin-core", registry=BUILTIN, device="cuda")
    families = {
        "assignment",
        "barrier",
        "inference",
        "likelihood",
        "matcher",
        "merge_method",
        "metric",
        "path",
        "posterior",
    }
    assert {check.entry.family for check in checks} == families
    assert all(str(check).endswith(":cuda") for check in checks)


def test_every_family_has_laws() -> None:
    assert LAWS.keys() == HOOKS.keys()


def test_exempt_built_in_components() -> None:
    # tests/specs/operators/test_vision.py tests the rules of torchvision's operators. The other laws do not apply to
    # matchers that minimize a loss on data or compare gradients of sampled networks, to barriers on trained curves or
    # with fitted temperatures, to the path along a curve in a file, to an executor without workers, to a merge method
    # that drops entries at random, and to a source of models that is given a factory.
    exempt = {entry.name for entry in BUILTIN.all() if getattr(entry.kind, "exempt_laws", {})}
    built_in = {
        "vision",
        "annealing",
        "straight_through",
        "gradient",
        "refined",
        "calibrated",
        "curve",
        "curved",
        "elastic_band",
        "in_process",
        "dare",
        "factory",
    }
    assert exempt == built_in
