"""The interface of paths."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from rebasin_core.posteriors.checks import require_coefficient, require_posteriors, require_same_tensors
from rebasin_core.strategy import Strategy

if TYPE_CHECKING:
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.posteriors.capabilities import PosteriorPath


@final
@dataclass(frozen=True, slots=True)
class PathProblem:
    """Two validated posteriors to connect by a path.

    Attributes:
        reference: The posterior at t = 0.
        candidate: The posterior at t = 1, over the same tensors.
        num_samples: Number of posterior samples of each endpoint, for paths between samples.
        seed: Seed of these samples, the same for both endpoints.
    """

    reference: Posterior
    candidate: Posterior
    num_samples: int
    seed: int


class Path(Strategy):
    """A path of posteriors from a reference (t = 0) to a candidate (t = 1).

    Laws:
        - *Endpoints*: at t = 0 and t = 1, mean and standard deviation are those of the two posteriors, or of their
          samples if the path draws samples.
        - *Reversal*: exchanging the two posteriors maps t to 1 - t.
        - *Common noise*: all posteriors on a path have the same ``kind`` and noise of the same shapes. Therefore one
          draw of noise gives a sample at each t (common random numbers).
        - *Equivariance*: permuting both posteriors permutes the path.
        - *Device and dtype*: device and dtype are those of the reference, and the two posteriors are not changed.
    """

    family: ClassVar[str] = "path"

    @final
    def between(
        self, reference: Posterior, candidate: Posterior, *, num_samples: int = 32, seed: int = 0
    ) -> PosteriorPath:
        """Return the path between two posteriors.

        Args:
            reference: The posterior at t = 0.
            candidate: The posterior at t = 1.
            num_samples: Number of samples of each endpoint, at least 1; used by paths between samples only.
            seed: Seed of these samples.

        Returns:
            The posterior as a function of the interpolation coefficient t in [0, 1].

        Raises:
            InvalidInputError: If the two posteriors do not have the same tensors.
            NoClosedFormError: If the path is not defined for the pair.
        """
        require_posteriors(reference, candidate)
        require_same_tensors(reference.shared_mean(), candidate.shared_mean(), "the candidate")
        path = self._between(PathProblem(reference, candidate, num_samples, seed))

        def at(t: float) -> Posterior:
            require_coefficient(t)
            return path(t)

        return at

    @abstractmethod
    def _between(self, problem: PathProblem) -> PosteriorPath:
        """Return the path between two posteriors as a function of t.

        Args:
            problem: Two posteriors over the same tensors.

        Returns:
            The function: the posterior at t in [0, 1]. All of these posteriors must accept the same noise.
        """
