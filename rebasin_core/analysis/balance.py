"""Networks of minimal norm: scales of any degrees, rotary scales and invertible maps, optimized jointly."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from rebasin_core.bilinear.maps.gauge import FULL_RANK, balanced, gram
from rebasin_core.errors import ConvergenceWarning
from rebasin_core.symmetry.kind import Kind
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.symmetry.slots import slot_sums
from rebasin_core.symmetry.symmetry_element import SymmetryElement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.symmetry.layout import Layout
    from rebasin_core.symmetry.linear import LinearSymmetry, Symmetry

# Limits of coordinate descent over the factors; the squared norm is convex in their logarithms.
_MAX_SWEEPS = 500
_TOLERANCE = 1e-12
_MAX_STEPS = 100
# Rounds over factors and matrices, and the smallest relative decrease of the squared norm in a round that is not the
# last one.
_MAX_ROUNDS = 100
_DECREASE = 1e-14
_SCALED = {Kind.POSITIVE, Kind.NONZERO}
_MATRICES = {Kind.ROTATION, Kind.INVERTIBLE}


def minimal_norm_element(symmetry: Symmetry, tensors: Mapping[str, Tensor]) -> SymmetryElement:
    """Return the element that maps a network to the one of minimal norm: positive factors and positive definite maps.

    Args:
        symmetry: The linear symmetries.
        tensors: The parameters of a network in float64, without buffers.

    Returns:
        The element, without signs and permutations.
    """
    _warn_of_low_rank(symmetry, tensors)
    total = SymmetryElement.identity(symmetry)
    matrices = replace(symmetry, linear=tuple(each for each in symmetry.linear if each.kind in _MATRICES))
    scaled = any(each.kind in _SCALED for each in symmetry.linear)
    current = dict(tensors)
    norm = _squared_norm(current)
    for _ in range(_MAX_ROUNDS):
        if scaled:
            step = _scaling(symmetry, current)
            total, current = total.compose(step), dict(step.apply(current))
        if not matrices.linear:
            return total
        _, step = balanced(matrices, {name: tensor.unsqueeze(0) for name, tensor in current.items()})
        step = _within(symmetry, step)
        total, current = total.compose(step), dict(step.apply(current))
        previous, norm = norm, _squared_norm(current)
        if not scaled or previous - norm <= _DECREASE * norm:
            return total
    message = f"the norm of the canonical form still decreased after {_MAX_ROUNDS} rounds: the form is approximate"
    warnings.warn(message, ConvergenceWarning, stacklevel=4)
    return total


def _warn_of_low_rank(symmetry: Symmetry, tensors: Mapping[str, Tensor]) -> None:
    """Warn if the minimal norm over an invertible map is not attained."""
    channels = {name: tensor.unsqueeze(0) for name, tensor in tensors.items()}
    for linear in symmetry.linear:
        if linear.kind is not Kind.INVERTIBLE:
            continue
        values = torch.stack([torch.linalg.eigvalsh(gram(symmetry, linear, channels, sign)) for sign in (1, -1)])
        if bool((values[..., 0] <= FULL_RANK * values[..., -1]).any()):
            message = (
                f"weights of group {linear.group!r} do not have full rank, so the minimal norm over its invertible "
                "maps is not attained: the canonical form is not unique"
            )
            warnings.warn(message, ConvergenceWarning, stacklevel=4)


def _squared_norm(tensors: Mapping[str, Tensor]) -> float:
    return math.fsum(tensor.square().sum().item() for tensor in tensors.values())


def _within(symmetry: Symmetry, element: SymmetryElement) -> SymmetryElement:
    """Return an element with the matrices of a symmetry as one of the whole symmetry."""
    maps = iter(element.maps)
    given = [next(maps) if linear.kind in _MATRICES else None for linear in symmetry.linear]
    return SymmetryElement(symmetry, element.permutation, given)


def _scaling(symmetry: Symmetry, tensors: Mapping[str, Tensor]) -> SymmetryElement:
    """Return the positive factors of minimal norm, by coordinate descent over the families."""
    identity = Permutation.identity(symmetry.permutations)
    factors: list[Tensor | None] = [
        torch.ones(symmetry.map_shape(linear), dtype=torch.float64) if linear.kind in _SCALED else None
        for linear in symmetry.linear
    ]
    change = 0.0
    for _ in range(_MAX_SWEEPS):
        change = 0.0
        for index, linear in enumerate(symmetry.linear):
            own = factors[index]
            if own is None:
                continue
            alone = replace(symmetry, linear=(linear,))
            factor = _best_factor(symmetry.layout, linear, tensors)
            tensors = SymmetryElement(alone, identity, [factor]).apply(tensors)
            own *= factor
            change = max(change, factor.log().abs().max().item())
        if change < _TOLERANCE:
            break
    else:
        message = (
            f"the scales of the canonical form still changed by a factor of {math.exp(change):.3g} after "
            f"{_MAX_SWEEPS} sweeps: the form is approximate"
        )
        warnings.warn(message, ConvergenceWarning, stacklevel=5)
    return SymmetryElement(symmetry, identity, factors)


def _best_factor(layout: Layout, linear: LinearSymmetry, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the optimal positive factors of the units of a group, with all other groups fixed."""
    norms: dict[int, Tensor] = {}
    for slot, degree in linear.degrees.items():
        if slot.tensor not in tensors:
            continue
        squares = slot_sums(layout, slot, tensors[slot.tensor].double().square()).cpu()
        norms[degree] = norms[degree] + squares if degree in norms else squares
    return _balance(norms, layout.index_shape(linear.group))


