"""Random linear maps of a symmetry applied to a network, and symmetries that are one step too large."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rebasin_core.symmetry import Kind, LinearSymmetry, Permutation, Symmetry, SymmetryElement
from rebasin_core.symmetry.slots import slots_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

    from rebasin_core.symmetry import Slot


def linear_error_of(model: nn.Module, inputs: Tensor, symmetry: Symmetry, *, draws: int = 1) -> float:
    """Return the largest relative change of the outputs under random maps, at random parameters in float64.

    Every family of maps is applied alone; then all of them together, followed by a permutation.
    """
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for _ in range(draws if symmetry.linear else 0):
        values = random_values(model, symmetry, generator)
        expected = torch.func.functional_call(model, values, inputs)
        for element in elements_of(symmetry, generator):
            found = torch.func.functional_call(model, element.apply(values), inputs)
            change = ((found - expected).abs().max() / expected.abs().max()).item()
            largest = max(largest, change if change == change else 0.0)  # ruff: ignore[comparison-with-itself]
    return largest


def random_values(model: nn.Module, symmetry: Symmetry, generator: torch.Generator) -> dict[str, Tensor]:
    """Return random parameters and positive buffers in float64; one or zero where the symmetry needs it."""
    values = {
        name: torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        for name, tensor in model.named_parameters()
    }
    values |= {
        name: 0.5 + torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
        for name, tensor in model.named_buffers()
        if tensor.is_floating_point()
    }
    required = {name: value for linear in symmetry.linear for name, value in linear.required.items()}
    return {
        name: torch.full_like(tensor, required[name]) if name in required else tensor for name, tensor in values.items()
    }


def elements_of(symmetry: Symmetry, generator: torch.Generator) -> list[SymmetryElement]:
    """Return random maps of each family alone, and of all together with a random permutation."""
    drawn = SymmetryElement.random(symmetry, generator=generator)
    identity = Permutation.identity(symmetry.permutations)
    alone = [
        SymmetryElement(symmetry, identity, [value if other == index else None for other in range(len(drawn.maps))])
        for index, value in enumerate(drawn.maps)
    ]
    return [*alone, drawn]


def one_step_larger(symmetry: Symmetry) -> Iterator[tuple[str, Symmetry]]:
    """Yield a description and the wrong family alone, for every family of maps that is one step larger.

    An invertible map cannot be larger; it is missing on one of its tensors instead.
    """
    layout = symmetry.layout
    for group in layout.groups:
        inner = [name for name in layout.groups if group in layout.ancestors(name)]
        for linear in symmetry.of(group):
            for kind, degrees in _larger(linear):
                if kind.is_factor or not inner:  # a group with inner groups has factors only
                    wrong = LinearSymmetry(group, kind, degrees, linear.ones, linear.zeros)
                    yield f"{group}: {kind} for {linear.kind}", Symmetry(layout, (wrong,))
        if not any(symmetry.of(name) for name in (group, *inner)):  # signs of heads are among the maps of their width
            signs = LinearSymmetry(group, Kind.SIGN, dict.fromkeys(slots_of(layout, group), 1))
            yield f"{group}: sign for none", Symmetry(layout, (signs,))


def _larger(linear: LinearSymmetry) -> Iterator[tuple[Kind, Mapping[Slot, int]]]:
    degrees = linear.degrees
    match linear.kind:
        case Kind.SIGN:
            yield Kind.ORTHOGONAL, degrees
            yield Kind.NONZERO, oriented(degrees)
        case Kind.FLIP:
            yield Kind.SIGN, degrees
            yield Kind.POSITIVE, oriented(degrees)
        case Kind.POSITIVE:
            yield Kind.NONZERO, degrees
        case Kind.NONZERO if set(degrees.values()) <= {-1, 1}:
            yield Kind.INVERTIBLE, degrees
        case Kind.ORTHOGONAL_FIXING_ONES:
            yield Kind.ORTHOGONAL, degrees
        case Kind.ORTHOGONAL:
            yield Kind.INVERTIBLE, oriented(degrees)
            yield Kind.POSITIVE, oriented(degrees)
        case Kind.ROTATION:
            yield Kind.INVERTIBLE, degrees
        case Kind.INVERTIBLE:
            yield Kind.INVERTIBLE, dict(list(degrees.items())[1:])
        case _:
            return


def oriented(degrees: Mapping[Slot, int]) -> dict[Slot, int]:
    """Return degree 1 for the tensors that produce units, by the conventions of PyTorch, and -1 for others."""
    is_table = ("embed", "position", "token")
    produces = {slot: slot.dim == 0 or any(word in slot.tensor for word in is_table) for slot in degrees}
    return {slot: 1 if produces[slot] else -1 for slot in degrees}
