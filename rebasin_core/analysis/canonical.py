"""Canonical forms: one representative of all networks that differ by scale, sign and permutation symmetries."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import ConvergenceWarning, InvalidInputError
from rebasin_core.symmetry.kind import Kind
from rebasin_core.symmetry.linear import Symmetry
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.symmetry.slots import slot_sums, slots_of
from rebasin_core.symmetry.symmetry_element import SymmetryElement
from rebasin_core.tensors.modules import copied

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.layout import Layout
    from rebasin_core.symmetry.linear import LinearSymmetry

# Limits of coordinate descent over the factors; the squared norm is convex in their logarithms.
_MAX_SWEEPS = 500
_TOLERANCE = 1e-12
_MAX_STEPS = 100


@final
@dataclass(frozen=True, slots=True)
class CanonicalForm:
    """A network in canonical form, and the symmetry that maps the original network to it.

    Attributes:
        tensors: Parameters and buffers of the canonical network, which computes the same function.
        element: Scales and signs of the units, which are applied first, and their permutation.
    """

    tensors: Mapping[str, Tensor]
    element: SymmetryElement


def canonical_form(
    tensors: Mapping[str, Tensor], spec: PermutationSpec, rescalings: Sequence[LinearSymmetry] = ()
) -> CanonicalForm:
    r"""Return the canonical form of a network modulo scales, signs and permutations of its units.

    - *Scales*: the network of minimal norm among those that differ by scales. The incoming and outgoing weights of each
      unit then have equal norms. If the scale of a unit has no effect (before a normalization), its norm is 1.
    - *Signs*: the bias of each unit is not negative; for units without bias, the sum of their incoming weights.
    - *Permutations*: units are sorted by decreasing norm of their weights.

    Networks that differ only by these symmetries have the same form, unless there are ties between units.

    Args:
        tensors: Parameters and buffers by name.
        spec: Permutation symmetries of the network.
        rescalings: Linear symmetries of the kinds sign, positive and nonzero, from `find_rescalings` or
            `PermutationSpec.symmetry`.

    Returns:
        The canonical form. Nested groups, and groups around them, are not permuted.

    Raises:
        InvalidInputError: If the tensors do not fit the specification, or a symmetry is of another kind.

    References:
        F. Pittorino et al. (2022), "Deep networks on toroids: removing symmetries reveals the structure of flat regions
        in the landscape geometry", ICML, arXiv 2202.03038; O. Laurent, E. Aldea, G. Franchi (2024), "A symmetry-aware
        exploration of Bayesian neural network posteriors", ICLR, arXiv 2310.08287, section 3 (on minimal norms).

    Examples:
        >>> from rebasin_core.architectures import MLPArchitecture
        >>> from rebasin_core.specs import find_rescalings
        >>> architecture = MLPArchitecture(hidden=[4])
        >>> model = architecture.build((3,), 2)
        >>> spec = architecture.spec(model)
        >>> rescalings = find_rescalings(spec, model, torch.randn(5, 3))
        >>> found = canonical_form(dict(model.named_parameters()), spec, rescalings)
        >>> into, out = (found.tensors[f"layers.{layer}.weight"] for layer in (0, 1))
        >>> bias = found.tensors["layers.0.bias"]
        >>> bool(torch.allclose(into.square().sum(1) + bias.square(), out.square().sum(0), rtol=1e-4))
        True
    """
    spec.layout.check(tensors, "the network")
    whole = spec.symmetry
    symmetry = Symmetry(whole.layout, tuple(rescalings), whole.unpermuted)
    other = next((linear for linear in rescalings if not linear.kind.is_factor), None)
    if other is not None:
        message = f"expected factors of units, got maps of kind {str(other.kind)!r} of group {other.group!r}"
        raise InvalidInputError(message)
    # In single precision the sweeps would not converge to the tolerance.
    current = {name: t.double() if t.is_floating_point() else t for name, t in copied(tensors).items()}
    factors = _balanced(symmetry, current)
    identity = Permutation.identity(symmetry.permutations)
    scaled = SymmetryElement(symmetry, identity, factors).apply(tensors)
    element = SymmetryElement(symmetry, _by_norm(symmetry.permutations, scaled), factors)
    return CanonicalForm(element.apply(tensors), element)


def _balanced(symmetry: Symmetry, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the factors of every linear symmetry, by coordinate descent over them."""
    identity = Permutation.identity(symmetry.permutations)
    factors = [torch.ones(symmetry.map_shape(linear), dtype=torch.float64) for linear in symmetry.linear]
    change = 0.0
    for _ in range(_MAX_SWEEPS):
        change = 0.0
        for index, linear in enumerate(symmetry.linear):
            alone = Symmetry(symmetry.layout, (linear,), symmetry.unpermuted)
            factor = _best_factor(symmetry.layout, linear, tensors)
            tensors = SymmetryElement(alone, identity, [factor]).apply(tensors)
            factors[index] *= factor
            flipped = 2.0 * float((factor < 0).any())
            change = max(change, flipped, factor.abs().log().abs().max().item())
        if change < _TOLERANCE:
            return factors
    message = (
        f"the scales of the canonical form still changed by a factor of {math.exp(change):.3g} after {_MAX_SWEEPS} "
        "sweeps: the form is approximate"
    )
    warnings.warn(message, ConvergenceWarning, stacklevel=3)
    return factors


def _best_factor(layout: Layout, linear: LinearSymmetry, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the optimal factors of the units of a group, with all other groups fixed."""
    parameters = {
        slot: degree
        for slot, degree in linear.degrees.items()
        if slot.tensor not in (layout.buffers or ()) and tensors[slot.tensor].is_floating_point()
    }
    signs: Tensor | float = 1.0
    if linear.kind is not Kind.POSITIVE:
        odd = [slot for slot, degree in parameters.items() if degree % 2]
        if odd:
            # The tensor with the fewest dimensions: the bias, if there is one.
            slot = min(odd, key=lambda each: tensors[each.tensor].dim())
            signs = torch.where(slot_sums(layout, slot, tensors[slot.tensor]).cpu() < 0, -1.0, 1.0).double()
    if linear.kind is Kind.SIGN:
        return signs * torch.ones(layout.index_shape(linear.group), dtype=torch.float64)
    norms: dict[int, Tensor] = {}
    for slot, degree in parameters.items():
        squares = slot_sums(layout, slot, tensors[slot.tensor].double().square()).cpu()
        norms[degree] = norms[degree] + squares if degree in norms else squares
    return signs * _balance(norms, layout.index_shape(linear.group))


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


def _by_norm(layout: Layout, tensors: Mapping[str, Tensor]) -> Permutation:
    """Return the permutation that sorts the units of every group without nesting by decreasing norm."""
    indices = {name: index.clone() for name, index in Permutation.identity(layout).indices.items()}
    for name in layout.groups.keys() - layout.nesting:
        norms = torch.zeros(layout.groups[name].size, dtype=torch.float64)
        for slot in slots_of(layout, name):
            if slot.tensor in tensors and tensors[slot.tensor].is_floating_point():
                norms += slot_sums(layout, slot, tensors[slot.tensor].double().square()).cpu()
        indices[name] = norms.argsort(descending=True, stable=True)
    return Permutation(layout, indices)
