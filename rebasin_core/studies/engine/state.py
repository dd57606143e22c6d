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

    Attributes:
        stored: Identities of the stages with a stored result.
        needed: The stages that remain to be computed, by identity.
        blocked: Identities of the stages that depend on a failed one.
    """

    def __init__(self, graph: Graph, targets: Iterable[str], stored: set[str]) -> None:
        self._graph = graph
        self._dependents = graph.dependents()
        self._seconds: Mapping[str, float] = {}
        self._ranks: dict[str, float] = {}
        self.stored = stored
        self.needed: dict[str, Stage] = {}
        self._waiting: dict[str, set[str]] = {}
        self._ready: list[tuple[float, int, str]] = []
        # The entry of each ready stage in the heap; others are outdated.
        self._entries: dict[str, tuple[float, int, str]] = {}
        self._count = 0
        self._targets = tuple(targets)
        self.blocked: set[str] = set()

    def start(self, seconds: Mapping[str, float]) -> None:
        """Determine the needed stages and their order: those on the longest chains come first.

        Args:
            seconds: Expected seconds by identity; 1 if unknown.
        """
        self._seconds = seconds
        self._require_all(self._graph.needed(self._targets, self.stored))

    @property
    def has_ready(self) -> bool:
        """Whether a stage can be computed now."""
        return bool(self._entries)

    @property
    def is_finished(self) -> bool:
        """Whether no stage remains that can be computed."""
        return not self.needed

    def peek(self) -> Stage:
        """Return the next stage to compute."""
        while self._entries.get(self._ready[0][2]) != self._ready[0]:
            heapq.heappop(self._ready)
        return self.needed[self._ready[0][2]]

    def pop(self) -> Stage:
        """Return the next stage to compute, and remove it from the ready ones."""
        stage = self.peek()
        del self._entries[stage.id]
        return stage

    def push(self, stage: Stage) -> None:
        """Make a stage ready, again."""
        self._count += 1
        entry = self._entries[stage.id] = (-self._ranks[stage.id], self._count, stage.id)
        heapq.heappush(self._ready, entry)

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
        self._entries.pop(identity, None)
        self._waiting.pop(identity, None)
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
        self._require_all(stage for stage in self._graph.needed([culprit], self.stored) if stage.id not in self.needed)
        self._require(reader)

    def _require_all(self, stages: Iterable[Stage]) -> None:
        """Require stages; each follows those that it reads."""
        required = list(stages)
        for stage in reversed(required):
            after = max((self._ranks.get(other, 0.0) for other in self._dependents[stage.id]), default=0.0)
            self._ranks[stage.id] = after + self._seconds.get(stage.id, 1.0)
        for stage in required:
            self._require(stage)

    def _require(self, stage: Stage) -> None:
        self.needed[stage.id] = stage
        self.blocked.discard(stage.id)
        unmet = {read for _, read in stage.reads if read not in self.stored}
        if unmet:
            self._waiting[stage.id] = unmet
        else:
            self.push(stage)
