"""The report of an alignment of two checkpoints, as text and as JSON."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from rebasin_core.report.width import plain_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rebasin_core.analysis.distances import Distance, NetworkDistances
    from rebasin_core.api.checkpoints.verdict import Verdict
    from rebasin_core.checkpoints.function_check import FunctionDifference
    from rebasin_core.evaluation.effect import AlignmentEffect
    from rebasin_core.matchers.base import MatchResult

_NUMBER = re.compile(r"(?<![^.@])\d+(?![^.@])")
_MAX_ROWS = 30
_MAX_COPIED = 6
_NONE = "-"


@final
@dataclass(frozen=True, eq=False, slots=True)
class AlignmentFigures:
    """The figures of a report; see `CheckpointAlignment`.

    Attributes:
        result: Result of the matcher.
        distances: Distances between the networks.
        chance: Distances between a shuffled copy of the reference and the candidate; None if not computed.
        function: Difference between the outputs of the candidate and of the aligned candidate; None if not computed.
        effect: Loss at the midpoint before and after alignment; None without data.
        verdict: Meaning of the alignment.
        copied: Shapes of large tensors that the model does not have, and that outputs contain unchanged.
        rows: Numbers of rows that both vocabularies have, by the tensors of which only these are compared.
    """

    result: MatchResult
    distances: NetworkDistances
    chance: NetworkDistances | None
    function: FunctionDifference | None
    effect: AlignmentEffect | None
    verdict: Verdict
    copied: Mapping[str, tuple[int, ...]]
    rows: Mapping[str, int]

    def units(self, groups: Iterable[str]) -> list[str]:
        """Return the number of units and of permuted units of some groups, as text."""
        layout = self.result.permutation.layout
        names = list(groups)
        total = sum(math.prod(layout.index_shape(name)) for name in names)
        return [str(total), str(sum(self.result.permutation.moved[name] for name in names))]


def alignment_report(found: AlignmentFigures, *, full: bool = False, width: int | None = None) -> str:
    """Return a report for people: distances before and after alignment, in all and by group, and the verdict.

    Args:
        found: The alignment.
        full: Whether to list every group; otherwise groups whose names differ only in numbers are one row.
        width: Maximum number of characters per line of the table; no limit if None.

    Returns:
        Several lines.
    """
    chance = found.chance
    layout = found.result.permutation.layout
    rows = [
        ["all tensors", *_distances(found.distances.total, None if chance is None else chance.total)],
        ["permuted tensors", *_distances(found.distances.permuted, None if chance is None else chance.permuted)],
    ]
    rows = [[row[0], *found.units(layout.groups), *row[1:]] for row in rows]
    labels = _labels(layout.groups, full=full)
    for label, groups in labels.items():
        total = _of_groups(found.distances, groups)
        by_chance = None if chance is None else _of_groups(chance, groups)
        rows.append([label, *found.units(groups), *_distances(total, by_chance)])
    shown = rows if full else rows[:_MAX_ROWS]
    headers = ["", "units", "permuted", "distance\nbefore", "distance\nafter", "distance\nby chance"]
    lines = [plain_table(shown, headers, align=["left", *["right"] * 5], width=width)]
    if len(shown) < len(rows):
        lines.append(f"... {len(rows) - len(shown)} more rows of groups")
    return "\n".join([*lines, "", *_sentences(found)])


def alignment_record(found: AlignmentFigures) -> dict[str, Any]:
    """Return all figures of an alignment as JSON values.

    Args:
        found: The alignment.

    Returns:
        A mapping; NaN is None.
    """
    verdict = found.verdict
    function = found.function
    layout = found.result.permutation.layout
    record: dict[str, Any] = {
        "relation": verdict.relation.name.lower(),
        "verdict": str(verdict),
        "share_permuted": verdict.permuted,
        "excess_before": verdict.excess_before,
        "excess_after": verdict.excess_after,
        "coverage": found.distances.coverage,
        "outcome": found.result.outcome.name.lower(),
        "sweeps": found.result.sweeps,
        "total": _record(found.distances.total),
        "permuted": _record(found.distances.permuted),
        "by_chance": None if found.chance is None else _record(found.chance.permuted),
        "groups": {
            name: {
                "units": math.prod(layout.index_shape(name)),
                "permuted": found.result.permutation.moved[name],
                **_record(found.distances.of_group(name)),
            }
            for name in layout.groups
        },
        "function": None,
        "midpoint": None if found.effect is None else _effect_record(found.effect),
        "rows": dict(found.rows),
        "copied": {name: list(shape) for name, shape in found.copied.items()},
    }
    if function is not None:
        record["function"] = {
            "kept": function.is_kept,
            "error": _finite(function.error),
            "tolerance": _finite(function.tolerance),
            "dtype": str(function.dtype).removeprefix("torch."),
            "reason": function.reason,
        }
    return record


def _labels(groups: Mapping[str, object], *, full: bool) -> dict[str, list[str]]:
    """Return the groups of each row."""
    found: dict[str, list[str]] = {}
    for name in groups:
        found.setdefault(name if full else _NUMBER.sub("*", name), []).append(name)
    return {label if len(names) == 1 else f"{label} (x{len(names)})": names for label, names in found.items()}


def _of_groups(distances: NetworkDistances, groups: list[str]) -> Distance:
    return distances.of(dict.fromkeys(name for group in groups for name in distances.groups[group]))


def _distances(distance: Distance, by_chance: Distance | None) -> list[str]:
    chance = _NONE if by_chance is None else f"{by_chance.aligned:.4f}"
    return [f"{distance.unaligned:.4f}", f"{distance.aligned:.4f}", chance]


def _sentences(found: AlignmentFigures) -> list[str]:
    distances = found.distances
    scale = "0 for equal, 1.41 for unrelated networks"
    lines = [
        f"Distance: norm of the difference, relative to the root mean square of both norms; {scale}.",
        f"Symmetry explains {distances.total.explained:.1%} of the squared distance.",
        f"The specification permutes tensors with {distances.coverage:.1%} of all parameters.",
        f"Matching: {found.result.outcome.value}; {_counted(found.result.sweeps, 'sweep')}.",
    ]
    if found.function is not None:
        lines.append(f"Check: {found.function}.")
    if found.effect is not None:
        lines.append(f"Data: {found.effect}.")
    if found.rows:
        counts = ", ".join(f"`{name}` ({count})" for name, count in found.rows.items())
        lines.append(f"Only rows that both networks have are compared: {counts}. Each network keeps its other rows.")
    if found.copied:
        names = [f"`{name}` {[*shape]}" for name, shape in found.copied.items()]
        more = f" and {len(names) - _MAX_COPIED} more" if len(names) > _MAX_COPIED else ""
        lines.append(
            f"Copied unchanged, because the model does not have them: {', '.join(names[:_MAX_COPIED])}{more}. "
            "If such weights act on permuted units, the output is wrong; use a model that contains them."
        )
    return [*lines, f"Verdict: {found.verdict}."]


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _record(distance: Distance) -> dict[str, Any]:
    return {
        "size": distance.size,
        "distance_before": _finite(distance.unaligned),
        "distance_after": _finite(distance.aligned),
        "cosine_before": _finite(distance.cosine_before),
        "cosine_after": _finite(distance.cosine_after),
        "explained": _finite(distance.explained),
    }


def _effect_record(effect: AlignmentEffect) -> dict[str, Any]:
    return {
        name: _finite(value) if isinstance(value, float) else value
        for name, value in dataclasses.asdict(effect).items()
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
