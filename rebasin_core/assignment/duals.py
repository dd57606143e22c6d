"""Dual potentials of an assignment, and the optimality gap that they prove."""

from __future__ import annotations

import torch
from torch import Tensor


def bound_gap(similarity: Tensor, index: Tensor, potentials: Tensor) -> Tensor:
    r"""Return an upper bound of the difference between the optimal total and that of an assignment.

    $$ \sum_i \Bigl( \max_j (A_{ij} - v_j) - (A_{i, p(i)} - v_{p(i)}) \Bigr) + \sum_{j \notin p} (v_j - \min_k v_k) $$

    The second sum is over the unassigned columns, if there are fewer rows than columns.

    Args:
        similarity: $A$: ``[*batch, m, n]``.
        index: $p$: ``[*batch, m]``.
        potentials: $v$: ``[*batch, n]``, any values.

    Returns:
        ``[*batch]`` in float64, not negative.
    """
    reduced = similarity.double() - potentials.unsqueeze(-2)
    slack = reduced.amax(-1) - reduced.gather(-1, index.unsqueeze(-1)).squeeze(-1)
    is_unassigned = torch.ones_like(potentials).scatter(-1, index, 0.0)
    excess = is_unassigned * (potentials - potentials.amin(-1, keepdim=True))
    return slack.sum(-1) + excess.sum(-1)


def potentials_of(similarity: Tensor, index: Tensor) -> Tensor:
    r"""Return potentials that prove the optimality of an assignment.

    They must satisfy $v_j \ge v_{p(i)} + A_{ij} - A_{i,p(i)}$ for all $i, j$. The smallest nonnegative solution is a
    longest path, computed by the Bellman-Ford algorithm: relax all constraints until no potential changes. This
    converges within ``m`` rounds if and only if the assignment is optimal; after ``m`` rounds it is stopped.

    Args:
        similarity: $A$: ``[m, n]`` with ``m <= n``.
        index: $p$: ``[m]``, the columns of an optimal assignment.

    Returns:
        $v$: ``[n]`` in float64.

    Complexity:
        $O(mn)$ per round, at most ``m`` rounds.
    """
    exact = similarity.double()
    difference = exact - exact.gather(1, index.unsqueeze(1))
    potentials = exact.new_zeros(exact.shape[1])
    for _ in range(len(index)):
        raised = torch.maximum(potentials, (difference + potentials[index].unsqueeze(1)).amax(0))
        if torch.equal(raised, potentials):
            break
        potentials = raised
    return potentials
