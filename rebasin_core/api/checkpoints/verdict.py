"""The meaning of an alignment of two checkpoints, in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, final

from typing_extensions import override

if TYPE_CHECKING:
    from rebasin_core.analysis.distances import NetworkDistances
    from rebasin_core.symmetry.permutation import Permutation

# The limits separate 21 published families of networks from copies with known permutations and noise, fine-tuned
# copies and untrained networks; see `docs/results/checkpoints.md`.
_RELATED = 0.85
_BETTER_THAN_CHANCE = 0.03
_ALIGNED_BEFORE = 0.9
_PARTLY_ALIGNED_BEFORE = 0.3


@final
class Relation(Enum):
    """How two networks are related, according to their weights before and after alignment."""

    EQUAL = "equal: the candidate is the reference, up to a permutation of its units"
    ALREADY_ALIGNED = "already aligned: the networks have a common origin, and their units are in the same order"
    PARTLY_ALIGNED = (
        "partly aligned: the networks have a common origin, such as the same initialization, and a part of their units "
        "is in the same order"
    )
    RELATED = "related: after alignment the weights are similar, so the networks have a common origin"
    INDEPENDENT = (
        "better than chance: alignment finds corresponding units, but the weights remain different, as for networks "
        "that were trained independently"
    )
    CHANCE = "no better than chance: alignment with a shuffled copy of the reference is as good"
    UNKNOWN = "not determined, because the alignment was not compared with chance"


@final
@dataclass(frozen=True, slots=True)
class Verdict:
    """Meaning of an alignment.

    Attributes:
        relation: How the networks are related.
        permuted: Share of units that are permuted, in [0, 1].
        excess: Cosine similarity after alignment in excess of chance, relative to its maximum: 0 for chance, 1 for
            equal networks; None if it was not compared with chance.
        aligned_before: Share of the cosine similarity after alignment that the networks had before: 0 for units in
            random order, 1 for aligned networks.
    """

    relation: Relation
    permuted: float
    excess: float | None
    aligned_before: float

    @classmethod
    def of(cls, permutation: Permutation, distances: NetworkDistances, by_chance: NetworkDistances | None) -> Verdict:
        """Return the verdict of an alignment.

        Args:
            permutation: The permutation.
            distances: Distances before and after alignment.
            by_chance: The same for a shuffled copy of the reference; None if not computed.

        Returns:
            The verdict.
        """
        found = distances.permuted
        start, excess = 0.0, None
        if by_chance is not None:
            start = by_chance.permuted.cosine_before
            excess = _share(found.cosine_after, by_chance.permuted.cosine_after, 1.0)
        before = _share(found.cosine_before, start, found.cosine_after)
        is_equal = distances.total.after == 0
        relation = _relation(found.cosine_after, excess, before, equal=is_equal)
        return cls(relation, share_permuted(permutation), excess, before)

    @override
    def __str__(self) -> str:
        """Return one sentence."""
        return self.relation.value


def share_permuted(permutation: Permutation) -> float:
    """Return the share of all units that are not fixed points of a permutation.

    Args:
        permutation: The permutation.

    Returns:
        The number of these units, divided by that of all units; 0 without groups.
    """
    total = sum(index.numel() for index in permutation.indices.values())
    return sum(permutation.moved.values()) / total if total else 0.0


def _share(value: float, start: float, stop: float) -> float:
    """Return the position of a value between two others, 0 if these are equal."""
    return (value - start) / (stop - start) if stop > start else 0.0


def _relation(cosine: float, excess: float | None, before: float, *, equal: bool) -> Relation:
    if equal:
        return Relation.EQUAL
    if excess is not None and excess <= _BETTER_THAN_CHANCE:
        return Relation.CHANCE
    if cosine >= _RELATED:
        return Relation.ALREADY_ALIGNED if before >= _ALIGNED_BEFORE else Relation.RELATED
    if excess is None:
        return Relation.UNKNOWN
    return Relation.PARTLY_ALIGNED if before >= _PARTLY_ALIGNED_BEFORE else Relation.INDEPENDENT
