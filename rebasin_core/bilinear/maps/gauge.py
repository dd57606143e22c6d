r"""The gauge of minimal norm: a representative of all networks that differ by scales and invertible maps.

The squared norm of a network, as a function of a scale or an invertible map of one group, is
$\mathrm{tr}(M P) + \mathrm{tr}(M^{-1} Q)$, where $M = g^\top g$, and $P$ and $Q$ are the Gram matrices of all weights
that produce and consume the units. Its minimum satisfies $M P M = Q$: the geometric mean of $P^{-1}$ and $Q$, and for a
scale the fourth root of a ratio of norms. The minimum is unique up to orthogonal maps, or signs. Therefore two networks
in this gauge that differ by the whole group differ by orthogonal maps, signs and permutations only.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

from rebasin_core.bilinear.maps.cell_pairs import cell_pairs
from rebasin_core.errors import ConvergenceWarning
from rebasin_core.symmetry.kind import Kind
from rebasin_core.symmetry.linear import LinearSymmetry, Symmetry
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.symmetry.shifts import shift_values
from rebasin_core.symmetry.symmetry_element import SymmetryElement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.bilinear.terms import Channels
    from rebasin_core.symmetry.kind import Slot

_UNBOUNDED = {Kind.POSITIVE, Kind.NONZERO, Kind.ROTATION, Kind.INVERTIBLE}
_MAX_SWEEPS = 200
# Relative decreases of the squared norm, which are squares of the changes of maps near the minimum: the smallest for
# which a map is applied, and the largest in the last sweep without a warning.
_TOLERANCE = 1e-14
_INEXACT = 1e-6
# Squared norm of added weights, relative to the mean of the given ones, and the smallest relative eigenvalue without
# them: maps of rank-deficient weights stay bounded.
_RIDGE = 1e-6
FULL_RANK = 1e-6


def balanced(symmetry: Symmetry, channels: Channels) -> tuple[Channels, SymmetryElement]:
    """Return a network in the gauge of minimal norm, and the element that transforms the network to it.

    Args:
        symmetry: The linear symmetries.
        channels: ``[C, *s]`` for every parameter; further channels than the first are transformed by absolute values.

    Returns:
        The channels in float64, those of stacks as one; and the element: scales and symmetric positive definite maps.

    References:
        F. Pittorino et al. (2022), "Deep networks on toroids", ICML, arXiv 2202.03038 (scales); G. Kempf, L. Ness
        (1979), "The length of vectors in representation spaces" (uniqueness up to a compact group).
    """
    current = {name: tensor.double() for name, tensor in symmetry.layout.stacked(channels).items()}
    total = SymmetryElement.identity(symmetry)
    unbounded = [index for index, linear in enumerate(symmetry.linear) if linear.kind in _UNBOUNDED]
    added: dict[int, tuple[Tensor, Tensor]] = {}
    change = 0.0
    for _ in range(_MAX_SWEEPS if unbounded else 0):
        change = 0.0
        for index in unbounded:
            linear = symmetry.linear[index]
            value, decrease = _best(symmetry, index, current, added)
            if decrease > _TOLERANCE:
                step = mapping(symmetry, {index: value})
                current = transformed(step, current, {slot.tensor for slot in linear.degrees})
                total = total.compose(step)
                change = max(change, decrease)
        if change <= _TOLERANCE:
            break
    if change > _INEXACT:
        message = (
            f"the squared norm still decreased by {100 * change:.2g} % in the last of {_MAX_SWEEPS} sweeps: the gauge "
            "is approximate"
        )
        warnings.warn(message, ConvergenceWarning, stacklevel=2)
    return current, total


def centered(symmetry: Symmetry, channels: Channels) -> Channels:
    r"""Return a network in centered coordinates, in which flips are signs (see `Shift`), on a common scale.

    Units $\tfrac c2 + o(u)$ are replaced by $\tfrac2c o(v / \kappa)$ with $\kappa = \lvert o'(0) \rvert \tfrac2c$, a
    function with slope 1 and the values of tanh for large arguments: weights that produce them are multiplied by
    $\kappa$, weights that consume them by $\tfrac c2$. Flips and permutations do not change these factors.

    Args:
        symmetry: The linear symmetries.
        channels: ``[C, *s]`` for every parameter; one channel for parameters that flips transform.

    Returns:
        The channels in float64.
    """
    if not symmetry.shifts:
        return channels
    added = shift_values(symmetry.layout, symmetry.shifts, channels)
    found = {name: tensor.double() + added.get(name, 0.0) for name, tensor in channels.items()}
    factors = _common_scale(symmetry)
    groups = {slot: linear.group for linear in symmetry.linear for slot in linear.degrees}
    scaled = tuple(LinearSymmetry(groups[slot], Kind.POSITIVE, {slot: 1}) for slot in factors)
    scales = Symmetry(symmetry.layout, scaled, symmetry.unpermuted)
    maps = [
        torch.full(scales.map_shape(linear), factors[slot]).double() for linear in scaled for slot in linear.degrees
    ]
    step = mapping(scales, dict(enumerate(maps)))
    return {**found, **step.apply({name: tensor for name, tensor in found.items() if name in scales.by_tensor})}


def _common_scale(symmetry: Symmetry) -> dict[Slot, float]:
    """Return the factor of every slot of units that flip."""
    factors: dict[Slot, float] = {}
    flips = [linear for linear in symmetry.linear if linear.shifts]
    for linear in flips:
        for shift in linear.shifts:
            consumed = [slot for slot in linear.degrees if slot.tensor == shift.weight and slot.dim != shift.dim]
            factors |= dict.fromkeys(consumed, abs(shift.constant) / 2)
    for linear in flips:
        slope = abs(2 * linear.shifts[0].slope / linear.shifts[0].constant)
        factors |= {slot: slope for slot in linear.degrees if slot not in factors}
    return factors


def mapping(symmetry: Symmetry, maps: Mapping[int, Tensor]) -> SymmetryElement:
    """Return an element that permutes nothing.

    Args:
        symmetry: The linear symmetries.
        maps: Maps by index among the linear symmetries; all others are the identity.

    Returns:
        The element.
    """
    identity = Permutation.identity(symmetry.permutations)
    return SymmetryElement(symmetry, identity, [maps.get(index) for index in range(len(symmetry.linear))])


def transformed(element: SymmetryElement, channels: Channels, names: set[str]) -> Channels:
    """Return channels with some tensors transformed.

    Args:
        element: The element.
        channels: ``[C, *s]`` by name; the first channel is transformed by the element, others by absolute values.
        names: Names of the tensors that the element transforms.

    Returns:
        The channels; other tensors are those given.
    """
    given = {name: tensor for name, tensor in channels.items() if name in names}
    first = element.apply({name: tensor[:1] for name, tensor in given.items()})
    others = {name: tensor[1:] for name, tensor in given.items() if tensor.shape[0] > 1}
    rest = _absolute(element).apply(others) if others else {}
    return {**channels, **{n: torch.cat([t, rest[n]]) if n in rest else t for n, t in first.items()}}


def _absolute(element: SymmetryElement) -> SymmetryElement:
    """Return the element that transforms standard deviations."""
    maps = [None if value is None else value.abs() for value in element.maps]
    return SymmetryElement(element.symmetry, element.permutation, maps)


def _best(
    symmetry: Symmetry, index: int, channels: Mapping[str, Tensor], added: dict[int, tuple[Tensor, Tensor]]
) -> tuple[Tensor, float]:
    """Return the optimal map with all others fixed, and the relative decrease of the squared norm.

    Args:
        symmetry: The linear symmetries.
        index: Index of the map.
        channels: The network.
        added: Gram matrices of small added weights by index, which are transformed like weights; updated.
    """
    linear = symmetry.linear[index]
    produced = gram(symmetry, linear, channels, 1)
    consumed = gram(symmetry, linear, channels, -1)
    if linear.kind is Kind.INVERTIBLE:
        own = added.get(index) or (_small(produced), _small(consumed))
        found, inverse = _geometric_mean(produced + own[0], consumed + own[1])
        after = _trace(found @ produced @ found) + _trace(inverse @ consumed @ inverse)
        decrease = 1 - after / (_trace(produced) + _trace(consumed))
        if decrease > _TOLERANCE:
            added[index] = found @ own[0] @ found, inverse @ own[1] @ inverse
        return found, decrease
    if linear.kind is Kind.ROTATION:
        produced = torch.add(*linear.pairs.parts(produced, -1))
        consumed = torch.add(*linear.pairs.parts(consumed, -1))
    usable = (produced > 0) & (consumed > 0)
    ratio = torch.where(usable, consumed / produced.clamp_min(torch.finfo(produced.dtype).tiny), 1.0)
    factor = ratio**0.25
    after = float((produced * factor.square()).sum() + (consumed / factor.square()).sum())
    decrease = 1 - after / max(float(produced.sum() + consumed.sum()), torch.finfo(torch.float64).tiny)
    if linear.kind is Kind.ROTATION:
        return torch.stack([factor, torch.zeros_like(factor)], -1), decrease
    return factor, decrease


def _trace(matrix: Tensor) -> float:
    return float(matrix.diagonal(dim1=-2, dim2=-1).sum())


def gram(symmetry: Symmetry, linear: LinearSymmetry, channels: Mapping[str, Tensor], sign: int) -> Tensor:
    """Return the Gram matrices of producing or consuming weights, or their diagonals for factors.

    Args:
        symmetry: The linear symmetries.
        linear: One of them.
        channels: ``[C, *s]`` by name, in float64.
        sign: 1 for slots of positive degree (producing weights), -1 for those of negative degree.

    Returns:
        ``[*outer, n, n]`` for invertible maps, else ``[*outer, n]``.
    """
    shape = symmetry.layout.index_shape(linear.group)
    is_matrix = linear.kind is Kind.INVERTIBLE
    outer = symmetry.layout.ancestors(linear.group)
    like = next(iter(channels.values()))
    total = torch.zeros((*shape, shape[-1]) if is_matrix else shape, dtype=torch.float64, device=like.device)
    for name in dict.fromkeys(slot.tensor for slot in linear.degrees):
        if name not in channels:
            continue
        for cell in cell_pairs(symmetry.layout, name, channels[name], channels[name]):
            for position, slot in enumerate(cell.slots):
                if slot is None or linear.degrees.get(slot, 0) * sign <= 0:
                    continue
                front = [*(cell.dims_of(group)[0] for group in outer), position + 1]
                rows = cell.reference.movedim(front, [*range(len(front))]).reshape(*shape, -1)
                total += rows @ rows.mT if is_matrix else rows.square().sum(-1)
    return total


def _geometric_mean(produced: Tensor, consumed: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return $M^{1/2}$ with $M P M = Q$, and its inverse."""
    root, inverse_root = _roots(produced)
    middle, _ = _roots(root @ consumed @ root)
    return _roots(inverse_root @ middle @ inverse_root)


def _small(gram: Tensor) -> Tensor:
    """Return a small multiple of the identity for a singular matrix, else zero."""
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    values = torch.linalg.eigvalsh(gram)
    scale = _RIDGE * values.mean(-1).clamp_min(torch.finfo(gram.dtype).tiny)
    scale = torch.where(values[..., 0] > FULL_RANK * values[..., -1], torch.zeros_like(scale), scale)
    return scale[..., None, None] * identity


def _roots(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the symmetric square root of a positive definite matrix, and its inverse."""
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    # Eigenvalues below are rounding.
    smallest = (torch.finfo(values.dtype).eps * values[..., -1:]).clamp_min(torch.finfo(values.dtype).tiny)
    roots = values.clamp_min(smallest).sqrt()
    return (vectors * roots.unsqueeze(-2)) @ vectors.mT, (vectors / roots.unsqueeze(-2)) @ vectors.mT
