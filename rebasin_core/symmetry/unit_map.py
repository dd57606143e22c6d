"""Maps of the units of one group: factors, rotations and matrices, and their algebra."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.symmetry.kind import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

# Largest deviation from orthogonality that is due to rounding, by dtype of the given map.
_ROUNDING = {torch.float64: 1e-8, torch.float32: 1e-3}
# Errors of products in double precision, which need no correction.
_EXACT = 1e-12
# Largest matrices whose orthogonality is checked entry by entry, and number of random vectors for others.
_SMALL, _PROBES = 512, 8
# Largest condition number of an invertible map: its inverse has at least four correct digits.
_MAX_CONDITION = 1e12


@final
class UnitMap:
    """A map of the units of one group, or one map for each unit of its outer groups.

    Attributes:
        kind: The family of the map.
        value: ``[*outer, n]`` factors, ``[*outer, n/2, 2]`` complex factors or ``[*outer, n, n]`` matrices, in float64.

    Args:
        kind: The family of the map.
        value: The map; it is not checked (see `checked_map`).
    """

    def __init__(self, kind: Kind, value: Tensor) -> None:
        self.kind = kind
        self.value = value

    @cached_property
    def contragredient(self) -> Tensor:
        """The map of a slot of degree -1, which preserves inner products with a slot of degree 1: $g^{-T}$."""
        match self.kind:
            case Kind.SIGN | Kind.FLIP | Kind.POSITIVE | Kind.NONZERO:
                return self.value.reciprocal()
            case Kind.ROTATION:
                return self.value / self.value.square().sum(-1, keepdim=True)
            case Kind.INVERTIBLE:
                inverse: Tensor = torch.linalg.inv(self.value)
                return inverse.mT.contiguous()
            case _:
                return self.value

    def of_degree(self, degree: int) -> Tensor:
        """Return the map of a slot.

        Args:
            degree: Degree of the slot; 1 or -1 unless the map is a factor.

        Returns:
            A tensor like ``value``.
        """
        if self.kind.is_factor:
            power: Tensor = self.value**degree
            return power
        return self.value if degree == 1 else self.contragredient

    def inverse(self) -> UnitMap:
        """Return the inverse map."""
        match self.kind:
            case Kind.SIGN | Kind.FLIP | Kind.POSITIVE | Kind.NONZERO:
                return UnitMap(self.kind, self.contragredient)
            case Kind.ROTATION:
                return UnitMap(self.kind, self.contragredient * self.value.new_tensor([1.0, -1.0]))
            case _:
                return UnitMap(self.kind, self.contragredient.mT.contiguous())

    def compose(self, then: UnitMap) -> UnitMap:
        """Return the map that applies this one first, then another one of the same kind.

        Args:
            then: The second map.

        Returns:
            The composition.
        """
        if self.kind.is_factor:
            return UnitMap(self.kind, self.value * then.value)
        if self.kind is Kind.ROTATION:
            product = torch.view_as_complex(self.value) * torch.view_as_complex(then.value)
            return UnitMap(self.kind, torch.view_as_real(product))
        return UnitMap(self.kind, then.value @ self.value)

    def conjugated(self, action: Callable[[Tensor, int], Tensor]) -> UnitMap:
        """Return the map after a permutation of the units and of the outer units.

        Args:
            action: Permutes a tensor whose dimensions are the outer groups, then the group (the second argument
                is the number of these dimensions), then any others.

        Returns:
            The conjugate of the map.
        """
        axes = 0 if self.kind is Kind.ROTATION else 1 if self.kind.is_factor else 2
        return UnitMap(self.kind, action(self.value, axes))

    @cached_property
    def is_identity(self) -> bool:
        """Whether the map is exactly the identity."""
        return torch.equal(self.value, identity_like(self.kind, self.value))

    @property
    def isometry(self) -> UnitMap | None:
        """The map with factors of absolute value 1; None for invertible matrices, which have no such part here."""
        match self.kind:
            case Kind.POSITIVE | Kind.NONZERO:
                return UnitMap(self.kind, self.value.sign())
            case Kind.ROTATION:
                return UnitMap(self.kind, self.value * self.value.square().sum(-1, keepdim=True).rsqrt())
            case Kind.INVERTIBLE:
                return None
            case _:
                return self

    @property
    def absolute(self) -> UnitMap | None:
        """The map with the absolute values of its factors; None for matrices."""
        if self.kind.is_factor:
            return UnitMap(self.kind, self.value.abs())
        if self.kind is Kind.ROTATION:
            radius = self.value.square().sum(-1).sqrt()
            return UnitMap(self.kind, torch.stack([radius, torch.zeros_like(radius)], dim=-1))
        return None


def identity_like(kind: Kind, value: Tensor) -> Tensor:
    """Return the identity map with the shape of another map.

    Args:
        kind: The family of the map.
        value: A map of this family.

    Returns:
        The identity.
    """
    if kind.is_factor:
        return torch.ones_like(value)
    if kind is Kind.ROTATION:
        return value.new_tensor([1.0, 0.0]).expand_as(value).clone()
    return torch.eye(value.shape[-1], dtype=value.dtype, device=value.device).expand_as(value).clone()


def checked_map(kind: Kind, value: Tensor, shape: tuple[int, ...], where: str) -> UnitMap:
    """Return a map in float64 after checking that it belongs to its family.

    Orthogonal maps that are orthogonal up to the rounding of their dtype are replaced by the nearest orthogonal ones.

    Args:
        kind: The family of the map.
        value: The map, in float64 or float32.
        shape: Its expected shape.
        where: Description of the map for messages.

    Returns:
        The map.

    Raises:
        InvalidInputError: If dtype or shape differ, an entry is not finite, or the map is not in the family.
    """
    if value.dtype not in _ROUNDING or tuple(value.shape) != shape:
        message = f"{where}: expected float64 or float32 of shape {shape}, got {value.dtype} of {tuple(value.shape)}"
        raise InvalidInputError(message)
    given = value.detach().to(torch.float64).clone()
    if not bool(torch.isfinite(given).all()):
        message = f"{where}: expected finite entries, got NaN or infinity"
        raise InvalidInputError(message)
    match kind:
        case Kind.SIGN | Kind.FLIP:
            _require(bool((given.abs() == 1).all()), where, "factors 1 or -1", given)
        case Kind.POSITIVE:
            _require(bool((given > 0).all()), where, "positive factors", given)
        case Kind.NONZERO:
            _require(bool((given != 0).all()), where, "nonzero factors", given)
        case Kind.ROTATION:
            _require(bool(given.any(-1).all()), where, "nonzero complex factors", given.norm(dim=-1))
        case Kind.INVERTIBLE:
            return _invertible(given, where)
        case _:
            given = _orthogonal(kind, given, _ROUNDING[value.dtype], where)
    return UnitMap(kind, given)


def _require(fits: bool, where: str, expected: str, given: Tensor) -> None:  # ruff: ignore[boolean-type-hint-positional-argument] - the condition of an assertion
    if not fits:
        low, high = given.min().item(), given.max().item()
        message = f"{where}: expected {expected}, got values from {low:.4g} to {high:.4g}"
        raise InvalidInputError(message)


def _orthogonal(kind: Kind, given: Tensor, rounding: float, where: str) -> Tensor:
    """Return the nearest map of the kind; raise if it is farther away than rounding explains."""
    error = _orthogonality_error(kind, given)
    if not error <= rounding:
        message = f"{where}: expected orthogonal matrices, got one with an error of {error:.2g} in `g.T @ g = 1`"
        raise InvalidInputError(message)
    if kind is Kind.ORTHOGONAL:
        return _polished(given, error)
    error_of_ones = max((given.sum(dim) - 1).abs().max().item() for dim in (-1, -2))
    if not error_of_ones <= rounding * given.shape[-1] ** 0.5:
        message = f"{where}: expected orthogonal maps with `g @ 1 = 1`, got an error of {error_of_ones:.2g}"
        raise InvalidInputError(message)
    if max(error, error_of_ones) <= _EXACT:
        return given
    # Restricted to the complement of the vector of ones, where it is orthogonal, too.
    centered = given - given.mean(-1, keepdim=True)
    centered -= centered.mean(-2, keepdim=True)
    return _polished(centered, rounding) + 1 / given.shape[-1]


def _orthogonality_error(kind: Kind, given: Tensor) -> float:
    """Return the largest entry of ``g.T @ g - 1``; for large matrices, of its product with random vectors."""
    size = given.shape[-1]
    if size <= _SMALL:
        return (given.mT @ given - identity_like(kind, given)).abs().max().item()
    # Each entry of the product is a combination of a row with standard normal coefficients.
    noise = torch.randn(size, _PROBES, generator=torch.Generator().manual_seed(0), dtype=given.dtype).to(given.device)
    return (given.mT @ (given @ noise) - noise).abs().max().item()


def _polished(given: Tensor, error: float) -> Tensor:
    """Return the nearest partial isometry by Newton-Schulz steps, which square the error."""
    while error > _EXACT:
        given = 1.5 * given - 0.5 * given @ (given.mT @ given)
        error *= error
    return given


def _invertible(given: Tensor, where: str) -> UnitMap:
    inverse, failed = torch.linalg.inv_ex(given)
    condition = torch.linalg.matrix_norm(given, 1) * torch.linalg.matrix_norm(inverse, 1)
    largest = float("inf") if bool(failed.any()) else condition.max().item()
    if not largest <= _MAX_CONDITION:
        message = (
            f"{where}: expected invertible matrices with a condition number of at most {_MAX_CONDITION:.0e}, got "
            f"{largest:.2g}"
        )
        raise InvalidInputError(message)
    found = UnitMap(Kind.INVERTIBLE, given)
    found.__dict__["contragredient"] = inverse.mT.contiguous()  # computed already
    return found


def random_map(kind: Kind, shape: tuple[int, ...], *, log_stddev: float, generator: torch.Generator) -> Tensor:
    r"""Return a random map: orthogonal matrices are uniformly distributed (Haar measure), signs and angles uniformly.

    Args:
        kind: The family of the map.
        shape: Its shape.
        log_stddev: Standard deviation of the logarithms of factors, scales and singular values.
        generator: The source of randomness.

    Returns:
        The map on the CPU, in float64.
    """

    def normal(*of: int) -> Tensor:
        return torch.randn(of, generator=generator, device=generator.device, dtype=torch.float64).cpu()

    if kind.is_factor:
        signs = 1.0 if kind is Kind.POSITIVE else torch.where(normal(*shape) < 0, -1.0, 1.0).double()
        return signs * (log_stddev * normal(*shape) * (not kind.is_sign)).exp()
    match kind:
        case Kind.ROTATION:
            direction = normal(*shape)
            scale = (log_stddev * normal(*shape[:-1], 1)).exp()
            return scale * direction * direction.square().sum(-1, keepdim=True).rsqrt()
        case Kind.ORTHOGONAL:
            return _haar(normal(*shape))
        case Kind.ORTHOGONAL_FIXING_ONES:
            return _fixing_ones(normal(*shape[:-2], shape[-1] - 1, shape[-1] - 1))
        case _:
            singular = (log_stddev * normal(*shape[:-1])).exp()
            result: Tensor = _haar(normal(*shape)) * singular.unsqueeze(-2) @ _haar(normal(*shape))
            return result


def _haar(normal: Tensor) -> Tensor:
    """Return uniformly distributed orthogonal matrices for matrices of standard normal entries."""
    # With positive diagonals of R, the decomposition is unique and Q uniform (Mezzadri 2007, arXiv math-ph/0609050).
    q: Tensor
    r: Tensor
    q, r = torch.linalg.qr(normal)
    return q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)


def _fixing_ones(normal: Tensor) -> Tensor:
    """Return uniformly distributed orthogonal matrices that fix the vector of ones, one dimension larger."""
    inner = _haar(normal)
    size = inner.shape[-1] + 1
    whole = inner.new_zeros((*inner.shape[:-2], size, size))
    whole[..., 0, 0] = 1
    whole[..., 1:, 1:] = inner
    # The reflection that exchanges the first unit vector and the normalized vector of ones.
    normal_vector = torch.full((size,), size**-0.5, dtype=inner.dtype)
    normal_vector[0] -= 1
    length = normal_vector.square().sum()
    reflection = torch.eye(size, dtype=inner.dtype)
    if size > 1:
        reflection -= 2 * torch.outer(normal_vector, normal_vector) / length
    result: Tensor = reflection @ whole @ reflection
    return result
