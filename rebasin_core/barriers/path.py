"""The paths between two posteriors by name, and grids on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, final

from rebasin_core.errors import NoClosedFormError
from rebasin_core.posteriors.paths import coupled_path, displacement_path, geodesic, mixture_path, moment_path

if TYPE_CHECKING:
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.posteriors.capabilities import PosteriorPath

PathName: TypeAlias = Literal["auto", "wasserstein", "coupled", "moments", "samples", "mixture"]


@final
class Path:
    r"""A path between two posteriors.

    - ``auto``: the first of ``wasserstein``, ``coupled`` and ``samples`` that the pair has.
    - ``wasserstein``: the 2-Wasserstein geodesic, for pairs that it is registered for (points, independent Gaussians,
      dense Gaussians, the same number of samples in both; see `geodesic`).
    - ``coupled``: the path within a kind that has one in closed form (low rank plus diagonal): linear in all its parts.
    - ``moments``: for any pair, independent Gaussians with mean and standard deviation linear in $t$: all correlations
      are dropped, at the endpoints too.
    - ``samples``: for any pair, displacement: optimal transport pairs samples of the two endpoints, and each pair moves
      on a straight line.
    - ``mixture``: $(1-t)\, q_0 + t\, q_1$, for any pair. Its predictive loss never rises above the linear interpolation
      of the endpoint losses (Jensen), so it is a check and no result.

    Args:
        reference: The posterior at t = 0.
        candidate: The posterior at t = 1.
        name: The name of the path.
        num_samples: For ``samples``: the number of samples of each endpoint. A set of that many equally weighted
            samples is used as it is.
        seed: For ``samples``: the seed of the samples, the same for both endpoints.

    Raises:
        InvalidInputError: If the pair has no such path.
    """

    def __init__(
        self, reference: Posterior, candidate: Posterior, name: PathName, *, num_samples: int = 32, seed: int = 0
    ) -> None:
        if name == "auto":
            self._path = _automatic(reference, candidate, num_samples, seed)
        elif name == "samples":
            self._path = displacement_path(reference, candidate, num_samples=num_samples, seed=seed)
        else:
            paths = {
                "wasserstein": geodesic,
                "coupled": coupled_path,
                "moments": moment_path,
                "mixture": mixture_path,
            }
            self._path = paths[name](reference, candidate)

    def __call__(self, t: float) -> Posterior:
        """Return the posterior at t.

        Args:
            t: The interpolation coefficient, in [0, 1].

        Returns:
            The posterior there.

        Raises:
            InvalidInputError: If t is out of range.
        """
        return self._path(t)


def _automatic(reference: Posterior, candidate: Posterior, num_samples: int, seed: int) -> PosteriorPath:
    """Return the geodesic, else the coupled path, else the displacement of samples."""
    for closed_form in (geodesic, coupled_path):
        try:
            return closed_form(reference, candidate)
        except NoClosedFormError:
            continue
    return displacement_path(reference, candidate, num_samples=num_samples, seed=seed)
