"""Text tables that fit the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tabulate import tabulate

if TYPE_CHECKING:
    from collections.abc import Sequence

# Minimum width of a wrapped column.
_MIN_WIDTH = 12
_GAP = 2


def plain_table(
    rows: Sequence[Sequence[str]],
    headers: Sequence[str],
    *,
    align: Sequence[str] | None = None,
    width: int | None,
    repeated: int = 1,
) -> str:
    """Return a table as text, split into several tables below each other if it is too wide.

    Each part repeats the first columns. A single column that does not fit next to them exceeds the width.

    Args:
        rows: Cells of each row.
        headers: Headings, which can have several lines.
        align: ``left`` or ``right`` for each column; all left if None.
        width: Maximum number of characters per line; None for no limit.
        repeated: Number of columns that are repeated in each part.

    Returns:
        The table; parts are separated by an empty line.
    """
    sides = ["left"] * len(headers) if align is None else list(align)

    def part(columns: Sequence[int]) -> str:
        chosen = [*range(repeated), *columns]
        return tabulate(
            [[row[index] for index in chosen] for row in rows],
            headers=[headers[index] for index in chosen],
            disable_numparse=True,
            colalign=[sides[index] for index in chosen] if rows else None,
        )

    parts: list[list[int]] = [[]]
    for column in range(repeated, len(headers)):
        if parts[-1] and width is not None and _width(part([*parts[-1], column])) > width:
            parts.append([])
        parts[-1].append(column)
    return "\n\n".join(part(columns) for columns in parts)


def wrapped_table(rows: Sequence[Sequence[str]], headers: Sequence[str], *, width: int | None) -> str:
    """Return a table as text, with the last column wrapped if the table is too wide.

    Args:
        rows: Cells of each row.
        headers: Headings.
        width: Maximum number of characters per line; None for no limit.

    Returns:
        The table. If fewer than 12 characters remain for the last column, the result of `plain_table`.
    """
    table = tabulate(rows, headers, disable_numparse=True)
    if width is None or _width(table) <= width:
        return table
    remaining = width - _GAP - _width(tabulate([row[:-1] for row in rows], headers[:-1], disable_numparse=True))
    if remaining < _MIN_WIDTH:
        return plain_table(rows, headers, width=width)
    return tabulate(rows, headers, disable_numparse=True, maxcolwidths=[*[None] * (len(headers) - 1), remaining])


def _width(text: str) -> int:
    return max(len(line) for line in text.splitlines())
