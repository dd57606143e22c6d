"""Interpolation of samples that are coupled by their noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

from typing_extensions import override

from rebasin_core.barriers.paths.base import Path
from rebasin_core.posteriors.paths import coupled_path

if TYPE_CHECKING:
    from rebasin_core.barriers.paths.base import PathProblem
    from rebasin_core.posteriors.capabilities import PosteriorPath


@final
class CoupledPath(Path):
    """Linear interpolation between samples with the same noise, for pairs of one class that registers a closed form.

    Among the built-in posteriors these are low-rank plus diagonal Gaussians of equal rank, and multiplicative noise.

    Examples:
        >>> import torch
        >>> from rebasin_core.posteriors import LowRankGaussianPosterior
        >>> one = {"w": torch.ones(1)}
        >>> q, r = (LowRankGaussianPosterior({"w": m * torch.ones(1)}, one, {"w": torch.ones(2, 1)}) for m in (0, 4))
        >>> CoupledPath().between(q, r)(0.25).mean["w"].item()
        1.0
    """

    name: Literal["coupled"] = "coupled"

    @override
    def _between(self, problem: PathProblem) -> PosteriorPath:
        return coupled_path(problem.reference, problem.candidate)
