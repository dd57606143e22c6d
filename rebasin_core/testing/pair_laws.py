"""The laws of operations on two posteriors, tested if a function is registered for the pair."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

from rebasin_core.errors import NoClosedFormError
from rebasin_core.posteriors.barycenters import barycenter
from rebasin_core.posteriors.capabilities import AbstractCoupledPath
from rebasin_core.posteriors.divergence import kl_divergence, squared_moment_distance, wasserstein_distance
from rebasin_core.posteriors.pairs import BARYCENTER, GEODESIC, KL, WASSERSTEIN
from rebasin_core.posteriors.paths import coupled_path, geodesic
from rebasin_core.testing.law import expect, expect_equal, law
from rebasin_core.testing.posterior_laws import any_element

if TYPE_CHECKING:
    from pathlib import Path

    from rebasin_core.posteriors.base import Posterior


@law("posterior")
def coupled_path_has_its_endpoints(example: object, folder: Path) -> None:
    """A coupled path, if supported, has the two posteriors as endpoints, and its mean is linear in t."""
    del folder
    if not isinstance(example, AbstractCoupledPath):
        return
    posterior = cast("Posterior", example)
    other = posterior.permute(any_element(posterior, 5))
    path = coupled_path(posterior, other)
    for t in (0.0, 0.25, 0.5, 1.0):
        line = {name: (1 - t) * a + t * other.mean[name] for name, a in posterior.mean.items()}
        expect_equal(path(t).mean, line, f"the mean at {t}", tolerance=1e-12)
    for t, endpoint in ((0.0, posterior), (1.0, other)):
        expect_equal(path(t).stddev, endpoint.stddev, f"the standard deviation at {t}", tolerance=1e-8)


@law("posterior")
def geodesic_has_constant_speed(example: object, folder: Path) -> None:
    """A geodesic, if registered, has the two posteriors as endpoints and constant speed."""
    del folder
    posterior = cast("Posterior", example)
    other = posterior.permute(any_element(posterior, 5))
    if GEODESIC.find([posterior, other]) is None:
        return
    path = geodesic(posterior, other)
    for t, endpoint in ((0.0, posterior), (1.0, other)):
        distance = wasserstein_distance(path(t), endpoint)
        # The distance is the square root of a difference, which loses half of the digits.
        expect(distance < 1e-6, f"the geodesic at {t} has the distance {distance:.1e} to that endpoint")
    whole = wasserstein_distance(posterior, other)
    for t in (0.25, 0.5, 0.75):
        part = wasserstein_distance(posterior, path(t))
        expect(abs(part - t * whole) < 1e-6 * (1 + whole), f"at {t} the distance is {part}, expected {t * whole}")


@law("posterior")
def distance_is_a_metric(example: object, folder: Path) -> None:
    """A distance, if registered, is zero for equal posteriors, symmetric, invariant, and at least its lower bound."""
    del folder
    posterior = cast("Posterior", example)
    other = posterior.permute(any_element(posterior, 5))
    if WASSERSTEIN.find([posterior, other]) is None:
        return
    distance = wasserstein_distance(posterior, other)
    tolerance = 1e-6 * (1 + distance)
    itself = wasserstein_distance(posterior, posterior)
    expect(abs(itself) <= 1e-6, f"the distance to itself is {itself}")
    exchanged = wasserstein_distance(other, posterior)
    expect(
        abs(exchanged - distance) <= tolerance,
        f"exchanging the posteriors changed {distance} to {exchanged}",
    )
    element = any_element(posterior, 7)
    permuted = wasserstein_distance(posterior.permute(element), other.permute(element))
    expect(abs(permuted - distance) <= tolerance, f"permuting both changed the distance {distance} to {permuted}")
    bound = math.sqrt(squared_moment_distance(posterior, other))
    expect(distance >= bound - tolerance, f"the distance {distance} is below that of the moments, {bound}")


@law("posterior")
def barycenter_of_equals(example: object, folder: Path) -> None:
    """The barycenter of equal posteriors, if registered, has their mean and standard deviation."""
    del folder
    posterior = cast("Posterior", example)
    if BARYCENTER.find([posterior, posterior]) is None:
        return
    try:
        center = barycenter([posterior, posterior])
    except NoClosedFormError:  # such as samples with unequal weights
        return
    expect_equal(center.mean, posterior.mean, "mean of the barycenter", tolerance=1e-9)
    expect_equal(center.stddev, posterior.stddev, "standard deviation of the barycenter", tolerance=1e-6)


@law("posterior")
def divergence_is_not_negative(example: object, folder: Path) -> None:
    """A KL divergence, if registered, is zero for equal posteriors and nonnegative for others."""
    del folder
    posterior = cast("Posterior", example)
    other = posterior.permute(any_element(posterior, 5))
    function = KL.find([posterior, other])
    if function is None:
        return
    itself = kl_divergence(posterior, posterior)
    divergence = function(posterior, other)  # infinite if supports differ, for which `kl_divergence` raises
    expect(abs(itself) <= 1e-6, f"the divergence from itself is {itself}")
    expect(divergence >= -1e-6, f"a divergence is {divergence}")
