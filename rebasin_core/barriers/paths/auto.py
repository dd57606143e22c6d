"""The first path that is defined for a pair of posteriors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

from typing_extensions import override

from rebasin_core.barriers.paths.base import Path
from rebasin_core.errors import NoClosedFormError
from rebasin_core.posteriors.paths import coupled_path, displacement_path, geodesic

if TYPE_CHECKING:
    from rebasin_core.barriers.paths.base import PathProblem
    from rebasin_core.posteriors.capabilities import PosteriorPath


@final
class AutoPath(Path):
    """The first of `WassersteinPath`, `CoupledPath` and `SamplesPath` that is defined for a pair of posteriors.

    Examples:
        >>> import torch
        >>> from rebasin_core.posteriors import DiagonalGaussianPosterior, PointPosterior
        >>> q = DiagonalGaussianPosterior({"w": torch.zeros(1)}, {"w": torch.ones(1)})
        >>> AutoPath().between(q, q)(0.5).kind, AutoPath().between(q, PointPosterior(q.mean))(0.5).kind
        ('diagonal_gaussian', 'samples')
    """

    name: Literal["auto"] = "auto"

    @override
    def _between(self, problem: PathProblem) -> PosteriorPath:
        reference = problem.reference
        candidate = problem.candidate
        for closed_form in (geodesic, coupled_path):
            try:
                return closed_form(reference, candidate)
            except NoClosedFormError:
                continue
        return displacement_path(reference, candidate, num_samples=problem.num_samples, seed=problem.seed)
