"""Unit similarities before and after alignment, for reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.bilinear.unit_similarity import unit_similarities

if TYPE_CHECKING:
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.symmetry.permutation import GroupElement

_MAX_GROUPS = 4
_MAX_UNITS = 48


def similarity_images(
    reference: Posterior, candidate: Posterior, element: GroupElement
) -> dict[str, dict[str, list[list[float]]]]:
    """Return cosine similarities of units before and after alignment, for the first 4 groups.

    Args:
        reference: The reference.
        candidate: The unpermuted candidate.
        element: Permutation or other group element that aligns the candidate.

    Returns:
        For each group, matrices ``before`` and ``after`` as lists of rows: cosine similarities between the (up to) 48
        reference units with the largest weight norms and the candidate units at the same indices.
    """
    layout = element.layout
    sides = {
        "before": unit_similarities(layout, reference.mean, candidate.mean),
        "after": unit_similarities(layout, reference.mean, element.apply(candidate.mean)),
    }
    matrices: dict[str, dict[str, list[list[float]]]] = {}
    for group, similarity in list(sides["before"].items())[:_MAX_GROUPS]:
        largest = similarity.norms.topk(min(_MAX_UNITS, len(similarity.norms))).indices
        matrices[group] = {
            side: by_group[group].cosines[largest][:, largest].round(decimals=3).tolist()
            for side, by_group in sides.items()
        }
    return matrices