def _balance(norms: Mapping[int, Tensor], shape: tuple[int, ...]) -> Tensor:
    r"""Return the positive factors $f$ that minimize $\sum_d N_d f^{2 d}$.

    Without a negative degree, they are those for which the sum is 1. Units without weights on one of the two sides are
    dead, and not scaled.
    """
    zero = torch.zeros(shape, dtype=torch.float64)
    raised = sum((norm for degree, norm in norms.items() if degree > 0), zero)
    lowered = sum((norm for degree, norm in norms.items() if degree < 0), zero)
    one_sided = not any(degree < 0 for degree in norms)
    usable = (raised > 0) if one_sided else (raised > 0) & (lowered > 0)
    sizes = {abs(degree) for degree in norms}
    if len(sizes) > 1:
        log = _by_newton(norms, usable, one_sided=one_sided)
    else:
        ratio = (1 if one_sided else lowered) / raised.clamp_min(1e-300)
        log = torch.where(usable, ratio, 1.0).log() / ((2 if one_sided else 4) * max(sizes, default=1))
    return log.exp()


def _by_newton(norms: Mapping[int, Tensor], usable: Tensor, *, one_sided: bool) -> Tensor:
    """Return the logarithms of the factors of `_balance`, for degrees of several sizes."""
    log = torch.zeros(usable.shape, dtype=torch.float64)
    for _ in range(_MAX_STEPS):
        terms = {degree: norm * (2 * degree * log).exp() for degree, norm in norms.items()}
        value = sum(terms.values(), torch.zeros_like(log)).clamp_min(1e-300)
        slope = sum((2 * degree * term for degree, term in terms.items()), torch.zeros_like(log))
        curvature = sum((4 * degree**2 * term for degree, term in terms.items()), torch.zeros_like(log))
        # Without a negative degree, the logarithm of the sum becomes zero.
        ratio = value * value.log() / slope.clamp_min(1e-300) if one_sided else slope / curvature.clamp_min(1e-300)
        step = torch.where(usable, ratio.clamp(-1, 1), 0.0)
        log -= step
        if step.abs().max().item() < _TOLERANCE:
            break
    return log
