"""Independent Gaussians with interpolated moments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

from typing_extensions import override

from rebasin_core.barriers.paths.base import Path
from rebasin_core.posteriors.paths import moment_path

if TYPE_CHECKING:
    from rebasin_core.barriers.paths.base import PathProblem
    from rebasin_core.posteriors.capabilities import PosteriorPath


@final
class MomentsPath(Path):
    """Independent Gaussians whose mean and standard deviation are linear in t, for any pair.

    Correlations are discarded, also at the endpoints.

    Examples:
        >>> import torch
        >>> from rebasin_core.posteriors import DiagonalGaussianPosterior
        >>> q, r = (DiagonalGaussianPosterior({"w": torch.tensor([m])}, {"w": torch.ones(1)}) for m in (0.0, 4.0))
        >>> MomentsPath().between(q, r)(0.25).mean["w"].item()
        1.0
    """

    name: Literal["moments"] = "moments"

    @override
    def _between(self, problem: PathProblem) -> PosteriorPath:
        return moment_path(problem.reference, problem.candidate)
