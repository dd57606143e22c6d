"""Being registered means being tested: every law, on everything built in."""

from __future__ import annotations

import pytest

from rebasin_core import Registry
from rebasin_core.plugin.hookspecs import HOOKS
from rebasin_core.testing import LAWS, Check, conformance_checks

BUILTIN = Registry(external=False)


@pytest.mark.parametrize("check", conformance_checks("rebasin-core", registry=BUILTIN), ids=str)
def test_law_holds(check: Check) -> None:
    check.run()


def test_every_family_has_laws() -> None:
    assert LAWS.keys() == HOOKS.keys()


def test_nothing_built_in_is_exempt_but_what_needs_torchvision() -> None:
    # tests/specs/operators/test_vision.py has the rules of torchvision's operators.
    assert [entry.name for entry in BUILTIN.all() if getattr(entry.kind, "exempt_laws", {})] == ["vision"]
