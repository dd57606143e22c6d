"""Find the scale and sign symmetries of units from gradients, and verify them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.symmetry.kind import Kind
from rebasin_core.symmetry.linear import LinearSymmetry, Symmetry
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.symmetry.slots import slot_sums, slots_of
from rebasin_core.symmetry.symmetry_element import SymmetryElement
from rebasin_core.tensors.inputs import call_arguments
from rebasin_core.tensors.modules import call_with_tensors, named_tensors
from rebasin_core.tensors.trees import tree_leaves, tree_map

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.kind import Slot
    from rebasin_core.symmetry.layout import Layout

# A conserved quantity is zero up to rounding; any other is of the order of the gradients.
_ZERO = 1e-7
_PROBES = 6


def find_rescalings(
    spec: PermutationSpec,
    model: nn.Module,
    inputs: object,
    *,
    generator: torch.Generator | None = None,
) -> tuple[LinearSymmetry, ...]:
    r"""Find the scale and sign symmetries of the units of a network.

    Consider the entries of a unit in each slot of its group: its incoming weights, its bias and its outgoing weights.
    Scaling slot $s$ by $\lambda^{d_s}$ preserves the function for all $\lambda > 0$ only if
    $\sum_s d_s \langle \theta_s, \partial f / \partial \theta_s \rangle = 0$ for every output $f$ and every input.
    The degrees $d$ are therefore in the null space of these inner products; integer solutions are verified on the
    network. A sign symmetry is verified for all slots of a group together. Each returned symmetry preserved the outputs
    in float64 under random factors.

    Args:
        spec: The permutation symmetries; only groups that are not nested are examined.
        model: The network, with the parameters at which gradients are computed; it is not changed.
        inputs: Example inputs: one input, a tuple of positional inputs, or a mapping of keyword inputs.
        generator: Random number generator for the directions of the gradients and the factors; seeded with 0 if None.

    Returns:
        Linear symmetries of the kinds `Kind.POSITIVE` and `Kind.SIGN`; a group can have several or none.

    Raises:
        InvalidInputError: If the model does not match the specification, or cannot be run on the inputs.

    References:
        D. Kunin et al. (2021), "Neural mechanics", ICLR, arXiv 2012.04728 (symmetries constrain gradients); F.
        Pittorino et al. (2022), "Deep networks on toroids", ICML, arXiv 2202.03038.

    Examples:
        >>> from rebasin_core.architectures import MLPArchitecture
        >>> from rebasin_core.symmetry import Slot
        >>> architecture = MLPArchitecture(hidden=[4])
        >>> model = architecture.build((3,), 2)
        >>> (found,) = find_rescalings(architecture.spec(model), model, torch.randn(5, 3))
        >>> str(found.kind), found.degrees[Slot("layers.0.bias", 0)], found.degrees[Slot("layers.1.weight", 1)]
        ('positive', 1, -1)
    """
    network = _Network(model, inputs, generator or torch.Generator().manual_seed(0))
    spec.layout.check(network.tensors, "the model")
    found: list[LinearSymmetry] = []
    for group in (group for group in spec.layout.groups.values() if group.within is None):
        slots = [slot for slot in slots_of(spec.layout, group.name) if slot.tensor in network.parameters]
        if not slots:
            continue
        candidates = [
            LinearSymmetry(group.name, Kind.POSITIVE, dict(zip(slots, degrees, strict=True)))
            for degrees in _degrees(network.conserved(spec.layout, slots))
        ]
        candidates.append(LinearSymmetry(group.name, Kind.SIGN, dict.fromkeys(slots, 1)))
        found += [linear for linear in candidates if network.preserves_outputs(spec.layout, linear, group.size)]
    return tuple(found)


@final
class _Network:
    """The network in float64, with gradients of random linear combinations of its outputs."""

    def __init__(self, model: nn.Module, inputs: object, generator: torch.Generator) -> None:
        self._model = copy.deepcopy(model).double().eval()
        args, kwargs = call_arguments(model, inputs)

        def wide(leaf: object) -> object:
            return leaf.detach().double() if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf

        self._args: tuple[object, ...] = tree_map(wide, args)
        self._kwargs: dict[str, object] = tree_map(wide, kwargs)
        self.tensors = {name: tensor.detach() for name, tensor in named_tensors(self._model).items()}
        self.parameters = {name for name, _ in self._model.named_parameters()}
        self._generator = generator
        self._gradients = self._probe()

    def outputs(self, tensors: dict[str, Tensor]) -> Tensor:
        """Return all outputs, concatenated to one vector."""
        try:
            result = call_with_tensors(self._model, tensors, self._args, self._kwargs)
        except (RuntimeError, TypeError, ValueError) as error:
            message = f"the model cannot be run on these inputs: {error}"
            raise InvalidInputError(message) from error
        return torch.cat([
            t.flatten() for t in tree_leaves(result) if isinstance(t, torch.Tensor) and t.is_floating_point()
        ])

    def _probe(self) -> list[dict[str, Tensor]]:
        leaves = {n: self.tensors[n].clone().requires_grad_() for n in self.parameters}
        outputs = self.outputs({**self.tensors, **leaves})
        found: list[dict[str, Tensor]] = []
        for _ in range(_PROBES):
            direction = torch.randn(outputs.shape, generator=self._generator, dtype=outputs.dtype)
            gradients = torch.autograd.grad(
                outputs, list(leaves.values()), direction, retain_graph=True, materialize_grads=True
            )
            found.append(dict(zip(leaves, gradients, strict=True)))
        return found

    def conserved(self, layout: Layout, slots: Sequence[Slot]) -> Tensor:
        """Return the inner products of parameters and gradients, ``[probes * units, slots]``."""
        columns = [
            torch.cat([
                slot_sums(layout, slot, self.tensors[slot.tensor] * gradients[slot.tensor])
                for gradients in self._gradients
            ])
            for slot in slots
        ]
        return torch.stack(columns, dim=1)

    def preserves_outputs(self, layout: Layout, linear: LinearSymmetry, size: int) -> bool:
        """Return whether random factors of the units leave the outputs unchanged."""
        noise = torch.rand(size, generator=self._generator, dtype=torch.float64)
        factors = (noise - 0.5).exp() if linear.kind is Kind.POSITIVE else torch.where(noise < 0.5, -1.0, 1.0).double()
        if linear.kind is Kind.SIGN and not bool((factors < 0).any()):
            factors[0] = -1.0
        element = SymmetryElement(Symmetry(layout, (linear,)), Permutation.identity(layout), [factors])
        with torch.no_grad():
            before = self.outputs(self.tensors)
            after = self.outputs(element.apply(self.tensors))
        return bool(torch.allclose(before, after, rtol=1e-8, atol=1e-9 * before.abs().max().item()))


def _degrees(products: Tensor) -> list[tuple[int, ...]]:
    """Return an integer basis of the null space of a matrix, in reduced echelon form."""
    columns = products.shape[1]
    _, values, right = torch.linalg.svd(products, full_matrices=True)
    padded = torch.zeros(columns, dtype=values.dtype)
    padded[: len(values)] = values
    basis = right[padded <= _ZERO * max(padded.max().item(), 1e-300)]
    for row in range(len(basis)):
        # After Gauss-Jordan elimination with pivoting, the entries are integers if integer vectors span the space.
        pivot = int(basis[row].abs().argmax())
        basis[row] /= basis[row, pivot].clone()
        for other in range(len(basis)):
            if other != row:
                basis[other] -= basis[other, pivot].clone() * basis[row]
    whole = basis.round()
    near = (basis - whole).abs().amax(1) < 1e-4 if len(basis) else torch.zeros(0, dtype=torch.bool)
    rows = [tuple(int(v) for v in row) for row in whole[near].tolist()]
    return [row if next(v for v in row if v) > 0 else tuple(-v for v in row) for row in rows if any(row)]
