"""The results of a study as rows, data frames, files and tables of means."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from rebasin_core.errors import InvalidInputError, PluginError, UnknownNameError, nearest
from rebasin_core.studies.results.row import COLUMNS, Row, Scalar
from rebasin_core.studies.results.scores_table import ScoresTable, grouped_scores
from rebasin_core.studies.results.table import Table, grouped
from rebasin_core.tensors.files import replacing, write_bytes
from rebasin_core.tensors.frames import data_frame

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from rebasin_core.studies.results.scores import ScoresRow

_GROUPED = ("split", "barrier", "alignment")
# Further columns by which rows can be grouped.
_NAMES = ("reference", "candidate")
_SYNONYMS = {"matcher": "alignment"}


@final
@dataclass(frozen=True, slots=True)
class Results:
    """Results of a study: one row per loss curve, and the scores of the posteriors.

    Attributes:
        rows: The rows.
        factors: Names of the factors; those of the first row if not given.
        scores: The predictive scores of each posterior on each split.
        missing: Number of stages that remain to be computed, by kind.
        notes: Caveats: failed stages and damaged results, results that were computed with different numbers of
            threads, devices or versions of PyTorch, and the notes of curves and scores.

    Raises:
        InvalidInputError: If rows have different factors, or two rows describe the same curve.
    """

    rows: tuple[Row, ...]
    factors: tuple[str, ...] = ()
    scores: tuple[ScoresRow, ...] = ()
    missing: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise if the rows do not belong to one study."""
        if self.rows and not self.factors:
            object.__setattr__(self, "factors", tuple(self.rows[0].factors))
        seen: set[tuple[object, ...]] = set()
        for row in self.rows:
            if tuple(row.factors) != self.factors:
                message = f"expected rows with the factors {list(self.factors)}, got {list(row.factors)}"
                raise InvalidInputError(message)
            names = (row.reference, row.candidate, row.split, row.barrier, row.alignment)
            key = (*row.factors.values(), *names)
            if key in seen:
                where = ", ".join(f"{name}={level}" for name, level in row.factors.items())
                message = f"expected different rows, got {names} twice{f' in the cell {where}' if where else ''}"
                raise InvalidInputError(message)
            seen.add(key)

    def columns(self) -> dict[str, list[Scalar]]:
        """Return the rows by column.

        Returns:
            The factors, then the attributes of `Row`. Unknown values are None. A factor whose levels have several
            types is text.
        """
        return self._columns([row.values() for row in self.rows], COLUMNS)

    def scores_columns(self) -> dict[str, list[Scalar]]:
        """Return the scores of the posteriors by column.

        Returns:
            The factors, ``member``, ``split``, the scores, ``seconds``, ``train_seconds``, ``threads``, ``device``,
            ``torch``, ``id`` and ``notes`` (`ScoresRow`). Unknown values are None. A factor whose levels have several
            types is text.
        """
        values = [row.values() for row in self.scores]
        return self._columns(values, tuple(dict.fromkeys(name for row in values for name in row)))

    def _columns(self, values: Sequence[Mapping[str, Scalar]], names: Sequence[str]) -> dict[str, list[Scalar]]:
        """Return rows by column; factors first."""
        every = dict.fromkeys((*self.factors, *names))
        found: dict[str, list[Scalar]] = {name: [row.get(name) for row in values] for name in every}
        return found | {name: _of_one_type(found[name]) for name in self.factors}

    def frame(self) -> pd.DataFrame:
        """Return the rows as a data frame.

        Returns:
            A pandas data frame with the columns of `columns`.

        Raises:
            PluginError: If pandas is not installed.
        """
        return data_frame(self.columns())

    def scores_frame(self) -> pd.DataFrame:
        """Return the scores of the posteriors as a data frame.

        Returns:
            A pandas data frame with the columns of `scores_columns`.

        Raises:
            PluginError: If pandas is not installed.
        """
        return data_frame(self.scores_columns())

    def to_csv(self, path: Path) -> None:
        """Write the rows as CSV; unknown values are empty.

        Args:
            path: The file. An existing file is replaced.

        Raises:
            StorageError: If the file cannot be written.
        """
        write_bytes(path, as_csv(self.columns()).encode())

    def scores_to_csv(self, path: Path) -> None:
        """Write the scores of the posteriors as CSV; unknown values are empty.

        Args:
            path: The file. An existing file is replaced.

        Raises:
            StorageError: If the file cannot be written.
        """
        write_bytes(path, as_csv(self.scores_columns()).encode())

    def to_parquet(self, path: Path) -> None:
        """Write the rows as Parquet; unknown values are null.

        Args:
            path: The file. An existing file is replaced.

        Raises:
            PluginError: If pyarrow is not installed.
            StorageError: If the file cannot be written.
        """
        try:
            import pyarrow as pa  # ruff: ignore[import-outside-top-level] - an extra
            from pyarrow import parquet  # ruff: ignore[import-outside-top-level] - an extra
        except ImportError as error:
            message = "Parquet files need pyarrow; install it with: pip install 'rebasin-core[frames]'"
            raise PluginError(message) from error
        with replacing(path) as temporary:
            parquet.write_table(pa.table(self.columns()), temporary)

    def group_by(self, *names: str) -> Table:
        """Return means over pairs, and over the cells that differ in other factors only.

        Rows of different splits, barriers and alignments measure different quantities and are never averaged. The error
        is the delete-one-network jackknife over names of posteriors (seeds), simultaneously in all cells of a group:
        networks of one seed in several cells may depend on each other (`rebasin_core.analysis.mean_over_cells`). A
        network that is in all pairs of a group, such as the reference of ``pairs: {against: 1}``, is fixed, and the
        error is conditional on it.

        Args:
            *names: Factors, ``split``, ``barrier``, ``alignment`` (or ``matcher``), ``reference`` or ``candidate``. The
                last part of a factor's name is enough if it is unambiguous: ``kl_weight`` for
                ``inference.kl_weight``. All factors if no name is given.

        Returns:
            The table of means, in the order of the rows.

        Raises:
            UnknownNameError: If a name is unknown or ambiguous.
        """
        resolved = self.resolved(*names) or list(self.factors)
        return grouped(self.rows, [*resolved, *(name for name in _GROUPED if name not in resolved)])

    def resolved(self, *names: str) -> list[str]:
        """Return the columns that names denote, as in `group_by`.

        Args:
            *names: The names.

        Returns:
            Each column once.

        Raises:
            UnknownNameError: If a name is unknown or ambiguous.
        """
        return list(dict.fromkeys(self._resolved(name, (*_GROUPED, *_NAMES)) for name in names))

    def scores_by(self, *names: str) -> ScoresTable:
        """Return mean scores of posteriors, over the posteriors and cells that differ in other factors only.

        The error is the standard error over posteriors of different names (seeds), of their means over the cells:
        networks of one seed in several cells may depend on each other. If each cell has one posterior, it is the
        standard error over the cells, such as those of several splits of a dataset.

        Args:
            *names: Factors, ``split`` or ``member``, as in `group_by`. All factors if no name is given.

        Returns:
            The table of means, in the order of the rows.

        Raises:
            UnknownNameError: If a name is unknown or ambiguous.
        """
        resolved = list(dict.fromkeys(self._resolved(name, ("split", "member")) for name in names))
        return grouped_scores(self.scores, list(dict.fromkeys([*(resolved or self.factors), "split"])))

    def _resolved(self, name: str, columns: Sequence[str]) -> str:
        """Return the factor or column that a name denotes."""
        if name in {*self.factors, *columns}:
            return name
        matching = [factor for factor in self.factors if factor.endswith(f".{name}")]
        if not matching and _SYNONYMS.get(name) in columns:
            return _SYNONYMS[name]
        if len(matching) > 1:
            message = f"the name {name!r} is ambiguous; expected one of {matching}"
            raise UnknownNameError(message)
        if not matching:
            known = [*self.factors, *columns, *(n for n, meaning in _SYNONYMS.items() if meaning in columns)]
            message = f"no factor or column {name!r} to group by; {nearest(name, known)}"
            raise UnknownNameError(message)
        return matching[0]


def as_csv(columns: dict[str, list[Scalar]]) -> str:
    """Return columns as CSV text.

    Args:
        columns: Values by column.

    Returns:
        The text; None is an empty cell.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return buffer.getvalue()


def _of_one_type(values: list[Scalar]) -> list[Scalar]:
    """Return values of one type: numbers, or else text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) > 1 and not kinds <= {int, float}:
        return [None if value is None else str(value) for value in values]
    return [float(value) if kinds == {int, float} and value is not None else value for value in values]
