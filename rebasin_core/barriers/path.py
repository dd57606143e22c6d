"""Paths between two posteriors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.base import AbstractGeodesic
from rebasin_core.posteriors.diagonal_gaussian import DiagonalGaussianPosterior
from rebasin_core.posteriors.pairing import blend_buffers, require_same_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.posteriors.base import Posterior

PathName: TypeAlias = Literal["wasserstein", "moments"]


def point_on_path(reference: Posterior, candidate: Posterior, t: float, *, path: PathName = "wasserstein") -> Posterior:
    r"""Return the posterior at a place on a path.

    ``wasserstein`` is the 2-Wasserstein geodesic, for pairs of one kind that know it. ``moments`` takes any pair and
    gives independent Gaussians with mean and standard deviation linear in $t$: all correlations are dropped, also at
    the ends.

    Args:
        reference: The posterior at 0.
        candidate: The posterior at 1.
        t: In [0, 1].
        path: Which path.

    Returns:
        The posterior at ``t``.

    Raises:
        InvalidInputError: If the pair has no such path.
    """
    if path == "wasserstein":
        if not isinstance(reference, AbstractGeodesic):
            message = f"a {reference.kind!r} posterior has no closed 2-Wasserstein geodesic; use the path `moments`"
            raise InvalidInputError(message)
        return reference.geodesic(candidate, t)
    require_same_tensors(reference.mean, candidate.mean, "the candidate")
    ends = (reference.mean, candidate.mean), (reference.stddev, candidate.stddev)
    mean, stddev = ({name: torch.lerp(a, end[name], t) for name, a in start.items()} for start, end in ends)
    return DiagonalGaussianPosterior(mean, stddev, buffers=blend_buffers(reference.buffers, candidate.buffers, t))


def places(num_points: int) -> Sequence[float]:
    """Return equally spaced places from 0 to 1.

    Args:
        num_points: Number of places, at least 3 and odd, so that the middle is one of them.

    Returns:
        The places.

    Raises:
        InvalidInputError: If the number is even or less than 3.
    """
    if num_points < 3 or num_points % 2 == 0:  # ruff: ignore[magic-value-comparison] - two ends and the middle
        message = f"expected an odd number of points, at least 3, so that the middle is among them; got {num_points!r}"
        raise InvalidInputError(message)
    return [index / (num_points - 1) for index in range(num_points)]
