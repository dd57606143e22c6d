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
    """Two checked posteriors to be joined by a path.

    Attributes:
        reference: The posterior at t = 0.
        candidate: The posterior at t = 1, over the same tensors.
        num_samples: Number of posterior samples at each point, for paths between samples.
        seed: Seed of these samples, the same for both endpoints.
    """

    reference: Posterior
    candidate: Posterior
    num_samples: int
    seed: int


class Path(Strategy):
    """A path of posteriors from a reference (t = 0) to a candidate (t = 1).

    Laws:
        - *Endpoints*: at t = 0 and t = 1, mean and standard deviation are those of the two posteriors; of samples, if
          the path draws any.
        - *Reversal*: exchanging the two posteriors replaces t by 1 - t.
        - *Common noise*: all posteriors on a path are of one kind, with noise of one form, so that one draw of noise
          gives a sample of each (common random numbers).
        - *Equivariance*: permuting both posteriors permutes the path.
        - *Kept*: device and dtype are those of the reference, and the two posteriors are not changed.
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
            num_samples: Number of samples of each endpoint, for paths between samples.
            seed: Seed of these samples.

        Returns:
            A function of the interpolation coefficient t in [0, 1].

        Raises:
            InvalidInputError: If the two do not have the same tensors.
            NoClosedFormError: If the pair has no such path.
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
        """Return the path of a checked problem, a function of t."""
