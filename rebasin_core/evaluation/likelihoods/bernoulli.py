"""The likelihood of binary labels: one or several per example, or one per pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, final

import torch
from pydantic import Field, PositiveFloat
from torch.nn import functional
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.elements import Elements
from rebasin_core.evaluation.likelihood import Likelihood, TargetKind
from rebasin_core.evaluation.likelihoods.shapes import aligned_outputs

if TYPE_CHECKING:
    from torch import Tensor

_RARE = 1e-12


@final
class BernoulliLikelihood(Likelihood):
    r"""Binary and multi-label classification: outputs are logits ``[N, K]``, targets are K labels in [0, 1].

    $$ \log p(y \mid f) = \sum_k y_k \log \sigma(f_k) + (1 - y_k) \log(1 - \sigma(f_k)) $$

    Labels may be integers, booleans or floating-point values. Losses are means over examples of the sum over the K
    labels. If targets have more dimensions (``[N, H, W]`` or ``[N, C, H, W]``), every entry is an element with its own
    loss, and losses are means over all elements. Targets ``[N]`` with outputs ``[N]`` or ``[N, 1]`` are one label each.

    Raises:
        ConfigError: If an option is out of range.

    References:
        `torch.nn.BCEWithLogitsLoss`, of which ``pos_weight`` and the loss of a single label are the same.

    Examples:
        >>> import torch
        >>> BernoulliLikelihood().log_prob(torch.zeros(1, 2), torch.tensor([[0, 1]])).exp().item()
        0.25
    """

    targets: ClassVar[TargetKind] = "binary"

    name: Literal["bernoulli"] = "bernoulli"

    pos_weight: tuple[Annotated[PositiveFloat, Field(allow_inf_nan=False)], ...] = ()
    """Factor of the loss of positive labels, for each of the K labels; 1 if empty. With it, the loss is not a
    density."""

    ignore_index: int | None = -100
    """Label of entries that are ignored; None if there is none."""

    @override
    def is_dense(self, targets: Tensor) -> bool:
        return targets.dim() != 2

    @override
    def check(self, outputs: Tensor, targets: Tensor) -> None:
        aligned_outputs(outputs, targets, "logits")
        if self.pos_weight and (targets.dim() != 2 or len(self.pos_weight) not in {1, targets.shape[1]}):
            message = (
                f"expected `pos_weight` with one factor for each label of targets [N, K], got {len(self.pos_weight)} "
                f"for shape {tuple(targets.shape)}"
            )
            raise InvalidInputError(message)
        kept = targets if self.ignore_index is None else targets[targets != self.ignore_index]
        if kept.numel() and not bool(((kept >= 0) & (kept <= 1)).all()):
            message = (
                f"expected labels in [0, 1], got {kept.min().item():g} to {kept.max().item():g}; for class indices "
                "use `categorical`"
            )
            raise InvalidInputError(message)

    @override
    def elements(self, outputs: Tensor, targets: Tensor) -> Elements:
        logits = aligned_outputs(outputs, targets, "logits")
        kept = None if self.ignore_index is None else targets != self.ignore_index
        return Elements.of_entries(logits.unsqueeze(-1), targets, kept)

    @override
    def constant(self, outputs: Tensor, targets: Tensor) -> Tensor:
        kept = torch.ones_like(targets, dtype=torch.bool) if self.ignore_index is None else targets != self.ignore_index
        positive = torch.where(kept, targets, 0).double().sum(0)
        negative = kept.double().sum(0) - positive
        weight = positive.new_tensor(self.pos_weight or (1.0,))
        # A label that is never positive (or negative) gets a very low (or high) but finite logit.
        return ((weight * positive).clamp_min(_RARE).log() - negative.clamp_min(_RARE).log()).to(outputs)

    @override
    def log_prob(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if not self.is_dense(targets):
            return self._terms(outputs, targets)
        elements = self.elements(outputs, targets)
        return elements.summed(self._terms(elements.outputs, elements.targets), len(targets))

    def _terms(self, logits: Tensor, targets: Tensor) -> Tensor:
        weight = logits.new_tensor(self.pos_weight) if self.pos_weight else None
        kept = None if self.ignore_index is None else targets != self.ignore_index
        labels = targets.to(logits) if kept is None else torch.where(kept, targets, 0).to(logits)
        losses = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none", pos_weight=weight)
        return -(losses if kept is None else losses * kept).sum(-1)

    @override
    def prediction(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()

    @override
    def entropy(self, outputs: Tensor) -> Tensor:
        return (functional.softplus(outputs) - outputs * outputs.sigmoid()).sum(-1)

    @override
    def score(self, prediction: Tensor, targets: Tensor) -> Tensor:
        correct = (prediction > 0.5) == (targets > 0.5)
        kept = torch.ones_like(correct) if self.ignore_index is None else targets != self.ignore_index
        return ((correct & kept).sum(-1) / kept.sum(-1).clamp_min(1)).to(prediction.dtype)

    @property
    @override
    def score_name(self) -> str:
        return "accuracy"
