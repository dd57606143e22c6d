"""Small pictures of large matrices, for reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.bilinear.unit_similarity import unit_similarities

if TYPE_CHECKING:
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.symmetry.permutation import Permutation

_GROUPS, _UNITS = 4, 48


def similarity_images(
    reference: Posterior, candidate: Posterior, permutation: Permutation
) -> dict[str, dict[str, list[list[float]]]]:
    """Return the similarities of units before and after alignment, of the first groups and their largest units.

    Args:
        reference: The posterior that stays.
        candidate: The one that is moved.
        permutation: How.

    Returns:
        For every group ``before`` and ``after``, rows of cosines: of the 48 units of the reference whose weights have
        the largest norms, and the units of the candidate that stand in the same places.
    """
    layout = permutation.layout
    fixed, moving = reference.mean, candidate.mean
    sides = {
        "before": unit_similarities(layout, fixed, moving),
        "after": unit_similarities(layout, fixed, permutation.apply(moving)),
    }
    pictures: dict[str, dict[str, list[list[float]]]] = {}
    for group, found in list(sides["before"].items())[:_GROUPS]:
        chosen = found.norms.topk(min(_UNITS, len(found.norms))).indices
        pictures[group] = {
            side: similar[group].cosines[chosen][:, chosen].round(decimals=3).tolist()
            for side, similar in sides.items()
        }
    return pictures
