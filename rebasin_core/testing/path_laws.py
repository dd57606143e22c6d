"""The laws of paths."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.low_rank_gaussian import LowRankGaussianPosterior
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.posteriors.samples import SamplesPosterior
from rebasin_core.tensors.modules import copied
from rebasin_core.testing.cases import gaussian, network
from rebasin_core.testing.law import device_under_test, expect, expect_equal, law, seeded

if TYPE_CHECKING:
    from pathlib import Path as Folder

    from rebasin_core.barriers.paths.base import Path
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.posteriors.capabilities import PosteriorPath

# Weights of 1/8 have no rounding errors.
_MEMBERS, _SAMPLES = 8, 400
_EXACT = 1e-9
# Tolerance of a mean and a standard deviation of 400 samples, in standard deviations: more than six standard errors.
_SAMPLED = 8 / math.sqrt(_SAMPLES)
_INSIDE = (0.25, 0.5, 0.75)


def _samples(seed: int) -> SamplesPosterior:
    return SamplesPosterior(gaussian(seed).sample((_MEMBERS,), generator=seeded(seed)))


def _low_rank(seed: int) -> LowRankGaussianPosterior:
    base = gaussian(seed)
    factor = gaussian(seed + 2).sample((2,), generator=seeded(seed))
    return LowRankGaussianPosterior(base.mean, base.stddev, factor)


def _pairs() -> dict[str, tuple[Posterior, Posterior, float]]:
    """Return pairs of posteriors, with the tolerance of their moments on a path that represents them by samples."""
    points = PointPosterior(gaussian(0).mean), PointPosterior(gaussian(1).mean)
    return {
        "points": (*points, _EXACT),
        "samples": (_samples(0), _samples(1), _EXACT),
        "Gaussians": (gaussian(0), gaussian(1), _SAMPLED),
        "low-rank Gaussians": (_low_rank(0), _low_rank(1), _SAMPLED),
        "a Gaussian and samples": (gaussian(0), _samples(1), _SAMPLED),
    }


def _between(path: Path, reference: Posterior, candidate: Posterior, tolerance: float) -> PosteriorPath:
    num_samples = _MEMBERS if tolerance == _EXACT else _SAMPLES
    return path.between(reference, candidate, num_samples=num_samples, seed=3)


def _supported(path: Path) -> dict[str, tuple[Posterior, Posterior, float]]:
    """Return the pairs that a path supports: those for which it does not raise; raise if there are none."""
    found: dict[str, tuple[Posterior, Posterior, float]] = {}
    last_error = ""
    for kind, pair in _pairs().items():
        try:
            _between(path, *pair)
        except InvalidInputError as error:
            last_error = f"{kind}: {error}"
            continue
        found[kind] = pair
    expect(found, f"the path {path.name!r} supports none of the pairs; the last error is {last_error}")
    return found


def _expect_moments(got: Posterior, wanted: Posterior, description: str, tolerance: float) -> None:
    """Raise if means or standard deviations differ by more than a tolerance, in standard deviations, or rounding."""
    largest = max(stddev.max().item() for stddev in wanted.stddev.values())
    allowed = _EXACT if tolerance == _EXACT else tolerance * largest + _EXACT
    expect_equal(got.mean, wanted.mean, f"{description}: mean", tolerance=allowed)
    expect_equal(got.stddev, wanted.stddev, f"{description}: standard deviation", tolerance=allowed)


@law("path")
def endpoints(example: object, folder: Folder) -> None:
    """Mean and standard deviation at t = 0 and t = 1 are those of the two posteriors."""
    del folder
    path = cast("Path", example)
    for kind, (reference, candidate, tolerance) in _supported(path).items():
        point = _between(path, reference, candidate, tolerance)
        for t, endpoint in ((0.0, reference), (1.0, candidate)):
            _expect_moments(point(t), endpoint, f"{kind}, t = {t}", tolerance)


@law("path")
def reversal(example: object, folder: Folder) -> None:
    """Exchanging the two posteriors maps t to 1 - t."""
    del folder
    path = cast("Path", example)
    for kind, (reference, candidate, tolerance) in _supported(path).items():
        forward = _between(path, reference, candidate, tolerance)
        backward = _between(path, candidate, reference, tolerance)
        for t in _INSIDE:
            _expect_moments(backward(1 - t), forward(t), f"{kind}, t = {t}, reversed", _EXACT)


@law("path")
def common_noise(example: object, folder: Folder) -> None:
    """All posteriors on a path have the same representation, and equal generator states give them the same noise."""
    del folder
    path = cast("Path", example)
    for kind, pair in _supported(path).items():
        point = _between(path, *pair)
        first = point(0.0)
        noise = first.draw_noise((5,), generator=seeded(2))
        for t in (*_INSIDE, 1.0):
            at_t = point(t)
            expect(at_t.kind == first.kind, f"{kind}: {at_t.kind!r} at t = {t}, {first.kind!r} at t = 0")
            expect_equal(at_t.draw_noise((5,), generator=seeded(2)), noise, f"{kind}, t = {t}: noise")


@law("path")
def equivariance(example: object, folder: Folder) -> None:
    """Permuting both posteriors permutes the path."""
    del folder
    path = cast("Path", example)
    element = network().spec.random_permutation(generator=seeded(5))
    for kind, (reference, candidate, tolerance) in _supported(path).items():
        point = _between(path, reference, candidate, tolerance)
        permuted = _between(path, reference.permute(element), candidate.permute(element), tolerance)
        for t in _INSIDE:
            _expect_moments(permuted(t), point(t).permute(element), f"{kind}, t = {t}, permuted", tolerance)


@law("path")
def device_and_dtype(example: object, folder: Folder) -> None:
    """The path has the device and dtype of the reference, and the two posteriors are not changed."""
    del folder
    path = cast("Path", example)
    pairs = _supported(path)
    for kind, (reference, candidate, tolerance) in pairs.items():
        before = copied(reference.mean), copied(candidate.mean)
        for dtype in (torch.float32, torch.float64):
            midpoint = _between(path, reference.to(dtype=dtype), candidate.to(dtype=dtype), tolerance)(0.5)
            expect(
                (midpoint.dtype, midpoint.device.type) == (dtype, device_under_test().type),
                f"{kind}: expected {dtype} on {device_under_test()}, got {midpoint.dtype} on {midpoint.device}",
            )
        expect_equal(reference.mean, before[0], f"{kind}: the reference")
        expect_equal(candidate.mean, before[1], f"{kind}: the candidate")
