"""The likelihood of class labels: per example, per pixel or per token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, final

import torch
from pydantic import Field
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.elements import Elements, example_indices
from rebasin_core.evaluation.likelihood import Likelihood, TargetKind

if TYPE_CHECKING:
    from torch import Tensor

_RARE = 1e-12
_SUM_TOLERANCE = 1e-3


@final
class CategoricalLikelihood(Likelihood):
    r"""Classification: outputs are logits ``[N, K]``, targets are class indices ``[N]`` or probabilities ``[N, K]``.

    Dense targets have one class for each pixel or token: logits ``[N, K, ...]`` or ``[N, ..., K]`` and class indices
    ``[N, ...]``. Batches may have different lengths. Losses are then means over all elements (pixels or tokens) of
    all examples, as those of `torch.nn.functional.cross_entropy`, and standard errors from the finite dataset treat
    the elements of an example as dependent.

    With class weights $w$, label smoothing or probabilities $q$ as targets, $\log p(y \mid f)$ is replaced by
    $\sum_k q_k \log p_k$, and losses are weighted means, as in PyTorch. This is a loss, not the density of a target.

    Raises:
        ConfigError: If an option is out of range.

    Examples:
        >>> import torch
        >>> CategoricalLikelihood().log_prob(torch.zeros(1, 2), torch.tensor([0])).exp().item()
        0.5
    """

    targets: ClassVar[TargetKind] = "classes"

    name: Literal["categorical"] = "categorical"

    class_weights: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] = ()
    """Weight of each class in the mean loss; equal weights if empty. Not with probabilities as targets."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that is distributed evenly over all classes, in [0, 1)."""

    ignore_index: int | None = -100
    """Label of elements that are ignored, such as padding; None if there is none."""

    class_axis: Literal[1, -1] | None = None
    """Axis of the classes in dense outputs: 1 for ``[N, K, ...]``, -1 for ``[N, ..., K]``. If None, determined from the
    shapes."""

    next_token: bool = False
    """Whether the output at each position predicts the target at the next position, as in causal language models:
    outputs ``[N, T, K]`` and targets ``[N, T]``, of which the last output and the first target are not used."""

    @override
    def is_dense(self, targets: Tensor) -> bool:
        is_soft = targets.is_floating_point()
        if self.class_weights or targets.dim() != (2 if is_soft else 1):
            return True
        return not is_soft and self.ignore_index is not None and bool((targets == self.ignore_index).any())

    @override
    def check(self, outputs: Tensor, targets: Tensor) -> None:
        logits, labels = self._aligned(outputs, targets)
        classes = logits.shape[-1]
        if self.class_weights and len(self.class_weights) != classes:
            message = f"expected one weight for each of {classes} classes, got {len(self.class_weights)}"
            raise InvalidInputError(message)
        if labels.is_floating_point():
            self._check_probabilities(labels)
            return
        kept = labels if self.ignore_index is None else labels[labels != self.ignore_index]
        if kept.numel() and not 0 <= int(kept.min()) <= int(kept.max()) < classes:
            message = (
                f"expected class indices from 0 to {classes - 1} (the model has {classes} outputs), "
                f"got {int(kept.min())} to {int(kept.max())}"
            )
            raise InvalidInputError(message)

    def _check_probabilities(self, probabilities: Tensor) -> None:
        if self.class_weights:
            message = "expected class indices as targets with `class_weights`, got probabilities"
            raise InvalidInputError(message)
        worst = (probabilities.sum(-1) - 1).abs().max().item() if probabilities.numel() else 0.0
        if not worst <= _SUM_TOLERANCE or bool((probabilities < 0).any()):
            message = (
                "expected class indices as integers, or probabilities of the classes that sum to 1, got "
                f"{probabilities.dtype} with sums that differ from 1 by {worst:.3g}; for several labels per example "
                "use `bernoulli`, for regression `gaussian`"
            )
            raise InvalidInputError(message)

    def _aligned(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits ``[N, ..., K]`` and targets ``[N, ...]`` or ``[N, ..., K]``."""
        if self.next_token:
            if outputs.dim() != 3 or outputs.shape[:2] != targets.shape or targets.shape[1] < 2:
                message = (
                    "expected logits [N, T, K] and class indices [N, T] of at least 2 tokens with `next_token`, got "
                    f"shapes {tuple(outputs.shape)} and {tuple(targets.shape)}"
                )
                raise InvalidInputError(message)
            return outputs[:, :-1], targets[:, 1:]
        if targets.is_floating_point() and outputs.shape != targets.shape:
            message = (
                f"expected class indices as integers, got {targets.dtype} of shape {tuple(targets.shape)}; for "
                "regression use `gaussian`"
            )
            raise InvalidInputError(message)
        axis = self._axis(outputs, targets)
        logits = outputs.movedim(axis, -1)
        return logits, targets.movedim(axis, -1) if targets.is_floating_point() else targets

    def _axis(self, outputs: Tensor, targets: Tensor) -> int:
        if targets.is_floating_point():
            return self.class_axis or 1 if outputs.dim() > 1 else -1
        is_first = outputs.dim() > 1 and outputs.shape[:1] + outputs.shape[2:] == targets.shape
        is_last = outputs.dim() > 1 and outputs.shape[:-1] == targets.shape
        fits = {1: is_first, -1: is_last}
        if outputs.dim() == 2 and is_first:
            return 1
        if self.class_axis is None and is_first and is_last:
            message = (
                f"expected logits [N, K, ...] or [N, ..., K] and class indices [N, ...], got shapes "
                f"{tuple(outputs.shape)} and {tuple(targets.shape)}, which fit both; set `class_axis` to 1 or -1"
            )
            raise InvalidInputError(message)
        axis = self.class_axis or (1 if is_first else -1)
        if not fits[axis]:
            message = (
                f"expected logits [N, K] and class indices [N], got shapes {tuple(outputs.shape)} and "
                f"{tuple(targets.shape)}; for pixels or tokens, [N, K, ...] or [N, ..., K] and [N, ...]"
            )
            raise InvalidInputError(message)
        return axis

    @override
    def elements(self, outputs: Tensor, targets: Tensor) -> Elements:
        logits, labels = self._aligned(outputs, targets)
        rows = logits.reshape(-1, logits.shape[-1])
        if labels.is_floating_point():
            return Elements(rows, labels.reshape(rows.shape), example_indices(labels[..., 0]))
        flat = labels.reshape(-1)
        kept = torch.ones_like(flat, dtype=torch.bool) if self.ignore_index is None else flat != self.ignore_index
        weights = None
        if self.class_weights:
            each = torch.tensor(self.class_weights, dtype=torch.float64, device=flat.device)
            kept &= each[flat.where(kept, 0)] > 0
            weights = each[flat[kept]].to(rows)
        return Elements(rows[kept], flat[kept], example_indices(labels)[kept], weights)

    @override
    def constant(self, outputs: Tensor, targets: Tensor) -> Tensor:
        classes = outputs.shape[1]
        if targets.is_floating_point():
            frequencies = targets.double().mean(0)
        else:
            counts = torch.bincount(targets, minlength=classes).double()
            counts *= counts.new_tensor(self.class_weights or (1.0,) * classes)
            frequencies = counts / counts.sum().clamp_min(_RARE)
        frequencies = torch.lerp(frequencies, torch.full_like(frequencies, 1 / classes), self.label_smoothing)
        # A class that does not occur gets a very low but finite logit.
        return (frequencies * len(targets)).clamp_min(_RARE).log().to(outputs)

    @override
    def log_prob(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if not self.is_dense(targets):
            return self._terms(outputs.log_softmax(-1), targets)
        elements = self.elements(outputs, targets)
        return elements.summed(self._terms(elements.outputs.log_softmax(-1), elements.targets), len(targets))

    def _terms(self, logs: Tensor, targets: Tensor) -> Tensor:
        r"""Return $\sum_k q_k \log p_k$ for ``[M, K]`` log probabilities."""
        if targets.is_floating_point():
            hard = (targets * logs).sum(-1)
        else:
            hard = logs.gather(-1, targets.long().unsqueeze(-1)).squeeze(-1)
        if not self.label_smoothing:
            return hard
        return (1 - self.label_smoothing) * hard + self.label_smoothing * logs.mean(-1)

    @override
    def prediction(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(self.class_axis or (1 if outputs.dim() > 2 else -1))

    @override
    def entropy(self, outputs: Tensor) -> Tensor:
        logs = outputs.log_softmax(-1)
        return -(logs.exp() * logs).sum(-1)

    @override
    def assess(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logs = outputs.log_softmax(-1)
        probabilities = logs.exp()
        return self._terms(logs, targets), probabilities, -(probabilities * logs).sum(-1)

    @override
    def score(self, prediction: Tensor, targets: Tensor) -> Tensor:
        labels = targets.argmax(-1) if targets.is_floating_point() else targets
        return (prediction.argmax(-1) == labels).to(prediction.dtype)

    @property
    @override
    def score_name(self) -> str:
        return "accuracy"
