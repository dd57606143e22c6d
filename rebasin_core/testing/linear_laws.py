"""Laws of posteriors under linear maps of units, checked against explicit matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.attached import AbstractAttachedPosterior
from rebasin_core.posteriors.capabilities import AbstractEmpirical, AbstractIndependentGaussian, AbstractLogDensity
from rebasin_core.posteriors.gaussian import AbstractGaussianPosterior
from rebasin_core.symmetry.axis import Atom, Group
from rebasin_core.symmetry.kind import Kind, Slot
from rebasin_core.symmetry.layout import Layout
from rebasin_core.symmetry.linear import LinearSymmetry, Symmetry
from rebasin_core.symmetry.pairs import Pairs
from rebasin_core.symmetry.symmetry_element import SymmetryElement
from rebasin_core.testing.law import expect, expect_equal, law, seeded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from rebasin_core.posteriors.base import Posterior

# Flips have laws of their own: they do not transform each tensor by itself.
_KINDS = tuple(kind for kind in Kind if kind is not Kind.FLIP)


def linear_element(posterior: Posterior, kind: Kind, seed: int = 0) -> SymmetryElement:
    """Return a random element with maps of one kind for all axes of equal length, which is valid for any posterior.

    First axes have the degree 1, and all others -1.

    Args:
        posterior: Any posterior.
        kind: The kind of the maps; axes of odd length are only permuted for rotations.
        seed: Seed of the random number generator.

    Returns:
        The element.
    """
    tensors = {**posterior.mean, **posterior.buffers}
    sizes = {size for tensor in tensors.values() for size in tensor.shape}
    groups = {f"of{size}": Group(f"of{size}", size) for size in sizes}
    layout = Layout(groups, {n: tuple(Atom(s, f"of{s}") for s in t.shape) for n, t in tensors.items()})
    linear: list[LinearSymmetry] = []
    for size in sorted(sizes):
        slots = {
            Slot(name, dim): 1 if dim == 0 else -1
            for name, tensor in tensors.items()
            for dim, own in enumerate(tensor.shape)
            if own == size and tensor.is_floating_point()
        }
        if slots and (kind is not Kind.ROTATION or size % 2 == 0):
            pairs = Pairs.NEIGHBORS if kind is Kind.ROTATION and size % 4 == 0 else Pairs.HALVES
            linear.append(LinearSymmetry(f"of{size}", kind, slots, pairs=pairs))
    return SymmetryElement.random(Symmetry(layout, tuple(linear)), generator=seeded(seed))


def matrix(element: SymmetryElement, name: str) -> Tensor:
    """Return the matrix by which an element of `linear_element` transforms the entries of a tensor.

    Args:
        element: The element.
        name: Name of the tensor.

    Returns:
        Kronecker product of one matrix per axis, ``[P, P]`` for P entries, in float64.
    """
    product = torch.ones(1, 1, dtype=torch.float64)
    for dim, axis in enumerate(element.symmetry.layout.axes[name]):
        group = cast("Atom", axis).group
        own = torch.eye(axis.size, dtype=torch.float64)
        for linear, value in zip(element.symmetry.linear, element.maps, strict=True):
            if linear.group == group and value is not None and Slot(name, dim) in linear.degrees:
                own = _dense(linear, value)
                own = own if linear.degrees[Slot(name, dim)] == 1 else torch.linalg.inv(own).T
        index = element.permutation.indices.get(str(group))
        product = torch.kron(product, own if index is None else own[index])
    return product


def _dense(linear: LinearSymmetry, value: Tensor) -> Tensor:
    """Return a map as a matrix."""
    if linear.kind.is_factor:
        return torch.diag(value)
    if linear.kind is not Kind.ROTATION:
        return value
    found = torch.zeros(2 * len(value), 2 * len(value), dtype=value.dtype)
    for number, (real, imag) in enumerate(value.tolist()):
        is_halves = linear.pairs is Pairs.HALVES
        first, second = (number, number + len(value)) if is_halves else (2 * number, 2 * number + 1)
        found[first, first] = found[second, second] = real
        found[second, first], found[first, second] = imag, -imag
    return found


def transformed_by_hand(element: SymmetryElement, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors transformed by the matrices of `matrix`; integer tensors are permuted.

    Args:
        element: An element of `linear_element`.
        tensors: Tensors by name, each ``[*lead, *s]``.

    Returns:
        The transformed tensors.
    """
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            result[name] = element.permutation.apply({name: tensor})[name]
            continue
        dims = len(element.layout.axes[name])
        flat = tensor.reshape(*tensor.shape[: tensor.dim() - dims], -1)
        result[name] = (flat @ matrix(element, name).T.to(flat)).reshape(tensor.shape)
    return result


