"""Means of predictive scores over posteriors and cells, as columns and as text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, TypeAlias, final

from rebasin_core.report.width import plain_table
from rebasin_core.studies.results.row import known

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rebasin_core.studies.results.row import Scalar
    from rebasin_core.studies.results.scores import ScoresRow

Cell: TypeAlias = "tuple[Scalar, ...]"

# Errors of a score, which are columns, but not shown in the text.
_ERRORS = frozenset({"nll_stderr", "nll_bias", "nll_data_stderr", "effective_samples"})


@final
@dataclass(frozen=True, slots=True)
class ScoreMean:
    """Mean of a score over the posteriors and cells of one group.

    Attributes:
        mean: The mean.
        stderr: Standard error of the mean over the posteriors, or over the cells if each has one posterior; NaN for
            fewer than two of them, or if values are missing.
        num_values: Number of values.
    """

    mean: float
    stderr: float
    num_values: int


@final
@dataclass(frozen=True, slots=True)
class ScoresGroup:
    """Means over the posteriors and cells of one group.

    Attributes:
        keys: Value of each column by which rows are grouped.
        means: Means by score, and of ``train_seconds``; a score that is unknown for a posterior is missing.
        num_cells: Number of cells.
        num_posteriors: Number of posteriors of different names (seeds).
    """

    keys: Mapping[str, Scalar]
    means: Mapping[str, ScoreMean]
    num_cells: int
    num_posteriors: int


@final
@dataclass(frozen=True, slots=True)
class ScoresTable:
    """Means of predictive scores by group.

    Attributes:
        names: Columns by which rows are grouped.
        groups: The groups.
    """

    names: tuple[str, ...]
    groups: tuple[ScoresGroup, ...]

    def columns(self) -> dict[str, list[Scalar]]:
        """Return the table by column, for a data frame: ``pandas.DataFrame(table.columns())``.

        Returns:
            The columns of the groups, for each score its mean and ``_mean_stderr``, ``num_cells`` and
            ``num_posteriors``. Unknown values are None. ``_score`` is appended to a score with the name of a factor.
        """
        found: dict[str, list[Scalar]] = {name: [group.keys[name] for group in self.groups] for name in self.names}
        for score in self._scores():
            means = [group.means.get(score) for group in self.groups]
            name = f"{score}_score" if score in self.names else score
            found[name] = [None if mean is None else mean.mean for mean in means]
            found[f"{name}_mean_stderr"] = [None if mean is None else known(mean.stderr) for mean in means]
        for count in ("num_cells", "num_posteriors"):
            found[count] = [getattr(group, count) for group in self.groups]
        return found

    def text(self, *, width: int | None = None) -> str:
        """Return the table as text.

        Args:
            width: Maximum number of characters per line; further columns continue in another table below. No limit if
                None.

        Returns:
            The table, after a line with the columns that have one value only; a note is below.
        """
        if not self.groups:
            return "There are no results yet."
        constant = {name for name in self.names if len({group.keys[name] for group in self.groups}) == 1}
        shown = [name for name in self.names if name not in constant] or [self.names[-1]]
        scores = [score for score in self._scores() if score not in _ERRORS]
        rows = [
            [
                *(_text(group.keys[name]) for name in shown),
                *(_with_error(group.means.get(score)) for score in scores),
                *(str(group.num_cells), str(group.num_posteriors)),
            ]
            for group in self.groups
        ]
        headings = [*(name.replace(".", ".\n") for name in shown), *(score.replace("_", "\n") for score in scores)]
        table = plain_table(
            rows,
            [*headings, "cells", "posteriors"],
            align=["left"] * len(shown) + ["right"] * (len(scores) + 2),
            width=width,
            repeated=len(shown),
        )
        first = self.groups[0].keys
        lines = [f"{name}: {_text(first[name])}" for name in self.names if name in constant and name not in shown]
        note = "±: standard error over posteriors, or over cells that have one posterior each."
        return "\n\n".join([*([", ".join(lines)] if lines else []), table, note])

    def _scores(self) -> list[str]:
        return list(dict.fromkeys(score for group in self.groups for score in group.means))


def grouped_scores(rows: Iterable[ScoresRow], names: Sequence[str]) -> ScoresTable:
    """Return the means of scores by group.

    Args:
        rows: The scores of the posteriors of a study.
        names: Factors and columns by which rows are grouped; among them the split.

    Returns:
        The table, in the order of the rows.
    """
    found: dict[Cell, list[ScoresRow]] = {}
    for row in rows:
        key = tuple(row.factors[name] if name in row.factors else getattr(row, name) for name in names)
        found.setdefault(key, []).append(row)
    return ScoresTable(
        tuple(names), tuple(_group(dict(zip(names, keys, strict=True)), part) for keys, part in found.items())
    )


def _group(keys: Mapping[str, Scalar], rows: Sequence[ScoresRow]) -> ScoresGroup:
    scores = dict.fromkeys(score for row in rows for score in row.scores)
    means = {score: _mean(rows, [row.scores.get(score, math.nan) for row in rows]) for score in scores}
    means["train_seconds"] = _mean(rows, [row.train_seconds for row in rows])
    return ScoresGroup(
        keys,
        {score: mean for score, mean in means.items() if mean is not None},
        num_cells=len({tuple(row.factors.values()) for row in rows}),
        num_posteriors=len({row.member for row in rows}),
    )


def _mean(rows: Sequence[ScoresRow], values: Sequence[float]) -> ScoreMean | None:
    """Return the mean of a score; None if it is unknown for a row."""
    if not all(map(math.isfinite, values)):
        return None
    by_cell: dict[Cell, list[float]] = {}
    by_member: dict[str, list[float]] = {}
    for row, value in zip(rows, values, strict=True):
        by_cell.setdefault(tuple(row.factors.values()), []).append(value)
        by_member.setdefault(row.member, []).append(value)
    # Networks of one seed in several cells may depend on each other: replicates are the means over the cells.
    replicates = [fmean(part) for part in (by_member if len(by_member) > 1 else by_cell).values()]
    is_complete = len(values) == len(by_cell) * len(by_member)
    stderr = stdev(replicates) / math.sqrt(len(replicates)) if is_complete and len(replicates) > 1 else math.nan
    return ScoreMean(fmean(values), stderr, len(values))


def _with_error(mean: ScoreMean | None) -> str:
    if mean is None:
        return "-"
    return f"{mean.mean:.4f}{'' if math.isnan(mean.stderr) else f' ± {mean.stderr:.4f}'}"


def _text(value: Scalar) -> str:
    return "-" if value is None else str(value)
