"""Displacement interpolation between samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

from typing_extensions import override

from rebasin_core.barriers.paths.base import Path
from rebasin_core.posteriors.paths import displacement_path

if TYPE_CHECKING:
    from rebasin_core.barriers.paths.base import PathProblem
    from rebasin_core.posteriors.capabilities import PosteriorPath


@final
class SamplesPath(Path):
    """The displacement interpolation between samples of the two posteriors, for any pair.

    Optimal transport pairs the samples, and each pair moves on a straight line. The number of samples is that of the
    estimator; a set of that many equally weighted samples is used as it is.

    Examples:
        >>> import torch
        >>> from rebasin_core.posteriors import DiagonalGaussianPosterior
        >>> q, r = (DiagonalGaussianPosterior({"w": torch.tensor([m])}, {"w": torch.ones(1)}) for m in (0.0, 4.0))
        >>> SamplesPath().between(q, r, num_samples=8)(0.25).num_samples
        8
    """

    name: Literal["samples"] = "samples"

    @override
    def _between(self, problem: PathProblem) -> PosteriorPath:
        return displacement_path(
            problem.reference, problem.candidate, num_samples=problem.num_samples, seed=problem.seed
        )
