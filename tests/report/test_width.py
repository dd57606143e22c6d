"""Tables fit the terminal and keep all cells."""

from __future__ import annotations

import pytest
from tabulate import tabulate

from rebasin_core.report.width import plain_table, wrapped_table

HEADERS = ["alignment", "barrier\n(nats)", "at t", "end\nlosses"]
ROWS = [["unaligned", "0.1000", "0.50", "2.3648, 2.3204"], ["wasserstein", "0.0123", "0.40", "2.3648, 2.3204"]]
SIDES = ["left", "right", "right", "right"]


def widest(text: str) -> int:
    return max(len(line) for line in text.splitlines())


@pytest.mark.parametrize("width", [27, 30, 35, 40, 45, 200])
def test_columns_that_do_not_fit_continue_below(width: int) -> None:
    text = plain_table(ROWS, HEADERS, align=SIDES, width=width)
    assert widest(text) <= width
    parts = text.split("\n\n")
    for part in parts:
        lines = part.splitlines()
        assert lines[0].startswith("alignment")
        assert [line.split()[0] for line in lines[-2:]] == ["unaligned", "wasserstein"]
    for cell in ("0.1000", "0.0123", "0.50", "0.40", "barrier", "(nats)", "losses"):
        assert text.count(cell) == 1
    assert text.count("2.3648, 2.3204") == 2
    # Each part has as many columns as fit.
    assert (len(parts) == 1) == (width >= widest(plain_table(ROWS, HEADERS, align=SIDES, width=None)))


def test_a_table_that_fits_is_not_split() -> None:
    ordinary = tabulate(ROWS, HEADERS, disable_numparse=True, colalign=SIDES)
    assert plain_table(ROWS, HEADERS, align=SIDES, width=None) == ordinary
    assert plain_table(ROWS, HEADERS, align=SIDES, width=widest(ordinary)) == ordinary
    assert plain_table([["a"]], ["name"], width=2) == tabulate([["a"]], ["name"])
    assert plain_table([], HEADERS, width=None) == tabulate([], HEADERS)


def test_the_last_column_is_wrapped() -> None:
    rows = [["0.weight", "5x3x3x3", "units.0, 3, 3, 3"], ["4.weight", "2x180", "2, heads.0*units.0*inner.1*36"]]
    headers = ["tensor", "shape", "axes"]
    whole = wrapped_table(rows, headers, width=None)
    assert whole == tabulate(rows, headers, disable_numparse=True)
    text = wrapped_table(rows, headers, width=40)
    assert widest(text) <= 40
    assert "units.0, 3, 3, 3" in text
    start = text.splitlines()[0].index("axes")
    assert "".join(line[start:] for line in text.splitlines()[3:]).replace(" ", "") == rows[1][2].replace(" ", "")
    # Too little width remains for the last column: it continues below.
    assert wrapped_table(rows, headers, width=25) == plain_table(rows, headers, width=25)
    assert wrapped_table([], headers, width=10) == plain_table([], headers, width=10)
