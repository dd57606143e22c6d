"""The weighted mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

from typing_extensions import override

from rebasin_core.merging.base import MergeMethod

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.merging.problem import MergeProblem


@final
class MeanMerge(MergeMethod):
    r"""Weighted mean $\sum_k w_k\, \theta_k$ of networks, with weights that sum to 1 (a model soup).

    It is the 2-Wasserstein barycenter of single networks, and mergekit's ``linear`` with ``normalize: true``.

    References:
        M. Wortsman et al. (2022), "Model soups: averaging weights of multiple fine-tuned models improves accuracy
        without increasing inference time", ICML, arXiv 2203.05482.

    Examples:
        >>> import torch
        >>> MeanMerge().merge("w", [torch.tensor([1.0]), torch.tensor([5.0])], [3, 1])
        tensor([2.])
    """

    name: Literal["mean"] = "mean"

    @property
    @override
    def uses_base(self) -> bool:
        return False

    @override
    def _merge(self, problem: MergeProblem) -> Tensor:
        weights = problem.weight_vector
        return problem.map_values(lambda values: weights @ values)
