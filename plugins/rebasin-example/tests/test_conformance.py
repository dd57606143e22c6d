"""Run the conformance kit of rebasin_core on the classes of this package."""

from __future__ import annotations

import pytest

from rebasin_core.testing import Check, conformance_checks


@pytest.mark.parametrize("check", conformance_checks("rebasin-example"), ids=str)
def test_law_holds(check: Check) -> None:
    check.run()
