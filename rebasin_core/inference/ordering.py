"""Shared ordering of the units of several networks, which are stacked in the same tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch

from rebasin_core.bilinear.coordinate_descent import CoordinateDescent
from rebasin_core.symmetry.permutation import Permutation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.symmetry.layout import Layout

# Each round decreases the sum of squared distances or is the last. Most of the decrease is in the first rounds.
_ROUNDS = 5
_SWEEPS = 50


@final
class StackedOrdering:
    r"""Permutes the units of K stacked networks such that the networks are close to each other.

    It decreases $\sum_{i < j} \lVert g_i \theta_i - g_j \theta_j \rVert^2$ over permutations $g_i$ by block coordinate
    descent: each network in turn is aligned with the sum of all others, which decreases the sum of its squared
    distances to them. The order of the first network does not change.

    Args:
        layout: Permutation symmetries of the network.
        generator: Random number generator of the order of groups.
    """

    def __init__(self, layout: Layout, generator: torch.Generator) -> None:
        self._layout = layout
        self._generator = generator

    def find(self, parameters: Mapping[str, Tensor]) -> list[Permutation]:
        """Return a permutation for each network, with which the sum of squared distances is no larger.

        Args:
            parameters: Stacked parameters ``[K, *s]`` by name; not changed.

        Returns:
            K permutations.
        """
        given = {self._layout.names.of(name) or name: tensor.detach() for name, tensor in parameters.items()}
        members = len(next(iter(given.values())))
        current = {name: tensor.clone() for name, tensor in given.items()}
        found = [Permutation.identity(self._layout)] * members
        # Networks in unrelated orders have a sum without structure. Each is first aligned with those before it.
        for member in range(1, members):
            self._align(current, found, member, stop=member)
        if _norm_of_sum(current) <= _norm_of_sum(given):
            current = {name: tensor.clone() for name, tensor in given.items()}
            found = [Permutation.identity(self._layout)] * members
        for _ in range(_ROUNDS):
            changes = [self._align(current, found, member, stop=members) for member in range(1, members)]
            if not any(changes):
                break
        return found

    def _align(self, stacked: Mapping[str, Tensor], found: list[Permutation], member: int, *, stop: int) -> bool:
        """Align a network with the sum of the other networks before an index; return whether its order changes."""
        candidate = {name: tensor[member : member + 1] for name, tensor in stacked.items()}
        others = {n: t[:stop].sum(0, keepdim=True) for n, t in stacked.items()}
        if member < stop:
            others = {name: tensor - candidate[name] for name, tensor in others.items()}
        descent = CoordinateDescent(self._layout, others, candidate)
        descent.initialize_greedily()
        descent.run(self._generator, _SWEEPS)
        step = Permutation(self._layout, descent.indices)
        if step.is_identity:
            return False
        found[member] = found[member].compose(step)
        permute_member(step, member, stacked)
        return True


def _norm_of_sum(stacked: Mapping[str, Tensor]) -> float:
    """Return the squared norm of the sum of networks, which is larger the smaller the sum of squared distances is."""
    return sum(tensor.sum(0).double().square().sum().item() for tensor in stacked.values())


@torch.no_grad()
def permute_member(permutation: Permutation, member: int, stacked: Mapping[str, Tensor]) -> None:
    """Permute one of K stacked networks, which is modified.

    Args:
        permutation: The permutation.
        member: Index of the network.
        stacked: Tensors ``[K, *s]`` with the names and trailing axes of the parameters and buffers.
    """
    own = {name: tensor[member].clone() for name, tensor in stacked.items()}
    for name, tensor in permutation.apply(own).items():
        stacked[name][member] = tensor


def optimizer_states(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> Sequence[dict[str, Tensor]]:
    """Return the tensors that a coordinate-wise optimizer keeps for every entry, such as moments of the gradients.

    Args:
        optimizer: The optimizer of the parameters.
        parameters: Its parameters by name.

    Returns:
        For each quantity, its tensors by name, of the shapes of the parameters.
    """
    states: dict[str, dict[str, Tensor]] = {}
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                states.setdefault(key, {})[name] = value
    return list(states.values())
