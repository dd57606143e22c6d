"""The plan of a study: all stages of all cells, and the role of each curve."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple, final

from rebasin_core.config.study import UNALIGNED
from rebasin_core.errors import ConfigError
from rebasin_core.studies.graph import Graph
from rebasin_core.studies.planning.cell import CellPlan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rebasin_core.barriers.base import BarrierEstimator
    from rebasin_core.config.run import Split
    from rebasin_core.config.study import Cell, StudyConfig
    from rebasin_core.matchers.base import Matcher
    from rebasin_core.studies.planning.contents import Contents
    from rebasin_core.studies.stage import Stage


class PlannedPosterior(NamedTuple):
    """A posterior of a study.

    Attributes:
        cell: Index of the cell.
        member: Name of the posterior in the cell, such as its seed.
        stage: Identity of the stage.
    """

    cell: int
    member: str
    stage: str


class PlannedScores(NamedTuple):
    """The scores of a posterior.

    Attributes:
        cell: Index of the cell.
        member: Name of the posterior.
        split: Split of the dataset.
        stage: Identity of the stage.
    """

    cell: int
    member: str
    split: Split
    stage: str


class PlannedCurve(NamedTuple):
    """A loss curve of a study.

    Attributes:
        cell: Index of the cell.
        reference: Name of the reference.
        candidate: Name of the candidate.
        split: Split of the dataset.
        barrier: Label of the estimator.
        alignment: Label of the matcher, or ``unaligned``.
        stage: Identity of the stage.
        match: Identity of the stage of the match; empty for the unaligned curve.
    """

    cell: int
    reference: str
    candidate: str
    split: Split
    barrier: str
    alignment: str
    stage: str
    match: str


@final
class StudyPlan:
    """The stages of a study.

    Args:
        config: The configuration.
        contents: Digests of contents.
        only: Patterns of cell labels, such as ``*width=64*``; all cells if empty.

    Attributes:
        config: The configuration.
        graph: The graph of stages.
        cells: The cells, each with its plan.
        posteriors: All posteriors.
        scores: All scores.
        curves: All loss curves.

    Raises:
        ConfigError: If no cell matches the patterns, or a likelihood does not fit its dataset.
        RebasinError: If a dataset or file cannot be read.
    """

    def __init__(self, config: StudyConfig, contents: Contents, *, only: Sequence[str] = ()) -> None:
        self.config = config
        self.graph = Graph()
        self.cells: list[tuple[Cell, CellPlan]] = []
        self.posteriors: list[PlannedPosterior] = []
        self.scores: list[PlannedScores] = []
        self.curves: list[PlannedCurve] = []
        self._members = config.members
        self._pairs = config.pairs_of_members()
        self._means: dict[int, BarrierEstimator | None] = {}
        found = config.cells()
        chosen = [cell for cell in found if not only or any(fnmatchcase(cell.label, pattern) for pattern in only)]
        if not chosen:
            message = f"no cell matches {', '.join(map(repr, only))}; the first cell is ({found[0].label})"
            raise ConfigError(message)
        for cell in chosen:
            self.cells.append((cell, CellPlan(cell.config, self.graph, contents)))
            self._add_cell(len(self.cells) - 1)

    @property
    def targets(self) -> list[str]:
        """Identities of the stages whose results the study requests."""
        found = [result.stage for result in self.results]
        return list(dict.fromkeys([*found, *(curve.match for curve in self.curves if curve.match)]))

    @property
    def results(self) -> list[PlannedPosterior | PlannedScores | PlannedCurve]:
        """All posteriors, scores and curves."""
        return [*self.posteriors, *self.scores, *self.curves]

    def _add_cell(self, index: int) -> None:
        cell, plan = self.cells[index]
        stages: dict[str, Stage] = {}
        prefix = f"{cell.label}, " if cell.label else ""
        for name, source in self._members.items():
            stages[name] = plan.posterior(source, f"{prefix}{name}")
            self.posteriors.append(PlannedPosterior(index, name, stages[name].id))
            for split in cell.config.splits if self.config.scores else ():
                scores = plan.scores(split, stages[name], f"{prefix}{name}, {split}")
                self.scores.append(PlannedScores(index, name, split, scores.id))
        barriers = self._barriers(cell, plan)
        for reference, candidate in self._pairs if cell.has_pairs else ():
            self._add_pair(index, reference, candidate, stages, barriers)

    def _add_pair(
        self,
        index: int,
        reference: str,
        candidate: str,
        stages: Mapping[str, Stage],
        barriers: Mapping[str, BarrierEstimator],
    ) -> None:
        cell, plan = self.cells[index]
        pair = (stages[reference], stages[candidate])
        label = f"{cell.label}, {reference} and {candidate}".removeprefix(", ")
        matches: dict[str, Stage | None] = {UNALIGNED: None}
        for name, matcher in self._matchers(cell).items():
            matches[name] = plan.match(matcher, *pair, f"{label}, {name}")
        for barrier, estimator in barriers.items():
            for split in cell.config.splits:
                for alignment, match in matches.items():
                    text = f"{label}, {alignment}, {barrier}, {split}"
                    stage = plan.curve(estimator, split, *pair, match=match, label=text)
                    names = (reference, candidate, split, barrier, alignment)
                    self.curves.append(PlannedCurve(index, *names, stage.id, match.id if match is not None else ""))

    def _matchers(self, cell: Cell) -> Mapping[str, Matcher]:
        return self.config.matchers or {matcher.name: matcher for matcher in cell.config.matchers}

    def _barriers(self, cell: Cell, plan: CellPlan) -> dict[str, BarrierEstimator]:
        """Return the estimators, including those of the barriers between means of posteriors that are not points."""
        found: dict[str, BarrierEstimator] = {}
        are_points = all(plan.is_point(source) for source in self._members.values())
        for label, estimator in (self.config.barriers or {cell.config.barrier.name: cell.config.barrier}).items():
            found[label] = estimator
            if id(estimator) not in self._means:
                self._means[id(estimator)] = estimator.of_means()
            means = self._means[id(estimator)]
            if means is not None and not are_points:
                found[f"{label}_of_means"] = means
        return found
