"""The conformance kit of rebasin_core, on everything that this package registers."""

from __future__ import annotations

import pytest

from rebasin_core.testing import Check, conformance_checks


@pytest.mark.parametrize("check", conformance_checks("rebasin-example"), ids=str)
def test_law_holds(check: Check) -> None:
    check.run()
