"""Tables no wider than a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tabulate import tabulate

if TYPE_CHECKING:
    from collections.abc import Sequence

# A column is not wrapped to fewer characters than this.
_NARROWEST = 12
_GAP = 2


def plain_table(
    rows: Sequence[Sequence[str]], headers: Sequence[str], *, align: Sequence[str] | None = None, width: int | None
) -> str:
    """Return a table as text, in several parts below each other where it would be too wide.

    Each part begins with the first column. A column that is too wide beside it, alone, is left as it is.

    Args:
        rows: The cells, one row a line.
        headers: The headings, which may have several lines.
        align: ``left`` or ``right`` for each column; all to the left if None.
        width: The number of characters on a line; None for no limit.

    Returns:
        The table; parts are separated by an empty line.
    """
    sides = ["left"] * len(headers) if align is None else list(align)

    def part(columns: Sequence[int]) -> str:
        chosen = [0, *columns] if columns else [0]
        return tabulate(
            [[row[index] for index in chosen] for row in rows],
            headers=[headers[index] for index in chosen],
            disable_numparse=True,
            colalign=[sides[index] for index in chosen] if rows else None,
        )

    parts: list[list[int]] = [[]]
    for column in range(1, len(headers)):
        if parts[-1] and width is not None and _width(part([*parts[-1], column])) > width:
            parts.append([])
        parts[-1].append(column)
    return "\n\n".join(part(columns) for columns in parts)


def wrapped_table(rows: Sequence[Sequence[str]], headers: Sequence[str], *, width: int | None) -> str:
    """Return a table as text, the last column wrapped where it would be too wide.

    Args:
        rows: The cells, one row a line.
        headers: The headings.
        width: The number of characters on a line; None for no limit.

    Returns:
        The table; as `plain_table` gives it where too little room is left for the last column.
    """
    table = tabulate(rows, headers, disable_numparse=True)
    if width is None or _width(table) <= width:
        return table
    room = width - _GAP - _width(tabulate([row[:-1] for row in rows], headers[:-1], disable_numparse=True))
    if room < _NARROWEST:
        return plain_table(rows, headers, width=width)
    return tabulate(rows, headers, disable_numparse=True, maxcolwidths=[*[None] * (len(headers) - 1), room])


def _width(text: str) -> int:
    return max(len(line) for line in text.splitlines())
