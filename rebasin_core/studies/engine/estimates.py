"""Expected durations of stages, from the durations of similar stages in the store."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from statistics import fmean
from typing import TYPE_CHECKING, final

from rebasin_core.studies.stage import without
from rebasin_core.tensors.digests import canonical_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rebasin_core.studies.stage import Stage
    from rebasin_core.studies.store import Store

# Reading more records of a large store costs more time than a better estimate saves.
_MAX_READ = 300


@final
class Estimates:
    """Mean durations of stored stages with the same options (except seeds), or else of the same kind.

    Args:
        store: The store, of which up to 300 records are read.
        ids: Identities of all stored results.
    """

    def __init__(self, store: Store, ids: Iterable[str]) -> None:
        by_options: dict[str, list[float]] = defaultdict(list)
        by_kind: dict[str, list[float]] = defaultdict(list)
        listed = sorted(ids)
        for artifact in store.read_many(listed[:: max(1, len(listed) // _MAX_READ)][:_MAX_READ]).values():
            seconds = artifact.about.get("seconds")
            if isinstance(seconds, int | float) and seconds >= 0:
                options = canonical_json({k: v for k, v in artifact.stage["options"].items() if k != "seed"})
                by_options[_key(artifact.kind, options)].append(seconds)
                by_kind[artifact.kind].append(seconds)
        self._by_options = {key: fmean(values) for key, values in by_options.items()}
        self._by_kind = {kind: fmean(values) for kind, values in by_kind.items()}
        self._keys: dict[tuple[str, str], str] = {}

    def seconds(self, stage: Stage) -> float | None:
        """Return the expected duration of a stage.

        Args:
            stage: The stage.

        Returns:
            Seconds; None if no stage of its kind is stored.
        """
        texts = (stage.kind, stage.options)
        if texts not in self._keys:
            self._keys[texts] = _key(stage.kind, without(stage.options, "seed"))
        return self._by_options.get(self._keys[texts], self._by_kind.get(stage.kind))


def _key(kind: str, options: str) -> str:
    return f"{kind} {hashlib.sha256(options.encode()).hexdigest()}"
