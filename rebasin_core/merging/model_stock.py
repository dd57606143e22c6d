"""Model Stock: the mean of fine-tuned networks, interpolated towards their base."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, final

import torch
from typing_extensions import override

from rebasin_core.merging.base import MergeMethod, Weighting

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.merging.problem import MergeProblem

_SINGULAR = 1e-6


@final
class ModelStockMerge(MergeMethod):
    r"""Model Stock: interpolate between the base and the mean of networks by the angle between their differences.

    With the mean $\bar\theta$ of K networks, and the mean $\cos\vartheta$ of the cosines between the differences
    $\theta_k - \theta_0$ of two networks:

    $$ t\, \bar\theta + (1 - t)\, \theta_0, \qquad t = \frac{K \cos\vartheta}{1 + (K - 1) \cos\vartheta} $$

    The coefficient $t$ is computed separately for each tensor, as in mergekit (``filter_wise: false``). Differences
    that are zero have cosine 0. If the denominator is zero, the result is the base. Networks have equal weights.

    References:
        D.-H. Jang et al. (2024), "Model Stock: all we need is just a few fine-tuned models", ECCV, arXiv 2403.19522,
        equation 2 and section 4.

    Examples:
        >>> import torch
        >>> base, first, second = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.6, 0.8]])
        >>> ModelStockMerge().merge("w", [first, second], [1, 1], base=base)  # t = 1.2 / 1.6
        tensor([0.6000, 0.3000])
    """

    min_networks: ClassVar[int] = 2

    name: Literal["model_stock"] = "model_stock"

    @property
    @override
    def uses_base(self) -> bool:
        return True

    @property
    @override
    def weighting(self) -> Weighting:
        return "equal"

    @override
    def _merge(self, problem: MergeProblem) -> Tensor:
        gram = problem.gram(of_differences=True)
        norms = gram.diagonal().sqrt()
        inverse = torch.where(norms > 0, 1 / norms, 0.0)
        cosines = (inverse.unsqueeze(1) * gram * inverse).clamp(-1, 1)
        count = len(norms)
        cosine = (cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1))
        denominator = 1 + (count - 1) * cosine
        t = (count * cosine / denominator).item() if denominator.abs() > _SINGULAR else 0.0
        return problem.map_differences(lambda differences: t * differences.mean(0))
