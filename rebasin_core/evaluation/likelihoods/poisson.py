"""The likelihood of counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, final

import torch
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.elements import Elements
from rebasin_core.evaluation.likelihood import Likelihood, TargetKind
from rebasin_core.evaluation.likelihoods.shapes import aligned_outputs

if TYPE_CHECKING:
    from torch import Tensor

_RARE = 1e-12


@final
class PoissonLikelihood(Likelihood):
    r"""Counts: outputs are the logs of the rates ``[N, K]``, targets are K non-negative counts per example.

    $$ \log p(y \mid f) = \sum_k y_k f_k - e^{f_k} - \log y_k! $$

    If targets have more or fewer dimensions, every entry is an element with its own loss, and losses are means over
    all elements.

    Examples:
        >>> import torch
        >>> round(PoissonLikelihood().log_prob(torch.zeros(1, 1), torch.zeros(1, 1)).item(), 4)
        -1.0
    """

    targets: ClassVar[TargetKind] = "counts"

    name: Literal["poisson"] = "poisson"

    @override
    def is_dense(self, targets: Tensor) -> bool:
        return targets.dim() != 2

    @override
    def check(self, outputs: Tensor, targets: Tensor) -> None:
        aligned_outputs(outputs, targets, "logs of rates")
        if targets.numel() and (bool((targets < 0).any()) or bool((targets != targets.round()).any())):
            message = (
                f"expected counts 0, 1, 2, ..., got values from {targets.min().item():g} to {targets.max().item():g}"
            )
            raise InvalidInputError(message)

    @override
    def elements(self, outputs: Tensor, targets: Tensor) -> Elements:
        return Elements.of_entries(aligned_outputs(outputs, targets, "logs of rates").unsqueeze(-1), targets)

    @override
    def constant(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return targets.double().mean(0).clamp_min(_RARE).log().to(outputs)

    @override
    def log_prob(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if not self.is_dense(targets):
            return _terms(outputs, targets)
        elements = self.elements(outputs, targets)
        return elements.summed(_terms(elements.outputs, elements.targets), len(targets))

    @override
    def prediction(self, outputs: Tensor) -> Tensor:
        return outputs.exp()

    @override
    def score(self, prediction: Tensor, targets: Tensor) -> Tensor:
        return (prediction - targets).square().mean(-1)

    @property
    @override
    def score_name(self) -> str:
        return "mean_squared_error"


def _terms(outputs: Tensor, targets: Tensor) -> Tensor:
    counts = targets.to(outputs)
    return (counts * outputs - outputs.exp() - torch.lgamma(counts + 1)).sum(-1)
