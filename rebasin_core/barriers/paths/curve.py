"""A trained curve as a path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, ClassVar, Literal, final

import torch
from pydantic import PrivateAttr
from typing_extensions import override

from rebasin_core.barriers.paths.base import Path
from rebasin_core.errors import InvalidInputError
from rebasin_core.landscapes.curve import Curve
from rebasin_core.landscapes.points import require_points, tensors_of_points
from rebasin_core.tensors.digests import digest_of_tensors

if TYPE_CHECKING:
    from rebasin_core.barriers.paths.base import PathProblem
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.posteriors.capabilities import PosteriorPath

_LAWS = ("endpoints", "reversal", "common_noise", "equivariance", "device_and_dtype")
# Relative and absolute tolerance of the endpoints, for networks that were converted to another dtype and back.
_TOLERANCE = 1e-4, 1e-6


@final
class CurvePath(Path):
    """A trained curve in a file, between its two endpoints.

    The reference and the candidate are the endpoints, in either order; the curve is reversed if needed. In Python,
    `barrier` accepts a `Curve` as ``path``, without a file.

    Raises:
        ConfigError: If an option is invalid.

    Examples:
        >>> CurvePath(file="curve.safetensors").canonical_json()
        '{"file":"curve.safetensors","name":"curve"}'
    """

    exempt_laws: ClassVar[Mapping[str, str]] = dict.fromkeys(_LAWS, "connects the two networks of its file only")

    name: Literal["curve"] = "curve"

    file: FilePath
    """File that `Curve.save` wrote."""

    @override
    def _between(self, problem: PathProblem) -> PosteriorPath:
        return along(Curve.load(self.file), problem.reference, problem.candidate)


@final
class GivenCurvePath(Path):
    """A trained curve in memory, for `barrier`. It is not registered: run files name the file of a curve.

    Raises:
        ConfigError: If an option is invalid.
    """

    name: Literal["given_curve"] = "given_curve"

    digest: str
    """Digest of the points, which identifies the curve."""

    _curve: Curve = PrivateAttr()

    @classmethod
    def through(cls, curve: Curve) -> GivenCurvePath:
        """Return the path along a curve.

        Args:
            curve: The curve.

        Returns:
            The path.
        """
        path = cls(digest=digest_of_tensors(tensors_of_points(curve.points)))
        path._curve = curve
        return path

    @override
    def _between(self, problem: PathProblem) -> PosteriorPath:
        return along(self._curve, problem.reference, problem.candidate)


def along(curve: Curve, reference: Posterior, candidate: Posterior) -> PosteriorPath:
    """Return the path along a curve between its two endpoints.

    Args:
        curve: The curve.
        reference: One of the two networks; sets device and dtype.
        candidate: The other network.

    Returns:
        The network as a function of t.

    Raises:
        InvalidInputError: If the posteriors are not the two networks.
    """
    for given, role in ((reference, "the reference"), (candidate, "the candidate")):
        if not given.is_point:
            message = f"expected {role} to be an endpoint of the curve, got a posterior of kind {given.kind!r}"
            raise InvalidInputError(message)
        require_points([curve.first, given], 2, f"networks: the start of the curve and {role}")
    device = reference.device
    dtype = reference.dtype
    curve = Curve(curve.kind, tuple(point.to(device=device, dtype=dtype) for point in curve.points), curve.history)
    target = candidate.to(device=device, dtype=dtype)
    for oriented in (curve, curve.reversed()):
        if _is_same(oriented.first, reference) and _is_same(oriented.last, target):
            return oriented.at
    message = (
        "expected the two endpoints of the curve, got others; pass `curve.first` and `curve.last`, in "
        "either order, or fit a curve between these networks"
    )
    raise InvalidInputError(message)


def _is_same(first: Posterior, second: Posterior) -> bool:
    """Return whether two networks have the same parameters."""
    rtol, atol = _TOLERANCE
    other = second.mean
    return all(torch.allclose(tensor, other[name], rtol=rtol, atol=atol) for name, tensor in first.mean.items())
