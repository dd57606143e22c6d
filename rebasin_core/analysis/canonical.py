"""Canonical forms: one representative of all networks that differ by scale, sign and permutation symmetries."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import ConvergenceWarning
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.symmetry.rescaling import Rescaling, UnitScaling, unit_norms
from rebasin_core.tensors.modules import copied

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.layout import Layout

# Limits of coordinate descent over the factors; the squared norm is convex in their logarithms.
_MAX_SWEEPS = 500
_TOLERANCE = 1e-12


@final
@dataclass(frozen=True, slots=True)
class CanonicalForm:
    """A network in canonical form, and the symmetries that map the original network to it.

    Attributes:
        tensors: Parameters and buffers of the canonical network, which computes the same function.
        scaling: Scales and signs of the units, which are applied first.
        permutation: Permutation of the units, which is applied second.
    """

    tensors: Mapping[str, Tensor]
    scaling: UnitScaling
    permutation: Permutation


def canonical_form(
    tensors: Mapping[str, Tensor], spec: PermutationSpec, rescalings: Sequence[Rescaling] = ()
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
        rescalings: Scale and sign symmetries, from `find_rescalings`.

    Returns:
        The canonical form. Nested groups, and groups around them, are not permuted.

    Raises:
        InvalidInputError: If the tensors do not fit the specification.

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
    layout = spec.layout
    layout.check(tensors, "the network")
    # In single precision the sweeps would not converge to the tolerance.
    current = {name: t.double() if t.is_floating_point() else t for name, t in copied(tensors).items()}
    factors = [torch.ones(layout.groups[r.group].size, dtype=torch.float64) for r in rescalings]
    for _ in range(_MAX_SWEEPS):
        change = 0.0
        for index, rescaling in enumerate(rescalings):
            factor = _best_factor(layout, rescaling, current)
            current = UnitScaling(layout, [rescaling], [factor]).apply(current)
            factors[index] *= factor
            change = max(change, (factor.log().abs() if rescaling.kind == "scale" else factor - 1).abs().max().item())
        if change < _TOLERANCE:
            break
    else:
        message = (
            f"the scales of the canonical form still changed by a factor of {math.exp(change):.3g} after {_MAX_SWEEPS} "
            "sweeps: the form is approximate"
        )
        warnings.warn(message, ConvergenceWarning, stacklevel=2)
    scaling = UnitScaling(layout, rescalings, factors)
    permutation = _by_norm(layout, scaling.apply(tensors))
    return CanonicalForm(permutation.apply(scaling.apply(tensors)), scaling, permutation)


def _best_factor(layout: Layout, rescaling: Rescaling, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the optimal factors of the units of a group, with all other groups fixed."""
    group = rescaling.group
    if rescaling.kind == "sign":
        # The tensor with the fewest dimensions on an axis of which only this group acts: the bias, if there is one.
        size = layout.groups[group].size
        single = [slot for slot in rescaling.degrees if layout.shape(slot[0])[slot[1]] == size]
        if not single:
            return torch.ones(size, dtype=torch.float64)
        name, dim = min(single, key=lambda slot: tensors[slot[0]].dim())
        sums = tensors[name].double().movedim(dim, 0).reshape(size, -1).sum(1).cpu()
        return torch.where(sums < 0, -1.0, 1.0).double()
    raised = torch.zeros(layout.groups[group].size, dtype=torch.float64)
    lowered = torch.zeros_like(raised)
    for (name, dim), degree in rescaling.degrees.items():
        norms = unit_norms(layout, group, name, dim, tensors[name]).cpu()
        if degree > 0:
            raised += norms
        else:
            lowered += norms
    usable = raised > 0
    if not any(degree < 0 for degree in rescaling.degrees.values()):
        return torch.where(usable, raised.clamp_min(1e-300).rsqrt(), 1.0)
    # The minimum of raised * x^2 + lowered / x^2. A unit for which one of the two is 0 is dead, and not scaled.
    usable &= lowered > 0
    return torch.where(usable, (lowered / raised.clamp_min(1e-300)) ** 0.25, 1.0)


def _by_norm(layout: Layout, tensors: Mapping[str, Tensor]) -> Permutation:
    """Return the permutation that sorts the units of every group without nesting by decreasing norm."""
    indices = {name: index.clone() for name, index in Permutation.identity(layout).indices.items()}
    for name, group in layout.groups.items():
        if group.within is not None or any(other.within == name for other in layout.groups.values()):
            continue
        norms = torch.zeros(group.size, dtype=torch.float64)
        for tensor, axes in layout.axes.items():
            for dim in range(len(axes)):
                if tensor in tensors and tensors[tensor].is_floating_point():
                    norms += unit_norms(layout, name, tensor, dim, tensors[tensor]).cpu()
        indices[name] = norms.argsort(descending=True, stable=True)
    return Permutation(layout, indices)
