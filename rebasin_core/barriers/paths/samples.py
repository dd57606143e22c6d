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

    The samples are paired by optimal transport, and each pair is interpolated linearly (McCann's displacement
    interpolation). ``num_samples`` samples are drawn from each posterior; a `SamplesPosterior` that holds exactly
    this number of equally weighted samples is used without sampling.

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
