"""Task arithmetic: sums of differences from a base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, final

from pydantic import Field
from typing_extensions import override

from rebasin_core.merging.base import MergeMethod, Weighting

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.merging.problem import MergeProblem

Scale = Annotated[float, Field(allow_inf_nan=False)]


@final
class TaskArithmeticMerge(MergeMethod):
    r"""Base plus weighted differences of networks from it: $\theta_0 + \lambda \sum_k w_k (\theta_k - \theta_0)$.

    The difference of a fine-tuned network from its base is its *task vector*. Weights are coefficients, 1 by default: a
    negative one subtracts a task. They are not normalized, as in mergekit's ``task_arithmetic``. Equal networks give
    themselves if the coefficients times $\lambda$ sum to 1.

    References:
        G. Ilharco et al. (2023), "Editing models with task arithmetic", ICLR, arXiv 2212.04089, section 2.

    Examples:
        >>> import torch
        >>> base, first, second = torch.tensor([[1.0, 1.0], [3.0, 1.0], [1.0, 0.0]])
        >>> TaskArithmeticMerge(scale=0.5).merge("w", [first, second], [1, 1], base=base)
        tensor([2.0000, 0.5000])
    """

    name: Literal["task_arithmetic"] = "task_arithmetic"

    scale: Scale = 1.0
    r"""Factor $\lambda$ of the sum of the differences."""

    @property
    @override
    def uses_base(self) -> bool:
        return True

    @property
    @override
    def weighting(self) -> Weighting:
        return "coefficients"

    @override
    def _merge(self, problem: MergeProblem) -> Tensor:
        coefficients = self.scale * problem.weight_vector
        return problem.map_differences(lambda differences: coefficients @ differences)
