"""Caveats of the results of a study: failed stages, unequal circumstances, and the notes of its curves."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from rebasin_core.studies.stage import Stage
    from rebasin_core.studies.store import Artifact

# These change the last digits of results, but are not part of the identity of a stage.
_CIRCUMSTANCES = {"threads": "numbers of threads", "device": "devices", "torch": "versions of PyTorch"}
_NUMBER = re.compile(r"\d[\d.]*(e[+-]?\d+)?")


def circumstances(artifacts: Iterable[Artifact]) -> list[str]:
    """Return notes on results that were computed under different circumstances.

    Args:
        artifacts: The results.

    Returns:
        One sentence each for threads, devices and versions of PyTorch that are not equal.
    """
    counts: dict[str, Counter[str]] = {name: Counter() for name in _CIRCUMSTANCES}
    for artifact in artifacts:
        for name, found in counts.items():
            found[str(artifact.about.get(name, "unknown"))] += 1
    return [
        f"Results were computed with different {_CIRCUMSTANCES[name]}: {_listed(found)}. They can differ by rounding."
        for name, found in counts.items()
        if len(found) > 1
    ]


def failed(failures: Mapping[str, Any], needed: Sequence[Stage]) -> list[str]:
    """Return a note on stages that failed.

    Args:
        failures: Recorded failures of the store, by identity of the stage.
        needed: The stages that remain to be computed.

    Returns:
        One sentence, or none.
    """
    own = [stage for stage in needed if stage.id in failures]
    if not own:
        return []
    stage = own[0]
    document = failures[stage.id]
    error, message = (document.get("error"), document.get("message")) if isinstance(document, dict) else ("unknown", "")
    count = "1 stage failed:" if len(own) == 1 else f"{len(own)} stages failed; the first:"
    return [f"{count} {stage.short}: {error}: {message}"]


def damaged(identities: Collection[str]) -> list[str]:
    """Return a note on stored results that cannot be read.

    Args:
        identities: Identities of their stages.

    Returns:
        One sentence, or none.
    """
    if not identities:
        return []
    count = "1 stored result is" if len(identities) == 1 else f"{len(identities)} stored results are"
    return [f"{count} damaged and not included, such as {min(identities)}; the study computes them again."]


def caveats(notes: Sequence[Sequence[str]], subject: str) -> list[str]:
    """Return the notes of curves or scores, each once, with the number of those that have it.

    Args:
        notes: The notes of each curve.
        subject: ``curves`` or ``scores``.

    Returns:
        One sentence for each note; notes that differ in numbers only are represented by the first one.
    """
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for note in (note for own in notes for note in own):
        key = _NUMBER.sub("#", note)
        first.setdefault(key, note)
        counts[key] += 1
    return [f"{counts[key]} of {len(notes)} {subject}, for example: {note}." for key, note in first.items()]


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} ({count} results)" for name, count in counts.most_common())
