"""The meaning of an alignment of two checkpoints, in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, final

from typing_extensions import override

if TYPE_CHECKING:
    from rebasin_core.analysis.distances import NetworkDistances
    from rebasin_core.symmetry.permutation import GroupElement, Permutation

# The limits were chosen on 18 published families of networks, copies with known permutations and noise, fine-tuned
# copies and untrained networks, and tested on others of the same families; see `docs/results/verdicts.md`.
_BETTER_THAN_CHANCE = 0.01
_SAME_ORDER = 0.2
_SAME_ORDER_COMPLETELY = 0.02
_RELATED = 0.8
# Without a comparison with chance: limit of the cosine similarity.
_SIMILAR = 0.85


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

    Excess over chance is $(c - c_0) / (1 - c_0)$ for the cosine similarity $c$ of the permuted tensors and that of a
    shuffled copy of the reference, $c_0$: 0 for chance, and 1 for equal networks.

    Attributes:
        relation: How the networks are related.
        permuted: Share of units that are permuted, in [0, 1].
        excess_before: Excess over chance before alignment; None without a comparison with chance.
        excess_after: Excess over chance after alignment; None without a comparison with chance.
    """

    relation: Relation
    permuted: float
    excess_before: float | None
    excess_after: float | None

    @classmethod
    def of(
        cls,
        element: GroupElement,
        distances: NetworkDistances,
        by_chance: NetworkDistances | None,
        chance_range: float = 0.0,
    ) -> Verdict:
        """Return the verdict of an alignment.

        Args:
            element: The permutation or other group element.
            distances: Distances before and after alignment.
            by_chance: The same for a shuffled copy of the reference; None if not computed.
            chance_range: Range of the cosine similarity after alignment over several shuffled copies.

        Returns:
            The verdict.
        """
        share = share_permuted(element.permutation)
        found = distances.permuted
        if by_chance is None:
            relation = _relation_without_chance(distances)
            return cls(relation, share, None, None)
        chance = by_chance.permuted
        before = _excess(found.cosine_before, chance.cosine_before)
        after = _excess(found.cosine_after, chance.cosine_after)
        is_better = after > _BETTER_THAN_CHANCE and found.cosine_after - chance.cosine_after > chance_range
        if distances.total.after == 0:
            relation = Relation.EQUAL
        elif before > _SAME_ORDER:
            is_complete = found.explained < _SAME_ORDER_COMPLETELY
            relation = Relation.ALREADY_ALIGNED if is_complete else Relation.PARTLY_ALIGNED
        elif after > _RELATED:
            relation = Relation.RELATED
        else:
            relation = Relation.INDEPENDENT if is_better else Relation.CHANCE
        return cls(relation, share, before, after)

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


def _excess(cosine: float, chance: float) -> float:
    return (cosine - chance) / (1 - chance) if chance < 1 else 0.0


def _relation_without_chance(distances: NetworkDistances) -> Relation:
    found = distances.permuted
    if distances.total.after == 0:
        return Relation.EQUAL
    if found.cosine_after < _SIMILAR:
        return Relation.UNKNOWN
    return Relation.ALREADY_ALIGNED if found.explained < _SAME_ORDER_COMPLETELY else Relation.RELATED
