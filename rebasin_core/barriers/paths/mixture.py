"""Mixtures of the two posteriors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

from typing_extensions import override

from rebasin_core.barriers.paths.base import Path
from rebasin_core.posteriors.paths import mixture_path

if TYPE_CHECKING:
    from rebasin_core.barriers.paths.base import PathProblem
    from rebasin_core.posteriors.capabilities import PosteriorPath


@final
class MixturePath(Path):
    r"""The mixtures $(1-t)\, q_0 + t\, q_1$, for any pair.

    By Jensen's inequality the predictive loss is at most $(1-t) L(q_0) + t L(q_1)$. This path therefore cannot reveal a
    barrier; it serves as a check.

    Examples:
        >>> import torch
        >>> from rebasin_core.posteriors import DiagonalGaussianPosterior
        >>> q, r = (DiagonalGaussianPosterior({"w": torch.tensor([m])}, {"w": torch.ones(1)}) for m in (0.0, 4.0))
        >>> MixturePath().between(q, r)(0.25).mean["w"].item()
        1.0
    """

    name: Literal["mixture"] = "mixture"

    @override
    def _between(self, problem: PathProblem) -> PosteriorPath:
        return mixture_path(problem.reference, problem.candidate)
