"""The 2-Wasserstein geodesic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

from typing_extensions import override

from rebasin_core.barriers.paths.base import Path
from rebasin_core.posteriors.paths import geodesic

if TYPE_CHECKING:
    from rebasin_core.barriers.paths.base import PathProblem
    from rebasin_core.posteriors.capabilities import PosteriorPath


@final
class WassersteinPath(Path):
    """The 2-Wasserstein geodesic, for pairs of classes for which a closed form is registered (`geodesic`).

    These are two single networks, two diagonal Gaussians, two dense Gaussians, two sets of equally many samples with
    equal weights, and pairs that plugins register. For diagonal Gaussians, mean and standard deviation are linear in t.

    Examples:
        >>> import torch
        >>> from rebasin_core.posteriors import DiagonalGaussianPosterior
        >>> q, r = (DiagonalGaussianPosterior({"w": torch.tensor([m])}, {"w": torch.ones(1)}) for m in (0.0, 4.0))
        >>> WassersteinPath().between(q, r)(0.25).mean["w"].item()
        1.0
    """

    name: Literal["wasserstein"] = "wasserstein"

    @override
    def _between(self, problem: PathProblem) -> PosteriorPath:
        return geodesic(problem.reference, problem.candidate)
