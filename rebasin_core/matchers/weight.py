"""Weight matching (Git Re-Basin) on the posterior means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

from typing_extensions import override

from rebasin_core.matchers.channel import mean_channels
from rebasin_core.matchers.symmetric import AbstractSymmetryMatcher

if TYPE_CHECKING:
    from rebasin_core.bilinear.terms import Channels
    from rebasin_core.posteriors.base import Posterior


@final
class WeightMatcher(AbstractSymmetryMatcher):
    r"""Aligns the means: $\max_P \sum_l \langle M^0_l, P_l M^1_l P_{l-1}^\top \rangle$.

    For single networks this is the weight matching of Git Re-Basin. For distributions it ignores the standard
    deviations, which are permuted with the means. `WassersteinMatcher` compares both.

    Raises:
        ConfigError: If an option is invalid.

    References:
        S. Ainsworth, J. Hayase, S. Srinivasa (2023), "Git Re-Basin", ICLR, arXiv 2209.04836, algorithm 1.

    Examples:
        >>> import torch
        >>> from rebasin_core.posteriors import PointPosterior
        >>> from rebasin_core.specs import table_spec
        >>> a = {"in": torch.tensor([[1.0], [2.0], [3.0]]), "out": torch.tensor([[1.0, 2.0, 3.0]])}
        >>> spec = table_spec({"in": "hidden, -", "out": "-, hidden"}, a)
        >>> b = {"in": a["in"][[2, 0, 1]], "out": a["out"][:, [2, 0, 1]]}
        >>> result = WeightMatcher().match(PointPosterior(a), PointPosterior(b), spec)
        >>> result.apply(b)["out"].tolist()
        [[1.0, 2.0, 3.0]]
    """

    name: Literal["weight"] = "weight"

    @override
    def _channels(self, reference: Posterior, candidate: Posterior) -> tuple[Channels, Channels]:
        return mean_channels(reference), mean_channels(candidate)
