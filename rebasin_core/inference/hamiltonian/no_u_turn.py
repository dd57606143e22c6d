"""Trajectories that double until they make a U-turn, for K chains in step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from rebasin_core.inference.hamiltonian.dynamics import DIVERGENT, Dynamics, Phase, Transition


@final
@dataclass(slots=True)
class _Trajectory:
    """A part of a trajectory for K chains: a draw from it, its weight and its total momentum.

    Attributes:
        proposal: Phase drawn from the part with probability proportional to exp(-energy).
        log_weight: Logarithm of the sum of these weights, relative to the start, ``[K]``.
        momentum: Sum of the momenta, ``[K, D]``.
        first: Momenta at the first state of the part, ``[K, D]``.
        growing: The chains whose part has no U-turn and has not diverged, ``[K]``.
    """

    proposal: Phase
    log_weight: Tensor
    momentum: Tensor
    first: Tensor
    growing: Tensor


@final
@dataclass(slots=True)
class _Transition:
    """A transition: its dynamics, its initial energy, and the statistics of its leapfrog steps so far.

    Attributes:
        dynamics: The dynamics.
        before: Energies at the start, ``[K]``.
        acceptance: Sums of acceptance probabilities, ``[K]``.
        steps: Numbers of steps, ``[K]``.
        divergent: Whether the energy diverged, ``[K]``.
    """

    dynamics: Dynamics
    before: Tensor
    acceptance: Tensor
    steps: Tensor
    divergent: Tensor

    def extension(self, edge: Phase, growing: Tensor, forward: Tensor, depth: int) -> tuple[_Trajectory, Phase]:
        """Return the part that doubles a trajectory, and its last phase; it stops growing at a U-turn within it."""
        size = self.dynamics.step_size
        steps = torch.where(forward, size, -size)
        empty = torch.full_like(self.before, -torch.inf)
        zeros = torch.zeros_like(edge.momentum)
        part = _Trajectory(edge, empty, zeros, zeros, growing)
        stored: dict[int, _Stored] = {}
        for leaf in range(2**depth):
            previous = edge.momentum
            edge = self.dynamics.leapfrog(edge, steps).where(part.growing, edge)
            log_weight = self.before - self.dynamics.hamiltonian(edge)
            failed = part.growing & (log_weight < -DIVERGENT)
            self.acceptance += torch.where(part.growing, log_weight.clamp(max=0).exp(), 0.0)
            self.steps += part.growing
            self.divergent |= failed
            # The weights of a chain that has stopped no longer matter: its part is rejected.
            part.log_weight = torch.logaddexp(part.log_weight, log_weight)
            chosen = self.dynamics.uniform().log() < log_weight - part.log_weight
            part.proposal = edge.where(part.growing & chosen, part.proposal)
            part.momentum = torch.add(part.momentum, edge.momentum)  # a new tensor: earlier sums are stored
            part.first = part.first if leaf else edge.momentum
            turning = _turns(self.dynamics, leaf, _Stored(edge.momentum, part.momentum, previous), stored)
            part.growing = part.growing.logical_and(~(failed | turning))
            if not bool(part.growing.any()):
                break
        return part, edge


def no_u_turn_transition(dynamics: Dynamics, start: Phase, *, max_depth: int) -> Transition:
    """Return a transition of the no-U-turn sampler with multinomial sampling of the trajectory.

    The recursion over subtrees is unrolled: a subtree stores the momenta at those of its states that can be the first
    of a balanced subtree, one a level. As in Stan, U-turns are also looked for between each half of a subtree and the
    nearest state of the other half: a trajectory of about a whole period has none as a whole.

    Args:
        dynamics: The dynamics.
        start: Positions with fresh momenta.
        max_depth: Maximum number of doublings.

    Returns:
        The transition.

    References:
        M. D. Hoffman, A. Gelman (2014), "The No-U-Turn sampler", JMLR 15, arXiv 1111.4246; M. Betancourt (2017), "A
        conceptual introduction to Hamiltonian Monte Carlo", arXiv 1701.02434, appendix A; D. Phan, N. Pradhan, M.
        Jankowiak (2019), "Composable effects for flexible and accelerated probabilistic programming in NumPyro", arXiv
        1912.11554, algorithm 2 (the unrolled recursion).
    """
    before = dynamics.hamiltonian(start)
    none = torch.zeros_like(before, dtype=torch.bool)
    run = _Transition(dynamics, before, torch.zeros_like(before), none.long(), none.clone())
    tree = _Trajectory(start, torch.zeros_like(before), start.momentum, start.momentum, ~none)
    left = right = start
    changed = none
    for depth in range(max_depth):
        forward = dynamics.uniform() < 0.5
        edge = right.where(forward, left)
        far = left.where(forward, right)
        part, last = run.extension(edge, tree.growing, forward, depth)
        whole = part.growing
        accepted = whole & (dynamics.uniform().log() < part.log_weight - tree.log_weight)
        changed |= accepted
        left = last.where(whole & ~forward, left)
        right = last.where(whole & forward, right)
        tree.proposal = part.proposal.where(accepted, tree.proposal)
        tree.log_weight = torch.where(whole, torch.logaddexp(tree.log_weight, part.log_weight), tree.log_weight)
        turning = _is_turning(dynamics, far.momentum, last.momentum, tree.momentum + part.momentum)
        turning |= _is_turning(dynamics, far.momentum, part.first, tree.momentum + part.first)
        turning |= _is_turning(dynamics, edge.momentum, last.momentum, part.momentum + edge.momentum)
        tree.momentum = torch.where(whole[:, None], tree.momentum + part.momentum, tree.momentum)
        tree.growing = whole & ~turning
        if not bool(tree.growing.any()):
            break
    return Transition(
        phase=tree.proposal,
        energy=dynamics.hamiltonian(tree.proposal),
        acceptance=run.acceptance / run.steps,
        divergent=run.divergent,
        steps=run.steps,
        saturated=tree.growing,
        accepted=changed,
    )


@final
@dataclass(frozen=True, slots=True)
class _Stored:
    """A state of a part: its momenta, the sum of the momenta of the part so far, and the momenta before it."""

    momentum: Tensor
    total: Tensor
    previous: Tensor


def _turns(dynamics: Dynamics, leaf: int, last: _Stored, stored: dict[int, _Stored]) -> Tensor:
    """Return whether a balanced subtree up to a leaf has made a U-turn, ``[K]``."""
    found = torch.zeros_like(dynamics.step_size, dtype=torch.bool)
    level = (leaf >> 1).bit_count()
    if leaf % 2 == 0:
        stored[level] = last
        return found
    ending = ((leaf + 1) & ~leaf).bit_length() - 1  # number of trailing ones of the index
    for index in range(level, level - ending, -1):
        first = stored[index]
        found |= _is_turning(dynamics, first.momentum, last.momentum, last.total - first.total + first.momentum)
        if index < level:  # halves with more than one state, each extended by the nearest state of the other one
            middle = stored[index + 1]
            total = middle.total - first.total + first.momentum
            found |= _is_turning(dynamics, first.momentum, middle.momentum, total)
            total = last.total - middle.total + middle.momentum + middle.previous
            found |= _is_turning(dynamics, middle.previous, last.momentum, total)
    return found


def _is_turning(dynamics: Dynamics, left: Tensor, right: Tensor, total: Tensor) -> Tensor:
    """Return whether the first or last momentum of a trajectory is against the total one, ``[K]``."""
    direction = dynamics.variances * total
    return ((left * direction).sum(1) <= 0) | ((right * direction).sum(1) <= 0)
