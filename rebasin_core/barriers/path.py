"""Paths between two posteriors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, cast, final

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.base import AbstractCoupling, AbstractGeodesic
from rebasin_core.posteriors.diagonal_gaussian import DiagonalGaussianPosterior
from rebasin_core.posteriors.mixture import MixturePosterior
from rebasin_core.posteriors.pairing import blend, blend_buffers, require_same_tensors
from rebasin_core.posteriors.samples import SamplesPosterior

if TYPE_CHECKING:
    from rebasin_core.posteriors.base import Posterior

PathName: TypeAlias = Literal["auto", "wasserstein", "coupled", "moments", "samples", "mixture"]


@final
class Path:
    r"""A path between two posteriors, on which points are found one after the other.

    - ``auto``: the first of ``wasserstein``, ``coupled`` and ``samples`` that the pair has.
    - ``wasserstein``: the 2-Wasserstein geodesic, for pairs of one kind that know it (points, independent Gaussians,
      dense Gaussians, as many samples at both ends).
    - ``coupled``: the path within a kind that has one in closed form (low rank plus diagonal): linear in all its parts.
    - ``moments``: for any pair, independent Gaussians with mean and standard deviation linear in $t$: all correlations
      are dropped, also at the ends.
    - ``samples``: for any pair, displacement: samples of both ends are paired by optimal transport, and each pair moves
      on a straight line.
    - ``mixture``: $(1-t)\, q_0 + t\, q_1$, for any pair. Its predictive loss never rises above the line between the
      ends (Jensen), so it is a check and no result.

    Args:
        reference: The posterior at 0.
        candidate: The posterior at 1.
        name: Which path.
        num_samples: For ``samples``: how many of each end; a set of as many equally weighted samples is taken whole.
        seed: For ``samples``: seed of the draws, the same for both ends.

    Raises:
        InvalidInputError: If the pair has no such path.
    """

    def __init__(
        self, reference: Posterior, candidate: Posterior, name: PathName, *, num_samples: int = 32, seed: int = 0
    ) -> None:
        require_same_tensors(reference.mean, candidate.mean, "the candidate")
        if name == "auto":
            name = _best(reference, candidate)
        if name == "samples":
            reference, candidate = (_drawn(q, num_samples, seed) for q in (reference, candidate))
        coupled = isinstance(reference, AbstractCoupling)
        if (name == "wasserstein" and not isinstance(reference, AbstractGeodesic)) or (
            name == "coupled" and not coupled
        ):
            closed = "closed 2-Wasserstein geodesic" if name == "wasserstein" else "closed path within its kind"
            other = "`coupled`, " if coupled else ""
            message = f"a {reference.kind!r} posterior has no {closed}; use the path {other}`moments` or `samples`"
            raise InvalidInputError(message)
        self._reference, self._candidate, self._name = reference, candidate, name

    def __call__(self, t: float) -> Posterior:
        """Return the posterior at a place.

        Args:
            t: In [0, 1].

        Returns:
            The posterior there.

        Raises:
            InvalidInputError: If the two ends do not fit each other.
        """
        reference, candidate = self._reference, self._candidate
        if self._name == "moments":
            mean, stddev = (
                blend(start, end, t)
                for start, end in ((reference.mean, candidate.mean), (reference.stddev, candidate.stddev))
            )
            return DiagonalGaussianPosterior(
                mean, stddev, buffers=blend_buffers(reference.buffers, candidate.buffers, t)
            )
        if self._name == "mixture":
            return _mixture(reference, candidate, t)
        if self._name == "coupled" and isinstance(reference, AbstractCoupling):
            return reference.coupled(candidate, t)
        return cast("AbstractGeodesic", reference).geodesic(candidate, t)


def _best(reference: Posterior, candidate: Posterior) -> PathName:
    if type(reference) is not type(candidate):
        return "samples"
    if isinstance(reference, SamplesPosterior) and isinstance(candidate, SamplesPosterior):
        alike = reference.is_uniform and candidate.is_uniform and reference.num_samples == candidate.num_samples
        return "wasserstein" if alike else "samples"
    if isinstance(reference, AbstractGeodesic):
        return "wasserstein"
    return "coupled" if isinstance(reference, AbstractCoupling) else "samples"


def _drawn(posterior: Posterior, count: int, seed: int) -> SamplesPosterior:
    """Return samples of a posterior as a posterior."""
    if isinstance(posterior, SamplesPosterior) and posterior.num_samples == count and posterior.is_uniform:
        return posterior
    drawn = posterior.sample((count,), generator=torch.Generator().manual_seed(seed))
    buffers = posterior.buffers
    return SamplesPosterior(
        {name: tensor for name, tensor in drawn.items() if name not in buffers},
        sample_buffers={name: drawn[name] for name in buffers},
    )


def _mixture(reference: Posterior, candidate: Posterior, t: float) -> Posterior:
    parts = [
        (component, share * weight)
        for end, share in ((reference, 1 - t), (candidate, t))
        for component, weight in (
            zip(end.components, end.weights.tolist(), strict=True)
            if isinstance(end, MixturePosterior)
            else [(end, 1.0)]
        )
    ]
    return MixturePosterior(
        [component for component, _ in parts], weights=torch.tensor([weight for _, weight in parts])
    )
