"""Canonical forms: one network out of all that compute the same function."""

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

# Coordinate descent on a convex function of the logarithms of the factors.
_MAX_SWEEPS = 500
_CONVERGED = 1e-12


@final
@dataclass(frozen=True, slots=True)
class CanonicalForm:
    """A network in canonical form, and how it got there.

    Attributes:
        tensors: The network, of the same function.
        scaling: What its units were scaled by, first.
        permutation: How they were ordered, after that.
    """

    tensors: Mapping[str, Tensor]
    scaling: UnitScaling
    permutation: Permutation


def canonical_form(
    tensors: Mapping[str, Tensor], spec: PermutationSpec, rescalings: Sequence[Rescaling] = ()
) -> CanonicalForm:
    r"""Return a network with all its scales, signs and orders of units removed.

    Scales: of all networks of the same function, that of the least norm, in which incoming and outgoing weights of a
    unit have the same norm; units whose scale does not matter at all (before a normalisation) get norm one. Signs: a
    unit's bias (without one, the sum of its first weights) is not negative. Order: units stand by falling norm of their
    weights. Networks that differ by these symmetries only have the same form, unless two units tie.

    Args:
        tensors: Parameters and buffers by name.
        spec: The symmetries under permutation.
        rescalings: Those of scale and sign, as from `find_rescalings`.

    Returns:
        The form. Nested groups keep their order.

    Raises:
        InvalidInputError: If the tensors do not fit the specification.

    References:
        F. Pittorino et al. (2022), "Deep networks on toroids: removing symmetries reveals the structure of flat regions
        in the landscape geometry", ICML, arXiv 2202.03038; O. Laurent, E. Aldea, G. Franchi (2024), "A symmetry-aware
        exploration of Bayesian neural network posteriors", ICLR, arXiv 2310.08287, section 3 (the network of least
        norm).

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
    # In single precision the sweeps would not come to rest.
    current = {name: t.double() if t.is_floating_point() else t for name, t in copied(tensors).items()}
    factors = [torch.ones(layout.groups[r.group].size, dtype=torch.float64) for r in rescalings]
    for _ in range(_MAX_SWEEPS):
        change = 0.0
        for place, rescaling in enumerate(rescalings):
            factor = _best_factor(layout, rescaling, current)
            current = UnitScaling(layout, [rescaling], [factor]).apply(current)
            factors[place] *= factor
            change = max(change, (factor.log().abs() if rescaling.kind == "scale" else factor - 1).abs().max().item())
        if change < _CONVERGED:
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
    """Return the factors that bring the units of a group into their form, while all others stay."""
    group = rescaling.group
    if rescaling.kind == "sign":
        # The tensor of the fewest axes, on which the group stands alone: the bias, where there is one.
        size = layout.groups[group].size
        alone = [slot for slot in rescaling.degrees if layout.shape(slot[0])[slot[1]] == size]
        if not alone:
            return torch.ones(size, dtype=torch.float64)
        name, dim = min(alone, key=lambda slot: tensors[slot[0]].dim())
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
    # The least of raised * x^2 + lowered / x^2; a unit without one of the two is dead, and left alone.
    usable &= lowered > 0
    return torch.where(usable, (lowered / raised.clamp_min(1e-300)) ** 0.25, 1.0)


def _by_norm(layout: Layout, tensors: Mapping[str, Tensor]) -> Permutation:
    """Return the permutation that sorts the units of every group that is not nested by falling norm."""
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
