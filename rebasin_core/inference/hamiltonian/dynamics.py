"""Hamiltonian dynamics of K chains, by the leapfrog integrator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias, final

import torch
from torch import Tensor

from rebasin_core.tensors.noise import standard_normal

# Error of the energy, in nats, from which a trajectory counts as divergent (the value of Stan).
DIVERGENT = 1000.0

Energy: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Function from positions ``[K, D]`` to potential energies ``[K]`` in float64 and their gradients ``[K, D]``."""


@final
@dataclass(frozen=True, slots=True)
class Phase:
    """Positions and momenta of K chains.

    Attributes:
        position: Parameters, ``[K, D]``.
        momentum: Momenta, ``[K, D]``.
        potential: Potential energies, ``[K]`` in float64.
        gradient: Gradients of the potential energies, ``[K, D]``.
    """

    position: Tensor
    momentum: Tensor
    potential: Tensor
    gradient: Tensor

    def where(self, mask: Tensor, other: Phase) -> Phase:
        """Return this phase for some chains, and another one for the rest.

        Args:
            mask: The chains that keep this phase, ``[K]`` of booleans.
            other: The phase of the other chains.

        Returns:
            The combination.
        """
        rows = mask[:, None]
        return Phase(
            torch.where(rows, self.position, other.position),
            torch.where(rows, self.momentum, other.momentum),
            torch.where(mask, self.potential, other.potential),
            torch.where(rows, self.gradient, other.gradient),
        )


@final
@dataclass(frozen=True, slots=True)
class Dynamics:
    r"""Hamiltonian $H(\theta, r) = U(\theta) + \tfrac12 r^\top M^{-1} r$ of K chains, each with its own mass matrix.

    Attributes:
        energy: Potential energy $U$.
        step_size: Step sizes, ``[K]`` in float64.
        variances: Diagonals of the inverse mass matrices $M^{-1}$, ``[K, D]``; ideally the posterior variances.
        generator: Random number generator.
    """

    energy: Energy
    step_size: Tensor
    variances: Tensor
    generator: torch.Generator

    def refreshed(self, phase: Phase) -> Phase:
        """Return the same positions with new random momenta.

        Args:
            phase: The present phase.

        Returns:
            The phase with momenta from their Gaussian distribution.
        """
        noise = standard_normal(phase.position.shape, phase.position, self.generator)
        return Phase(phase.position, noise / self.variances.sqrt(), phase.potential, phase.gradient)

    def hamiltonian(self, phase: Phase) -> Tensor:
        """Return the total energies.

        Args:
            phase: Positions and momenta.

        Returns:
            ``[K]`` in float64; infinite where they are not finite.
        """
        kinetic = 0.5 * (self.variances * phase.momentum.square()).sum(1, dtype=torch.float64)
        return (phase.potential + kinetic).nan_to_num(torch.inf, torch.inf, torch.inf)

    def leapfrog(self, phase: Phase, steps: Tensor) -> Phase:
        """Return the phase after one leapfrog step, which is reversible and preserves volume.

        Args:
            phase: The phase before it.
            steps: Signed step sizes, ``[K]``.

        Returns:
            The phase after it.
        """
        size = steps.to(phase.position)[:, None]
        half = phase.momentum - 0.5 * size * phase.gradient
        position = phase.position + size * self.variances * half
        potential, gradient = self.energy(position)
        return Phase(position, half - 0.5 * size * gradient, potential, gradient)

    def jittered(self, width: float) -> Dynamics:
        """Return the dynamics with random step sizes, independent for each chain.

        Args:
            width: The step size is multiplied by a uniform random number in ``[1 - width, 1 + width]``.

        Returns:
            The dynamics; unchanged for a width of 0.
        """
        return replace(self, step_size=self.step_size * (1 + width * (2 * self.uniform() - 1))) if width else self

    def uniform(self) -> Tensor:
        """Return a uniform random number for each chain.

        Returns:
            ``[K]`` in float64.
        """
        device = self.generator.device
        shape = self.step_size.shape
        return torch.rand(shape, generator=self.generator, device=device, dtype=torch.float64).to(self.step_size)


@final
@dataclass(frozen=True, slots=True)
class Transition:
    """Result of one transition of K chains.

    Attributes:
        phase: The new phase.
        energy: Total energy of the new phase, ``[K]`` in float64.
        acceptance: Acceptance probability, the mean over the trajectory for `nuts`, ``[K]`` in float64.
        divergent: Whether the energy diverged, ``[K]``.
        steps: Number of leapfrog steps, ``[K]``.
        saturated: Whether the trajectory ended at the maximum number of steps, ``[K]``.
        accepted: Whether the new position differs from the old one, ``[K]``.
    """

    phase: Phase
    energy: Tensor
    acceptance: Tensor
    divergent: Tensor
    steps: Tensor
    saturated: Tensor
    accepted: Tensor


def initial_step_size(dynamics: Dynamics, phase: Phase, target: float = 0.8) -> Tensor:
    """Return step sizes at which the acceptance probability of a single leapfrog step crosses a target.

    The step size is doubled or halved until it does.

    Args:
        dynamics: The dynamics, with the step sizes to start from.
        phase: Positions; the momenta are ignored.
        target: The acceptance probability.

    Returns:
        Step sizes, ``[K]`` in float64.

    References:
        M. D. Hoffman, A. Gelman (2014), "The No-U-Turn sampler", JMLR 15, arXiv 1111.4246, algorithm 4.
    """
    start = dynamics.refreshed(phase)
    threshold = math.log(target)
    before = dynamics.hamiltonian(start)
    size = dynamics.step_size.clone()
    grows: Tensor | None = None
    searching = torch.ones_like(size, dtype=torch.bool)
    for _ in range(100):  # 2^100: beyond the range of useful step sizes
        is_above = before - dynamics.hamiltonian(dynamics.leapfrog(start, size)) > threshold
        grows = is_above if grows is None else grows
        searching &= is_above == grows
        if not bool(searching.any()):
            break
        size = torch.where(searching, size * torch.where(grows, 2.0, 0.5), size)
    return size
