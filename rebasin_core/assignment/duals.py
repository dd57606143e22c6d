"""Dual potentials: the proof that an assignment is optimal, or of how far it is from that."""

from __future__ import annotations

import torch
from torch import Tensor


def bound_gap(similarity: Tensor, index: Tensor, potentials: Tensor) -> Tensor:
    r"""Return by how much the total of an assignment can fall short of the optimum.

    $$ \sum_i \Bigl( \max_j (A_{ij} - v_j) - (A_{i, p(i)} - v_{p(i)}) \Bigr) $$

    and, with fewer rows than columns, what the columns that are left out have above the least potential.

    Args:
        similarity: ``[*batch, m, n]``.
        index: ``[*batch, m]``.
        potentials: ``[*batch, n]``, any.

    Returns:
        ``[*batch]`` in float64, not negative.
    """
    reduced = similarity.double() - potentials.unsqueeze(-2)
    slack = reduced.amax(-1) - reduced.gather(-1, index.unsqueeze(-1)).squeeze(-1)
    left = torch.ones_like(potentials).scatter(-1, index, 0.0)
    above = left * (potentials - potentials.amin(-1, keepdim=True))
    return slack.sum(-1) + above.sum(-1)


def potentials_of(similarity: Tensor, index: Tensor) -> Tensor:
    r"""Return potentials that prove an optimal assignment so: shortest paths among the columns.

    Column $p(i)$ must cost at least what row $i$ would lose there against every other: $v_j \ge v_{p(i)} + A_{ij} -
    A_{i,p(i)}$. The least solution is a longest path, found by relaxing all at once (Bellman and Ford) until nothing
    changes; that ends for optimal assignments alone, and is broken off after as many rounds as there are rows.

    Args:
        similarity: ``[m, n]`` with ``m <= n``.
        index: ``[m]``, the columns of an optimal assignment.

    Returns:
        ``[n]`` in float64.

    Complexity:
        $O(mn)$ a round; as many rounds as the longest chain of exchanges that the proof needs, at most ``m``.
    """
    exact = similarity.double()
    gain = exact - exact.gather(1, index.unsqueeze(1))
    potentials = exact.new_zeros(exact.shape[1])
    for _ in range(len(index)):
        raised = torch.maximum(potentials, (gain + potentials[index].unsqueeze(1)).amax(0))
        if torch.equal(raised, potentials):
            break
        potentials = raised
    return potentials
