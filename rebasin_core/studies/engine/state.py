"""Which stages are ready, waiting or stored, while a plan is computed."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rebasin_core.studies.graph import Graph
    from rebasin_core.studies.stage import Stage


@final
class Progress:
    """The stages that remain to be computed.

    Args:
        graph: The graph of stages.
        targets: Identities of the stages whose results are requested.
        stored: Identities of the stages with a stored result; changed.
        seconds: Expected seconds of each needed stage by identity; those on the longest chains come first.
    """

    def __init__(self, graph: Graph, targets: Iterable[str], stored: set[str]) -> None:
        self._graph = graph
        self._dependents = graph.dependents()
        self._ranks: dict[str, float] = {}
        self.stored = stored
        self.needed: dict[str, Stage] = {}
        self._waiting: dict[str, set[str]] = {}
        self._ready: list[tuple[float, int, str]] = []
        self._count = 0
        self._targets = tuple(targets)
        self.blocked: set[str] = set()

    def start(self, seconds: Mapping[str, float]) -> None:
        """Determine the needed stages and their order.

        Args:
            seconds: Expected seconds by kind.
        """
        needed = self._graph.needed(self._targets, self.stored)
        for stage in reversed(needed):
            after = max((self._ranks.get(other, 0.0) for other in self._dependents[stage.id]), default=0.0)
            self._ranks[stage.id] = after + seconds.get(stage.id, 1.0)
        for stage in needed:
            self._require(stage)

    @property
    def has_ready(self) -> bool:
        """Whether a stage can be computed now."""
        return bool(self._ready)

    @property
    def is_finished(self) -> bool:
        """Whether no stage remains that can be computed."""
        return not self.needed

    def pop(self) -> Stage:
        """Return the next stage to compute, and remove it from the ready ones."""
        return self.needed[heapq.heappop(self._ready)[2]]

    def push(self, stage: Stage) -> None:
        """Make a stage ready, again."""
        self._count += 1
        heapq.heappush(self._ready, (-self._ranks.get(stage.id, 0.0), self._count, stage.id))

    def finish(self, identity: str) -> None:
        """Record that the result of a stage is stored, and make the stages ready that waited for it only."""
        self.needed.pop(identity, None)
        self.stored.add(identity)
        for dependent in self._dependents[identity]:
            unmet = self._waiting.get(dependent)
            if unmet is not None:
                unmet.discard(identity)
                if not unmet:
                    del self._waiting[dependent]
                    self.push(self.needed[dependent])

    def fail(self, identity: str) -> None:
        """Record that a stage, and those that depend on it, cannot be computed."""
        self.needed.pop(identity, None)
        remaining = list(self._dependents[identity])
        while remaining:
            dependent = remaining.pop()
            if dependent in self._waiting:
                del self._waiting[dependent]
                del self.needed[dependent]
                self.blocked.add(dependent)
                remaining.extend(self._dependents[dependent])

    def recompute(self, culprit: str, reader: Stage) -> None:
        """Compute a stage again whose stored result is missing or damaged, and then the stage that reads it.

        Args:
            culprit: Identity of the stage with the damaged result.
            reader: The stage that could not read it; not ready.
        """
        self.stored.discard(culprit)
        for stage in self._graph.needed([culprit], self.stored):
            if stage.id not in self.needed:
                self._require(stage)
        self._require(reader)

    def _require(self, stage: Stage) -> None:
        self.needed[stage.id] = stage
        unmet = {read for _, read in stage.reads if read not in self.stored}
        if unmet:
            self._waiting[stage.id] = unmet
        else:
            self.push(stage)
