"""The meaning of an alignment of two checkpoints, in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, final

from typing_extensions import override

if TYPE_CHECKING:
    from rebasin_core.analysis.distances import NetworkDistances
    from rebasin_core.symmetry.permutation import Permutation

# Cosine similarity from which two networks have one origin; independently trained networks are far below it.
_RELATED = 0.6
# Share of permuted units up to which networks are already aligned.
_FEW_UNITS = 0.02
# Increase of the cosine similarity by alignment, relative to that by chance, from which units correspond.
_BETTER_THAN_CHANCE = 1.25


@final
class Relation(Enum):
    """How two networks are related, according to their weights before and after alignment."""

    EQUAL = "equal: the candidate is the reference, up to a permutation of its units"
    ALREADY_ALIGNED = "already aligned: the networks are related, and their units are in the same order"
    RELATED = "related: after alignment the weights are similar; the networks have a common origin"
    INDEPENDENT = (
        "independently trained: alignment finds corresponding units, more than by chance, but the weights remain "
        "different"
    )
    CHANCE = "no better than chance: alignment with a shuffled copy of the reference is as good"
    UNKNOWN = "not determined: the alignment was not compared with chance"


@final
@dataclass(frozen=True, slots=True)
class Verdict:
    """Meaning of an alignment.

    Attributes:
        relation: How the networks are related.
        moved: Share of units that the permutation moves, in [0, 1].
        cosine_before: Cosine similarity of the permuted tensors before alignment.
        cosine_after: Cosine similarity after alignment.
        chance: Increase of the cosine similarity when the candidate is aligned with a shuffled copy of the reference;
            None if not computed.
    """

    relation: Relation
    moved: float
    cosine_before: float
    cosine_after: float
    chance: float | None

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
        moved = share_moved(permutation)
        found = distances.permuted
        chance = None
        if by_chance is not None:
            chance = by_chance.permuted.cosine_after - by_chance.permuted.cosine_before
        gain = found.cosine_after - found.cosine_before
        return cls(_relation(distances, moved, gain, chance), moved, found.cosine_before, found.cosine_after, chance)

    @override
    def __str__(self) -> str:
        """Return one sentence."""
        return self.relation.value


def share_moved(permutation: Permutation) -> float:
    """Return the share of all units that a permutation moves.

    Args:
        permutation: The permutation.

    Returns:
        The number of moved units, divided by that of all units; 0 without groups.
    """
    total = sum(index.numel() for index in permutation.indices.values())
    return sum(permutation.moved.values()) / total if total else 0.0


def _relation(distances: NetworkDistances, moved: float, gain: float, chance: float | None) -> Relation:
    found = distances.permuted
    if distances.total.aligned == 0:
        return Relation.EQUAL
    if found.cosine_after >= _RELATED:
        return Relation.ALREADY_ALIGNED if moved <= _FEW_UNITS else Relation.RELATED
    if chance is None:
        return Relation.UNKNOWN
    return Relation.INDEPENDENT if gain > _BETTER_THAN_CHANCE * chance else Relation.CHANCE
