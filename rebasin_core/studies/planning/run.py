"""The plan of a run: two posteriors, one match per matcher, and the curves before and after."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, final

from rebasin_core.config.study import UNALIGNED
from rebasin_core.studies.graph import Graph
from rebasin_core.studies.kinds.report import ReportWork
from rebasin_core.studies.kinds.summary import SummaryWork
from rebasin_core.studies.planning.cell import CellPlan, Prepared

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rebasin_core.config.run import RunConfig
    from rebasin_core.studies.planning.contents import Contents
    from rebasin_core.studies.stage import Stage


@final
class RunPlan:
    """The stages of a run, each with its role.

    Args:
        config: The configuration.
        contents: Digests of contents.
        report: Whether the report is part of the run.

    Attributes:
        config: The configuration.
        graph: The graph of stages.
        cell: The plan of the run's only cell.
        roles: The stage of each role: ``posterior/ROLE``, ``match/NAME``, ``similarities/NAME``,
            ``curve/SPLIT/LABEL``, ``means/SPLIT/LABEL``, ``scores/SPLIT/ROLE``, ``summary`` and ``report``.

    Raises:
        RebasinError: If the dataset or a file cannot be read, or the likelihood does not fit the dataset.
    """

    def __init__(self, config: RunConfig, contents: Contents, *, report: bool = False) -> None:
        self.config = config
        self.graph = Graph()
        self.cell = CellPlan(config, self.graph, contents)
        self.roles: dict[str, Stage] = {
            "posterior/reference": self.cell.posterior(config.reference, "reference"),
            "posterior/candidate": self.cell.posterior(config.candidate, "candidate"),
        }
        for matcher in config.matchers:
            match = self.roles[f"match/{matcher.name}"] = self.cell.match(matcher, *self._pair, matcher.name)
            similarities = self.cell.similarities(match, *self._pair, matcher.name)
            self.roles[f"similarities/{matcher.name}"] = similarities
        self._add_curves()
        self._add_scores()
        self._add_summary(contents)
        if report:
            work = ReportWork(config=json.loads(config.canonical_json()))
            self._add("report", Prepared(work, contents).stage("report", reads=self.roles))

    @property
    def has_means(self) -> bool:
        """Whether the barriers between the means of the posteriors are estimated as well."""
        return any(role.startswith("means/") for role in self.roles)

    @property
    def inputs(self) -> Mapping[str, str]:
        """Digests of the contents that the run reads, by the label of the stage and the name of the content."""
        return {f"{stage.label}: {name}": digest for stage in self.graph for name, digest in stage.inputs}

    @property
    def _pair(self) -> tuple[Stage, Stage]:
        return self.roles["posterior/reference"], self.roles["posterior/candidate"]

    def _add(self, role: str, stage: Stage) -> None:
        self.roles[role] = self.graph.add(stage)

    def _add_curves(self) -> None:
        config = self.config
        estimators = {"curve": config.barrier}
        means = config.barrier.of_means()
        sources = (config.reference, config.candidate)
        if means is not None and not all(self.cell.is_point(source) for source in sources):
            estimators["means"] = means
        for split in config.splits:
            for kind, estimator in estimators.items():
                for label in (UNALIGNED, *(matcher.name for matcher in config.matchers)):
                    role = f"{kind}/{split}/{label}"
                    match = self.roles.get(f"match/{label}")
                    text = role.removeprefix("curve/")
                    self._add(role, self.cell.curve(estimator, split, *self._pair, match=match, label=text))

    def _add_scores(self) -> None:
        for split in self.config.splits:
            for name, stage in zip(("reference", "candidate"), self._pair, strict=True):
                role = f"scores/{split}/{name}"
                self._add(role, self.cell.scores(split, stage, f"{split}/{name}"))

    def _add_summary(self, contents: Contents) -> None:
        config = self.config
        matchers = tuple(matcher.name for matcher in config.matchers)
        work = SummaryWork(splits=config.splits, matchers=matchers, means=self.has_means)
        read = {
            role: stage for role, stage in self.roles.items() if role.partition("/")[0] in {"match", "curve", "means"}
        }
        self._add("summary", Prepared(work, contents).stage("summary", reads=read))
