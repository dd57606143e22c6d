"""The conformance kit: tests the laws of all interfaces on the registered classes.

Plugin authors run it on their package with `rebasin check PACKAGE`, or in their own tests:

    @pytest.mark.parametrize("check", conformance_checks("my-package"), ids=str)
    def test_conformance(check):
        check.run()
"""

from rebasin_core.testing.kit import Check, Verdict, conformance_checks, run_checks
from rebasin_core.testing.law import LAWS, Law, expect

__all__ = ["LAWS", "Check", "Law", "Verdict", "conformance_checks", "expect", "run_checks"]
