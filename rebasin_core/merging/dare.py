"""DARE: drop differences at random and rescale the others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, final

import torch
from typing_extensions import override

from rebasin_core.merging.base import MergeMethod, Weighting
from rebasin_core.merging.sign_election import elected_mean_
from rebasin_core.merging.task_arithmetic import Scale
from rebasin_core.merging.ties import Density

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.merging.problem import MergeProblem


@final
class DAREMerge(MergeMethod):
    r"""Base plus randomly dropped and rescaled differences of networks from it.

    Each entry of a difference is kept with probability $p$ (`density`), independently, and divided by $p$, which keeps
    its expectation: $\tilde\tau_k = m_k \odot (\theta_k - \theta_0) / p$, $m_k \sim
    \operatorname{Bernoulli}(p)$. The result is

    - $\theta_0 + \lambda \sum_k w_k\, \tilde\tau_k$, where weights are coefficients as in task arithmetic
      (mergekit's ``dare_linear``);
    - or, with `elect_sign`, $\theta_0 + \lambda$ times the weighted mean of the $\tilde\tau_k$ with the elected sign,
      where weights are relative as in TIES (mergekit's ``dare_ties`` with
      ``normalize: true``).

    mergekit 0.1.5 divides by the fraction of the L1 norm that is kept, instead of $p$. Random numbers depend on the
    seed, the name of the tensor and the index of the network only: tensors can be merged in any order. With equal
    seeds, results on CPU and GPU are equal.

    References:
        L. Yu et al. (2024), "Language models are super Mario: absorbing abilities from homologous models as a free
        lunch", ICML, arXiv 2311.03099, equations 1 to 3.

    Examples:
        >>> import torch
        >>> base, network = torch.zeros(1000), torch.ones(1000)
        >>> merged = DAREMerge(density=0.25).merge("w", [network], [1], base=base)
        >>> merged.unique().tolist(), bool(abs(merged.mean() - 1) < 0.2)
        ([0.0, 4.0], True)
    """

    exempt_laws: ClassVar[Mapping[str, str]] = {
        "equivariance": "entries are dropped by position; permuted networks have permuted results in distribution"
    }

    name: Literal["dare"] = "dare"

    density: Density = 0.5
    """Probability with which an entry of a difference is kept, in (0, 1]."""

    elect_sign: bool = False
    """Whether signs are elected as in TIES, and only differences with the elected sign are averaged."""

    scale: Scale = 1.0
    r"""Factor $\lambda$ of the merged difference."""

    @property
    @override
    def uses_base(self) -> bool:
        return True

    @property
    @override
    def weighting(self) -> Weighting:
        return "relative" if self.elect_sign else "coefficients"

    @override
    def _merge(self, problem: MergeProblem) -> Tensor:
        weights = problem.weight_vector
        generators = [_generator(problem, network) for network in range(len(problem.tensors))]

        def merged(differences: Tensor) -> Tensor:
            # Numbers drawn on the CPU are the same for all devices.
            drawn = torch.stack([torch.rand(differences.shape[1], generator=generator) for generator in generators])
            kept = differences.masked_fill_((drawn >= self.density).to(differences.device), 0.0)
            mean = elected_mean_(kept, weights) if self.elect_sign else weights @ kept
            return mean.mul_(self.scale / self.density)

        return problem.map_differences(merged)


def _generator(problem: MergeProblem, network: int) -> torch.Generator:
    """Return the random number generator of one network's tensor."""
    digest = hashlib.sha256(f"{problem.seed}\0{network}\0{problem.name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