def _closed(posterior: Posterior, seed: int = 0) -> Iterator[tuple[SymmetryElement, Posterior]]:
    """Yield an element of every kind under which a posterior is closed, and the transformed posterior."""
    for kind in _KINDS:
        element = linear_element(posterior, kind, seed)
        try:
            transformed = posterior.transform(element)
        except InvalidInputError:
            continue
        yield element, transformed


@law("posterior")
def closed_or_rejected(example: object, folder: Path) -> None:
    """Maps of each kind give a posterior of the same kind, or an error that names representation, group and kind."""
    del folder
    posterior = cast("Posterior", example)
    for kind in _KINDS:
        element = linear_element(posterior, kind)
        if not element.linear_maps.acting():
            continue
        always = posterior.is_point or isinstance(posterior, AbstractEmpirical)
        always = always or (isinstance(posterior, AbstractIndependentGaussian) and kind.is_factor)
        try:
            transformed = posterior.transform(element)
        except InvalidInputError as error:
            expect(not always, f"expected a posterior closed under maps of kind {str(kind)!r}, got: {error}")
            groups = [linear.group for linear in element.linear_maps.acting()]
            named = repr(str(kind)) in str(error) and any(repr(group) in str(error) for group in groups)
            expect(named, f"the error does not name a group and the kind {str(kind)!r}: {error}")
        else:
            expect(type(transformed) is type(posterior), f"the transformed posterior is a {type(transformed).__name__}")


@law("posterior")
def transformed_moments(example: object, folder: Path) -> None:
    """Mean, buffers and samples for the same noise are transformed by the matrices of the maps."""
    del folder
    posterior = cast("Posterior", example)
    noise = posterior.draw_noise((3,), generator=seeded(1))
    for element, transformed in _closed(posterior):
        label = f"under maps of kind {element.symmetry.linear[0].kind}" if element.symmetry.linear else "permuted"
        for part in ("mean", "buffers"):
            wanted = transformed_by_hand(element, getattr(posterior, part))
            expect_equal(getattr(transformed, part), wanted, f"{part} {label}", tolerance=1e-9)
        samples = transformed.from_noise(posterior.transform_noise(element, noise))
        wanted = transformed_by_hand(element, posterior.from_noise(noise))
        expect_equal(samples, wanted, f"samples {label}", tolerance=1e-9)


@law("posterior")
def transformed_density(example: object, folder: Path) -> None:
    """Covariance, log density and entropy, if there are any, change by the matrices and their determinants."""
    del folder
    if not isinstance(example, AbstractAttachedPosterior):
        return
    sample = example.sample((3,), generator=seeded())
    for element, transformed in _closed(example):
        matrices = [matrix(element, name).to(example.device) for name in example.random_names]
        if isinstance(example, AbstractGaussianPosterior):
            whole = torch.block_diag(*matrices)
            wanted = whole @ example.covariance() @ whole.T
            got = cast("AbstractGaussianPosterior", transformed).covariance()
            expect_equal({"c": got}, {"c": wanted}, "transformed covariance", tolerance=1e-8)
        volume = sum(torch.linalg.slogdet(each).logabsdet for each in matrices)
        _expect_density(example, transformed, (sample, transformed_by_hand(element, sample)), volume)


def _expect_density(
    before: object, after: object, samples: tuple[dict[str, Tensor], dict[str, Tensor]], volume: Tensor | int
) -> None:
    """Raise if densities and entropies of two posteriors do not differ by the logarithm of a volume."""
    if isinstance(before, AbstractLogDensity):
        density = cast("AbstractLogDensity", after)
        wanted = {"d": before.log_prob(samples[0]) - volume, "h": before.entropy() + volume}
        got = {"d": density.log_prob(samples[1]), "h": density.entropy()}
        expect_equal(got, wanted, "log density and entropy", tolerance=1e-7)


@law("posterior")
def linear_group_action(example: object, folder: Path) -> None:
    """An element and its inverse give the posterior back; two elements give the same as their composition."""
    del folder
    posterior = cast("Posterior", example)
    noise = posterior.draw_noise((2,), generator=seeded())
    for element, transformed in _closed(posterior, 1):
        carried = posterior.transform_noise(element, noise)
        inverse = element.inverse()
        back = transformed.transform(inverse)
        noise_back = transformed.transform_noise(inverse, carried)
        expect_equal(
            back.from_noise(noise_back), posterior.from_noise(noise), "transformed and inverted", tolerance=1e-8
        )
        then = linear_element(posterior, element.symmetry.linear[0].kind, 2) if element.symmetry.linear else element
        noise_then = transformed.transform_noise(then, carried)
        twice = transformed.transform(then).from_noise(noise_then)
        once = posterior.transform(element.compose(then)).from_noise(noise_then)
        expect_equal(twice, once, "transformed twice and composed", tolerance=1e-8)
