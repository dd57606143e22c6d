"""TIES: trim, elect signs, and merge."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, final

import torch
from pydantic import Field
from typing_extensions import override

from rebasin_core.merging.base import MergeMethod
from rebasin_core.merging.sign_election import elected_mean_
from rebasin_core.merging.task_arithmetic import Scale
from rebasin_core.tensors.selection import kth_largest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from rebasin_core.merging.problem import MergeProblem

Density = Annotated[float, Field(gt=0, le=1)]


@final
class TIESMerge(MergeMethod):
    r"""TIES merging of differences from a base: trim small ones, elect signs, and average those that agree.

    For the differences $\tau_k = \theta_k - \theta_0$ of each tensor:

    1. *Trim*: keep the entries of each $\tau_k$ whose magnitude is among the largest fraction `density`; set others to
       zero.
    2. *Elect*: the sign of each entry is $\gamma = \operatorname{sgn} \sum_k w_k \tau_k$.
    3. *Merge*: the mean $\tau$ of the $\tau_k$ with $\operatorname{sgn} \tau_k = \gamma$, weighted by $w_k$. The result
       is $\theta_0 + \lambda\, \tau$.

    Magnitudes are compared within one tensor, as in mergekit and peft; the paper compares them over the whole network.
    For the K-th largest magnitude, all entries of equal magnitude are kept, as in the code of the authors; mergekit and
    peft keep a number of entries. Weights are relative: the weighted mean is mergekit's ``ties`` with ``normalize:
    true``, and with equal weights it is the paper's. If the weighted sum of an entry is exactly zero, its sign is zero
    and the entry is the base's, as in the formula of the paper; mergekit and peft elect the positive sign.

    References:
        P. Yadav et al. (2023), "TIES-Merging: resolving interference when merging models", NeurIPS, arXiv 2306.01708,
        algorithm 1.

    Examples:
        >>> import torch
        >>> base, first, second = torch.tensor([[0.0, 0.0, 0.0], [1.0, 6.0, 4.0], [2.0, 4.0, -3.0]])
        >>> TIESMerge(density=0.67).merge("w", [first, second], [1, 1], base=base)  # 1 and 2 are trimmed
        tensor([0., 5., 4.])
    """

    name: Literal["ties"] = "ties"

    density: Density = 0.2
    """Fraction of the entries of each difference that are kept, in (0, 1]; at least one entry is kept."""

    scale: Scale = 1.0
    r"""Factor $\lambda$ of the merged difference."""

    @property
    @override
    def uses_base(self) -> bool:
        return True

    @override
    def _merge(self, problem: MergeProblem) -> Tensor:
        weights = problem.weight_vector
        thresholds = self._thresholds(problem).to(weights.device).unsqueeze(1)

        def merged(differences: Tensor) -> Tensor:
            trimmed = differences.masked_fill_(differences.abs() < thresholds, 0.0)
            return elected_mean_(trimmed, weights).mul_(self.scale)

        return problem.map_differences(merged)

    def _thresholds(self, problem: MergeProblem) -> Tensor:
        """Return the smallest magnitude that is kept of each network's difference, ``[K]``."""
        count = problem.numel
        kept = max(1, int(self.density * count))
        if kept >= count:
            return torch.zeros(len(problem.tensors), dtype=torch.float64)
        networks = range(len(problem.tensors))
        return torch.tensor(
            [kth_largest(partial(_magnitudes, problem, network), kept, count=count) for network in networks],
            dtype=torch.float64,
        )


def _magnitudes(problem: MergeProblem, network: int) -> Iterator[Tensor]:
    for block in problem.difference_blocks(network):
        yield block[0].abs()
