"""The graph of stages: which stages read which, and which remain to be computed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from rebasin_core.studies.stage import Stage


@final
class Graph:
    """Stages in an order in which each follows those that it reads. Equal stages are stored once."""

    def __init__(self) -> None:
        self._stages: dict[str, Stage] = {}

    def add(self, stage: Stage) -> Stage:
        """Add a stage whose inputs have been added before.

        Args:
            stage: The stage.

        Returns:
            The stage of this identity that was added first.

        Raises:
            KeyError: If a stage that it reads is missing.
        """
        found = self._stages.get(stage.id)
        if found is not None:
            return found
        for _, read in stage.reads:
            if read not in self._stages:
                raise KeyError(read)
        self._stages[stage.id] = stage
        return stage

    def __len__(self) -> int:
        """Return the number of stages."""
        return len(self._stages)

    def __iter__(self) -> Iterator[Stage]:
        """Iterate over the stages; each follows those that it reads."""
        return iter(self._stages.values())

    def __contains__(self, identity: object) -> bool:
        """Return whether there is a stage of an identity."""
        return identity in self._stages

    def __getitem__(self, identity: str) -> Stage:
        """Return the stage of an identity."""
        return self._stages[identity]

    def needed(self, targets: Iterable[str], stored: Collection[str]) -> list[Stage]:
        """Return the stages that must be computed to store all targets.

        A stage is needed if it is not stored, and is a target or is read by a needed stage. Inputs of stored stages are
        not needed, even if they have been removed from the store.

        Args:
            targets: Identities of the stages whose results are requested.
            stored: Identities of the stages with a stored result.

        Returns:
            The needed stages; each follows those that it reads.
        """
        open_ids = [target for target in targets if target not in stored]
        found = set(open_ids)
        while open_ids:
            for _, read in self._stages[open_ids.pop()].reads:
                if read not in found and read not in stored:
                    found.add(read)
                    open_ids.append(read)
        return [stage for identity, stage in self._stages.items() if identity in found]

    def dependents(self) -> Mapping[str, list[str]]:
        """Return the identities of the stages that read a stage, by its identity."""
        found: dict[str, list[str]] = {identity: [] for identity in self._stages}
        for stage in self:
            for read in dict.fromkeys(read for _, read in stage.reads):
                found[read].append(stage.id)
        return found

    def counts(self, stages: Iterable[Stage] | None = None) -> dict[str, int]:
        """Return the number of stages of each kind.

        Args:
            stages: The stages to count; all if None.

        Returns:
            Numbers by kind, in the order of the graph.
        """
        return dict(Counter(stage.kind for stage in (self if stages is None else stages)))
