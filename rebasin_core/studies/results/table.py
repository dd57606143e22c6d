"""Means of measures over pairs and cells, with jackknife errors, as columns and as text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, final

from rebasin_core.analysis.pairs import PairMean, mean_over_cells
from rebasin_core.config.study import UNALIGNED
from rebasin_core.report.width import plain_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from rebasin_core.studies.results.row import Row, Scalar

Cell: TypeAlias = "tuple[Scalar, ...]"
Pair: TypeAlias = "tuple[str, str]"
# With fewer networks, a network in all pairs is no reference, and there is no error.
_MIN_NETWORKS = 3

MEASURES: Mapping[str, Callable[[Row], float]] = {
    "height": lambda row: row.height,
    "interior_excess": lambda row: row.interior_excess,
    "endpoint_loss": lambda row: (row.reference_loss + row.candidate_loss) / 2,
    "midpoint_loss": lambda row: row.midpoint_loss,
    "midpoint_score": lambda row: row.midpoint_score,
    "distance": lambda row: row.distance,
}
"""Measures of a row."""

REDUCTION = "reduction"
"""The barrier of the unaligned pair minus that of the aligned pair."""


@final
@dataclass(frozen=True, slots=True)
class Group:
    """Means over the pairs and cells of one group.

    Attributes:
        keys: Value of each column by which rows are grouped.
        means: Means by measure: ``height``, ``reduction`` (of the height: unaligned minus aligned, on the same pairs),
            ``interior_excess``, ``endpoint_loss`` (mean of both endpoints), ``midpoint_loss``, ``midpoint_score`` and
            ``distance``. A measure that is unknown for a pair is missing.
        num_cells: Number of cells.
        num_pairs: Number of pairs, summed over the cells.
        num_networks: Number of different names of posteriors.
        fixed: Networks that are in all pairs; the errors are conditional on them.
        score_name: Name of the score.
    """

    keys: Mapping[str, Scalar]
    means: Mapping[str, PairMean]
    num_cells: int
    num_pairs: int
    num_networks: int
    fixed: tuple[str, ...]
    score_name: str


@final
@dataclass(frozen=True, slots=True)
class Table:
    """Means over pairs by group.

    Attributes:
        names: Columns by which rows are grouped.
        groups: The groups.
    """

    names: tuple[str, ...]
    groups: tuple[Group, ...]

    def columns(self, level: float = 0.95) -> dict[str, list[Scalar]]:
        """Return the table by column, for a data frame: ``pandas.DataFrame(table.columns())``.

        Args:
            level: Nominal coverage probability of the confidence intervals, in (0, 1).

        Returns:
            The columns of the groups, and for each measure its mean, ``_stderr``, ``_low`` and ``_high``. Unknown
            values are None.

        Raises:
            InvalidInputError: If the level is not in (0, 1).
        """
        found: dict[str, list[Scalar]] = {name: [group.keys[name] for group in self.groups] for name in self.names}
        for measure in (*MEASURES, REDUCTION):
            if not any(measure in group.means for group in self.groups):
                continue
            means = [group.means.get(measure) for group in self.groups]
            found[measure] = [None if mean is None else mean.mean for mean in means]
            found[f"{measure}_stderr"] = [None if mean is None else _known(mean.stderr) for mean in means]
            intervals = [(math.nan, math.nan) if mean is None else mean.interval(level) for mean in means]
            found[f"{measure}_low"] = [_known(low) for low, _ in intervals]
            found[f"{measure}_high"] = [_known(high) for _, high in intervals]
        for count in ("num_cells", "num_pairs", "num_networks"):
            found[count] = [getattr(group, count) for group in self.groups]
        return found

    def where(self, /, **values: Scalar) -> Table:
        """Return the groups with certain values.

        Args:
            **values: Value by column.

        Returns:
            The table of these groups.
        """
        groups = [g for g in self.groups if all(g.keys[name] == value for name, value in values.items())]
        return Table(self.names, tuple(groups))

    def text(self, *, width: int | None = None) -> str:
        """Return the table as text.

        Args:
            width: Maximum number of characters per line; further columns continue in another table below. No limit if
                None.

        Returns:
            The table, after a line with the columns that have one value only; notes are below.
        """
        if not self.groups:
            return "There are no results yet."
        constant = {name for name in self.names if len({group.keys[name] for group in self.groups}) == 1}
        shown = [name for name in self.names if name not in constant] or [self.names[-1]]
        rows = [[*(_text(group.keys[name]) for name in shown), *_cells(group)] for group in self.groups]
        headings = [*(name.replace(".", ".\n") for name in shown), *_headings(self.groups)]
        kept = [i for i in range(len(headings)) if i < len(shown) or any(row[i] != "-" for row in rows)]
        first = self.groups[0].keys
        lines = [f"{name}: {_text(first[name])}" for name in self.names if name in constant and name not in shown]
        table = plain_table(
            [[row[i] for i in kept] for row in rows],
            [headings[i] for i in kept],
            align=["left" if i < len(shown) else "right" for i in kept],
            width=width,
            repeated=len(shown),
        )
        return "\n\n".join([*([", ".join(lines)] if lines else []), table, *self._notes()])

    def _notes(self) -> list[str]:
        notes = ["±: jackknife standard error over networks; interval: 95 %, Student's t."]
        fixed = sorted({name for group in self.groups for name in group.fixed})
        if fixed:
            notes.append(f"Errors are conditional on the network {', '.join(fixed)}, which is in all pairs.")
        if any(math.isnan(mean.stderr) for group in self.groups for mean in group.means.values()):
            notes.append("No error is given for groups with fewer than three networks, or with missing pairs.")
        return ["\n".join(notes)]


def grouped(rows: Iterable[Row], names: Sequence[str]) -> Table:
    """Return the means of rows by group.

    Args:
        rows: The rows of a study.
        names: Factors and columns by which rows are grouped; among them split, barrier and alignment.

    Returns:
        The table, in the order of the rows.
    """
    found: dict[tuple[Scalar, ...], list[Row]] = {}
    unaligned: dict[tuple[object, ...], float] = {}
    for row in rows:
        found.setdefault(tuple(_key(row, name) for name in names), []).append(row)
        if row.alignment == UNALIGNED:
            unaligned[_curve_of(row)] = row.height
    groups = [_group(dict(zip(names, keys, strict=True)), part, unaligned) for keys, part in found.items()]
    return Table(tuple(names), tuple(groups))


def _group(keys: Mapping[str, Scalar], rows: Sequence[Row], unaligned: Mapping[tuple[object, ...], float]) -> Group:
    pairs = [{row.reference, row.candidate} for row in rows]
    networks = sorted(set.union(*pairs))
    fixed = tuple(sorted(set.intersection(*pairs))) if len(networks) >= _MIN_NETWORKS else ()
    score_names = {row.score_name for row in rows}
    measures: dict[str, Callable[[Row], float]] = dict(MEASURES)
    if len(score_names) > 1:
        del measures["midpoint_score"]
    means = {name: _mean(rows, measure, fixed) for name, measure in measures.items()}
    if keys["alignment"] != UNALIGNED:
        means[REDUCTION] = _mean(rows, lambda row: unaligned.get(_curve_of(row), math.nan) - row.height, fixed)
    return Group(
        keys,
        {name: mean for name, mean in means.items() if mean is not None},
        num_cells=len({tuple(row.factors.values()) for row in rows}),
        num_pairs=len(rows),
        num_networks=len(networks),
        fixed=fixed,
        score_name=score_names.pop() if len(score_names) == 1 else "",
    )


def _mean(rows: Sequence[Row], measure: Callable[[Row], float], fixed: Sequence[str]) -> PairMean | None:
    """Return the mean of a measure; None if it is unknown for a row."""
    cells: dict[Cell, dict[Pair, float]] = {}
    for row in rows:
        value = measure(row)
        if not math.isfinite(value):
            return None
        cells.setdefault(tuple(row.factors.values()), {})[row.reference, row.candidate] = value
    return mean_over_cells(list(cells.values()), fixed=fixed)


def _key(row: Row, name: str) -> Scalar:
    value: Scalar = row.factors[name] if name in row.factors else getattr(row, name)
    return value


def _curve_of(row: Row) -> tuple[object, ...]:
    """Return the columns that identify the pair of a row, without the alignment."""
    return (*row.factors.values(), row.split, row.barrier, row.reference, row.candidate)


def _headings(groups: Sequence[Group]) -> list[str]:
    scores = {group.score_name.replace("_", " ") for group in groups}
    score = scores.pop() if len(scores) == 1 else "score"
    return [
        "barrier",
        "interval",
        "reduction",
        "interior\nexcess",
        "endpoint\nloss",
        "loss at\nt = 0.5",
        f"{score}\nat t = 0.5",
        "W2\ndistance",
        "cells",
        "pairs",
        "networks",
    ]


def _cells(group: Group) -> list[str]:
    height = group.means.get("height")
    low, high = height.interval() if height is not None else (math.nan, math.nan)
    shown = [_with_error(height), "-" if math.isnan(low) else f"[{low:.4f}, {high:.4f}]"]
    shown += [_with_error(group.means.get(REDUCTION), sign="+")]
    shown += [_with_error(group.means.get("interior_excess"), sign="+")]
    for measure in ("endpoint_loss", "midpoint_loss", "midpoint_score", "distance"):
        mean = group.means.get(measure)
        shown.append("-" if mean is None else f"{mean.mean:.4f}")
    return [*shown, str(group.num_cells), str(group.num_pairs), str(group.num_networks)]


def _with_error(mean: PairMean | None, sign: str = "-") -> str:
    if mean is None:
        return "-"
    error = "" if math.isnan(mean.stderr) else f" ± {mean.stderr:.4f}"
    return f"{mean.mean:{sign}.4f}{error}"


def _text(value: Scalar) -> str:
    return "-" if value is None else str(value)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
