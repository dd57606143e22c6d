"""Transitions of Hamiltonian Monte Carlo: trajectories of fixed length, and trajectories that stop at a U-turn."""

from __future__ import annotations

import torch
from torch import Tensor

from rebasin_core.inference.hamiltonian.dynamics import DIVERGENT, Dynamics, Phase, Transition


def fixed_transition(dynamics: Dynamics, start: Phase, steps: Tensor, *, limit: int) -> Transition:
    """Return a transition of Hamiltonian Monte Carlo with the Metropolis correction.

    Args:
        dynamics: The dynamics.
        start: Positions with fresh momenta.
        steps: Number of leapfrog steps of each chain, ``[K]`` of integers, at least 1.
        limit: The number of steps that counts as the maximum.

    Returns:
        The transition.
    """
    sizes = dynamics.step_size
    before = dynamics.hamiltonian(start)
    phase = start
    growing = torch.ones_like(sizes, dtype=torch.bool)
    counts = torch.zeros_like(steps)
    divergent = torch.zeros_like(growing)
    for index in range(int(steps.max())):
        growing &= steps > index
        if not bool(growing.any()):
            break
        phase = dynamics.leapfrog(phase, sizes).where(growing, phase)
        counts += growing
        failed = growing & (dynamics.hamiltonian(phase) - before > DIVERGENT)
        divergent |= failed
        growing &= ~failed
    error = dynamics.hamiltonian(phase) - before
    acceptance = torch.where(divergent, 0.0, error.neg().clamp(max=0).exp())
    accepted = dynamics.uniform() < acceptance
    chosen = phase.where(accepted, start)
    energy = dynamics.hamiltonian(chosen)
    return Transition(chosen, energy, acceptance, divergent, counts, counts >= limit, accepted)
