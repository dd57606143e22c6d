"""Canonical forms: one representative of all networks that differ by symmetries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.analysis.balance import minimal_norm_element
from rebasin_core.analysis.orientation import orienting_element
from rebasin_core.symmetry.linear import Symmetry
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.symmetry.shifts import shift_values
from rebasin_core.symmetry.slots import contains_permutations, slot_sums, slots_of
from rebasin_core.symmetry.symmetry_element import recentered
from rebasin_core.tensors.modules import copied

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.linear import LinearSymmetry
    from rebasin_core.symmetry.symmetry_element import SymmetryElement


@final
@dataclass(frozen=True, slots=True)
class CanonicalForm:
    """A network in canonical form, and the symmetry that maps the original network to it.

    Attributes:
        tensors: Parameters and buffers of the canonical network, which computes the same function.
        element: The linear maps of the units, which are applied first, and their permutation.
    """

    tensors: Mapping[str, Tensor]
    element: SymmetryElement


def canonical_form(
    tensors: Mapping[str, Tensor], spec: PermutationSpec, symmetry: Symmetry | Sequence[LinearSymmetry] = ()
) -> CanonicalForm:
    r"""Return the canonical form of a network modulo permutations and linear symmetries.

    - *Scales and invertible maps*: the network of minimal norm. The incoming and outgoing weights of each unit then
      have equal norms, or for invertible maps equal Gram matrices. If the scale of a unit has no effect (before a
      normalization), its norm is 1.
    - *Permutations*: units are sorted by decreasing norm of their weights; inner units within each outer unit, and
      outer units, such as heads, by the norm of all their weights.
    - *Orthogonal maps*, which also remain of invertible maps: the units are the left singular vectors of the matrix
      $(A_1, A_2, \dots)$ of all weights of the group, sorted by decreasing singular value. $A_s$ has the units of slot
      $s$ as rows. For orthogonal maps that fix the ones, these are singular vectors on the complement of the ones.
    - *Signs and angles*: the bias of each unit is not negative; for units without bias, the sum of their weights at the
      first tensor that is shared with inputs, outputs or groups whose signs are determined already. Of a pair of
      rotated units, the first has the positive sum, and the second the sum zero.

    Biases are those in centered coordinates (see `Shift`), where flips are signs.

    Networks that differ only by these symmetries have the same form, up to rounding, unless there are ties: equal
    norms or singular values, sums that are zero, or for invertible maps weights that do not have full rank, for which
    the minimal norm is not attained. The form then also computes the same function.

    Args:
        tensors: Parameters and buffers by name.
        spec: Permutation symmetries of the network.
        symmetry: Linear symmetries: ``spec.symmetry``, for folded networks ``spec.folded_symmetry``, or a sequence
            such as that of `find_rescalings`; permutations only by default.

    Returns:
        The canonical form.

    Raises:
        InvalidInputError: If the tensors do not fit the specification, or scales of normalizations are not one, as
            orthogonal maps require (see `rebasin_core.fold`).

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
    if not isinstance(symmetry, Symmetry):
        symmetry = Symmetry(whole.layout, tuple(symmetry), whole.unpermuted)
    # In single precision the descents would not converge to their tolerances.
    buffers = symmetry.layout.buffers or ()
    own = {n: t.double().cpu() for n, t in copied(tensors).items() if t.is_floating_point()}
    parameters = symmetry.layout.stacked({name: tensor for name, tensor in own.items() if name not in buffers})
    gauge = symmetry.centered
    added = shift_values(symmetry.layout, symmetry.shifts, parameters)
    parameters = {**parameters, **{name: parameters[name] + shift for name, shift in added.items()}}
    element = minimal_norm_element(gauge, parameters)
    balanced = element.apply(parameters)
    every = {**symmetry.layout.stacked({name: t for name, t in own.items() if name in buffers}), **balanced}
    permutation = _sorting(gauge, every)
    element = element.compose(permutation)
    element = recentered(element.compose(orienting_element(gauge, permutation.apply(balanced))), symmetry)
    return CanonicalForm(element.apply(tensors), element)


def _sorting(symmetry: Symmetry, tensors: Mapping[str, Tensor]) -> Permutation:
    """Return the permutation that sorts the units of every group by decreasing norm, inner groups first."""
    layout = symmetry.permutations
    mixed = {(linear.group, slot) for linear in symmetry.linear if not linear.kind.is_factor for slot in linear.degrees}
    sorted_by_maps = {linear.group for linear in symmetry.linear if contains_permutations(symmetry.layout, linear)}
    total = Permutation.identity(layout)
    for name in reversed(layout.outer_first):
        if name in sorted_by_maps:
            continue
        norms = torch.zeros(layout.index_shape(name), dtype=torch.float64)
        own = {n: tensors[n] for n in layout.tensors_of(name) if n in tensors}
        permuted = total.apply(own)
        for slot in slots_of(layout, name):
            if slot.tensor in permuted and (name, slot) not in mixed:
                norms += slot_sums(layout, slot, permuted[slot.tensor].square()).cpu()
        order = norms.argsort(dim=-1, descending=True, stable=True)
        total = total.compose(Permutation(layout, {**Permutation.identity(layout).indices, name: order}))
    return total
