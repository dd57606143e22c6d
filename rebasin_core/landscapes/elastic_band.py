"""The nudged elastic band: a chain of networks that relaxes to a path of minimum loss."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias, final

import torch

from rebasin_core.landscapes.points import weighted_sum

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

Chain: TypeAlias = "Sequence[Mapping[str, Tensor]]"
"""Parameters by name of the networks of a chain, from one endpoint to the other."""

Energy: TypeAlias = "Callable[[Mapping[str, Tensor], float], Tensor]"
"""The loss of a network, a differentiable scalar, given its parameters and its position on the chain in [0, 1]."""

_INSIDE = (0.25, 0.5, 0.75)


@final
@dataclass(frozen=True, slots=True)
class BandSettings:
    """How a band relaxes.

    Attributes:
        learning_rate: Step size of gradient descent with momentum, positive.
        momentum: Momentum, in [0, 1).
        stiffness: Constant of the springs between neighbors, nonnegative.
    """

    learning_rate: float
    momentum: float = 0.0
    stiffness: float = 1.0


def band_forces(chain: Chain, losses: Sequence[float], gradients: Chain, stiffness: float) -> list[dict[str, Tensor]]:
    r"""Return the forces on the interior networks of a chain.

    The loss acts perpendicularly to the chain and the springs along it, with the unit tangent $\tau_i$ toward the
    neighbor of higher loss (at a local extremum, a sum weighted by the differences in loss):

    $$ F_i = -\big(\nabla L(\theta_i) - \langle \nabla L(\theta_i), \tau_i \rangle \tau_i\big)
       + k \big(\lVert \theta_{i+1} - \theta_i \rVert - \lVert \theta_i - \theta_{i-1} \rVert\big)\, \tau_i $$

    Args:
        chain: The networks, endpoints included, at least three.
        losses: The loss of each network of the chain.
        gradients: Gradients of the loss at the interior networks.
        stiffness: Spring constant $k$, nonnegative.

    Returns:
        The forces by name, one set for each interior network.

    References:
        F. Draxler et al. (2018), "Essentially no barriers in neural network energy landscape", ICML, arXiv 1803.00885,
        equations 3 to 6; G. Henkelman, H. Jonsson (2000), "Improved tangent estimate in the nudged elastic band
        method", J. Chem. Phys. 113, 9978, equations 8 to 11.
    """
    forces: list[dict[str, Tensor]] = []
    for index, gradient in enumerate(gradients, 1):
        before = _difference(chain[index], chain[index - 1])
        after = _difference(chain[index + 1], chain[index])
        tangent = _tangent(before, after, losses[index - 1 : index + 2])
        scale = _norm(tangent)
        if scale:
            along = _inner(gradient, tangent) / scale**2
            pull = stiffness * (_norm(after) - _norm(before)) / scale
            forces.append({name: -tensor + (along + pull) * tangent[name] for name, tensor in gradient.items()})
        else:  # two networks coincide, and there is no direction
            forces.append({name: -tensor for name, tensor in gradient.items()})
    return forces


@final
class ElasticBand:
    """A chain of networks that relaxes by steps of gradient descent with momentum along the forces on them.

    Args:
        chain: The networks, endpoints included, at least three. The endpoints stay fixed.
        settings: Step size, momentum, spring constant.
    """

    def __init__(self, chain: Chain, settings: BandSettings) -> None:
        self.chain = [{name: tensor.detach().clone() for name, tensor in network.items()} for network in chain]
        self._settings = settings
        self._velocities = [{name: torch.zeros_like(t) for name, t in p.items()} for p in self.chain[1:-1]]

    def step(self, energy: Energy, learning_rate: float | None = None) -> list[float]:
        """Update the interior networks by one step of gradient descent with momentum.

        Args:
            energy: The loss of a network.
            learning_rate: Step size of this step; that of the settings if None.

        Returns:
            The losses of all networks of the chain before the step.
        """
        count = len(self.chain) - 1
        losses: list[float] = []
        gradients: list[dict[str, Tensor]] = []
        for index, network in enumerate(self.chain):
            is_endpoint = index in {0, count}
            with torch.set_grad_enabled(not is_endpoint):
                leaves = network if is_endpoint else {n: t.clone().requires_grad_() for n, t in network.items()}
                loss = energy(leaves, index / count)
            losses.append(loss.item())
            if not is_endpoint:
                found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
                gradients.append(dict(zip(leaves, found, strict=True)))
        self._update(band_forces(self.chain, losses, gradients, self._settings.stiffness), learning_rate)
        return losses

    def _update(self, forces: Chain, learning_rate: float | None) -> None:
        rate = self._settings.learning_rate if learning_rate is None else learning_rate
        for network, velocity, force in zip(self.chain[1:-1], self._velocities, forces, strict=True):
            for name, tensor in network.items():
                velocity[name].mul_(self._settings.momentum).add_(force[name])
                tensor.add_(velocity[name], alpha=rate)

    def with_inserted_pivots(self, energy: Energy, threshold: float) -> ElasticBand:
        """Return the band with a new network in each segment with a clearly higher loss inside than at its endpoints.

        The excess of a segment is the largest difference between the loss at three interior points and the linear
        interpolation of the losses at its endpoints.

        Args:
            energy: The loss of a network, on all data.
            threshold: Smallest excess for which a network is inserted, as a fraction of the difference between the
                highest and the lowest loss of the chain.

        Returns:
            A new band at rest. Without a new network, this band.
        """
        found = _excesses(self.chain, energy)
        inserted = [(excess, t) if excess > threshold * height else None for excess, t, height in found]
        if not any(inserted):
            return self
        chain: list[Mapping[str, Tensor]] = []
        for (first, second), new in zip(pairwise(self.chain), inserted, strict=True):
            chain.append(first)
            if new is not None:
                chain.append(weighted_sum([first, second], [1 - new[1], new[1]]))
        return ElasticBand([*chain, self.chain[-1]], self._settings)


def _excesses(chain: Chain, energy: Energy) -> list[tuple[float, float, float]]:
    """Return, for each segment, its largest excess, the t of it in the segment, and the height of the whole chain."""
    count = len(chain) - 1
    with torch.no_grad():
        at_pivots = [energy(network, index / count).item() for index, network in enumerate(chain)]
        between = [
            [energy(weighted_sum([a, b], [1 - t, t]), (index + t) / count).item() for t in _INSIDE]
            for index, (a, b) in enumerate(pairwise(chain))
        ]
    every = [*at_pivots, *(loss for losses in between for loss in losses)]
    height = max(every) - min(every)
    found: list[tuple[float, float, float]] = []
    for (first, second), losses in zip(pairwise(at_pivots), between, strict=True):
        excess = [loss - (1 - t) * first - t * second for t, loss in zip(_INSIDE, losses, strict=True)]
        top = max(range(len(excess)), key=excess.__getitem__)
        found.append((excess[top], _INSIDE[top], height))
    return found


def _tangent(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], losses: Sequence[float]
) -> Mapping[str, Tensor]:
    """Return the difference to the neighbor of higher loss; at an extremum a weighted sum of both, to avoid kinks."""
    first, own, last = losses
    if first < own < last:
        return after
    if first > own > last:
        return before
    steps = abs(first - own), abs(last - own)
    forward = max(steps) if last > first else min(steps)
    backward = min(steps) if last > first else max(steps)
    if not forward + backward:
        return weighted_sum([before, after], [0.5, 0.5])
    return weighted_sum([before, after], [backward, forward])


def _difference(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor - second[name] for name, tensor in first.items()}


def _inner(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    return sum((tensor.double() * second[name].double()).sum().item() for name, tensor in first.items())


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return float(_inner(tensors, tensors) ** 0.5)
