"""Predictions for dense targets: batch by batch, with one row per element (pixel, token)."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.memory import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from rebasin_core.evaluation.batches import Batch
    from rebasin_core.evaluation.likelihood import Likelihood
    from rebasin_core.evaluation.networks import AbstractNetworks

# Dimension of the elements, if it is not the first.
_ELEMENT_AXES = {"log_prob": 1, "groups": 1, "outputs": 1}
# Tensors that are kept on request only, and have many numbers for each element.
_LARGE = ("prediction", "groups", "outputs")


@final
class _Column:
    """Values of all elements in one tensor, allocated once.

    Small tensors that are allocated between the large temporary ones of each batch would fragment the memory.

    Args:
        capacity: Maximum number of elements.
        axis: Dimension of the elements.
    """

    def __init__(self, capacity: int, axis: int) -> None:
        self._capacity = capacity
        self._axis = axis
        self._values: Tensor | None = None
        self._length = 0

    def add(self, part: Tensor) -> None:
        """Append values."""
        if self._values is None:
            shape = list(part.shape)
            shape[self._axis] = self._capacity
            self._values = part.new_empty(shape)
        count = part.shape[self._axis]
        self._values.narrow(self._axis, self._length, count).copy_(part)
        self._length += count

    def joined(self) -> Tensor:
        """Return all values."""
        assert self._values is not None  # ruff: ignore[assert] - there is at least one batch
        return self._values.narrow(self._axis, 0, self._length)


@final
class DenseOutputs:
    """Accumulates the outputs of all networks for one batch after the other.

    Log likelihoods ``[S, M]`` of all elements are kept. Predictions ``[M, K]`` are kept only if they are needed
    (`keep`); otherwise they are reduced to a few numbers per element. Batches of different lengths are not padded.

    Args:
        batches: The data.
        likelihood: Likelihood of the targets.
        groups: Number of groups of samples whose averaged predictions are kept; 0 for none.
        keep: Whether to keep the outputs of each network.
    """

    def __init__(self, batches: Sequence[Batch], likelihood: Likelihood, *, groups: int, keep: bool) -> None:
        self._batches = batches
        self._likelihood = likelihood
        self._num_groups = groups
        self._keep = keep
        # At least the number of elements: at most one for each entry of the targets.
        self._capacity = sum(targets.numel() for _, targets in batches)
        self._columns: dict[str, _Column] = {}
        self._parts: dict[str, list[Tensor]] = {}

    def fits(self, networks: AbstractNetworks) -> bool:
        """Add the outputs of all networks for all batches; return whether they fit into memory."""
        first = 0
        try:
            for batch in self._batches:
                self._add(networks, batch, first)
                first += len(batch[1])
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def _add(self, networks: AbstractNetworks, batch: Batch, first: int) -> None:
        """Add the outputs of all networks for one batch, whose first example has the index `first`."""
        added = _BatchOutputs(networks, self._likelihood, batch[1], self._num_groups)
        for outputs in networks.outputs([batch]):
            added.add(outputs.first, outputs.values, keep=self._keep)
        found = added.parts(keep_predictions=self._num_groups > 0)
        found["examples"] = added.examples + first
        for name, part in found.items():
            if name in _LARGE or (name == "targets" and part.dim() > 1):
                self._parts.setdefault(name, []).append(part)
            else:
                column = self._columns.setdefault(name, _Column(self._capacity, _ELEMENT_AXES.get(name, 0)))
                column.add(part)

    def parts(self) -> dict[str, Tensor]:
        """Return the accumulated tensors, by the names of the attributes of `Predictions`, and those of element scores.

        Returns:
            Tensors whose last or, for outputs and groups, second dimension counts elements.

        Raises:
            InvalidInputError: If there is no element, because all targets are ignored.
        """
        joined = {name: column.joined() for name, column in self._columns.items()}
        if not len(joined["examples"]):
            message = "expected at least one target that is not ignored, got none"
            raise InvalidInputError(message)
        for name, parts in self._parts.items():
            axis = _ELEMENT_AXES.get(name, 0)
            if len({part.shape[1 + axis :] for part in parts}) == 1:
                joined[name] = torch.cat(parts, axis)
        if self._num_groups and "groups" not in joined:
            message = "expected predictions of the same shape in all batches for this metric; use `nll`"
            raise InvalidInputError(message)
        if "weights" in joined:  # their mean is 1: the mean of weighted values is the weighted mean
            joined["weights"] = joined["weights"].double() / joined["weights"].double().mean()
        return joined


@final
class _BatchOutputs:
    """The outputs of all networks for one batch."""

    def __init__(self, networks: AbstractNetworks, likelihood: Likelihood, targets: Tensor, groups: int) -> None:
        self._likelihood = likelihood
        self._targets = targets
        self._count = networks.count
        order = torch.arange(networks.count, device=targets.device)
        # Antithetic pairs stay in one group.
        self._group = order // 2 % max(1, min(groups, networks.count // 2))
        self._log_prob: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._entropy: Tensor | None = None
        self._sums: Tensor | None = None
        self._labels = targets
        self._weights: Tensor | None = None
        self.examples = targets

    def add(self, first: int, values: Tensor, *, keep: bool) -> None:
        """Add the outputs ``[c, N, ...]`` of c networks, the first of which has the index `first`."""
        if values.dtype in {torch.bfloat16, torch.float16}:
            values = values.float()
        for offset, outputs in enumerate(values):
            self._likelihood.check(outputs, self._targets)
            elements = self._likelihood.elements(outputs, self._targets)
            log_prob, prediction, entropy = self._likelihood.assess(elements.outputs, elements.targets)
            self._log_prob.append(log_prob.double())
            if self._sums is None or self._entropy is None:
                groups = int(self._group.max().item()) + 1
                self._sums = prediction.new_zeros((groups, *prediction.shape))
                self._entropy = torch.zeros_like(entropy, dtype=torch.float64)
                self.examples = elements.examples
                self._labels = elements.targets
                self._weights = elements.weights
            self._sums[self._group[first + offset]] += prediction
            self._entropy += entropy.double()
            if keep:
                self._outputs.append(elements.outputs)

    def parts(self, *, keep_predictions: bool) -> dict[str, Tensor]:
        """Return the tensors of the batch."""
        assert self._sums is not None  # ruff: ignore[assert] - there is at least one network
        assert self._entropy is not None  # ruff: ignore[assert] - likewise
        average = self._sums.sum(0) / self._count
        found = {
            "log_prob": torch.stack(self._log_prob),
            "score": self._likelihood.score(average, self._labels).double(),
            "targets": self._labels,
            "entropy": self._entropy / self._count,
        }
        if self._likelihood.targets == "classes":
            largest = average.max(-1)
            found["confidence"] = largest.values.double()
            found["predictive_entropy"] = torch.special.entr(average.double()).sum(-1)
            if not self._labels.is_floating_point():
                own = average.gather(-1, self._labels.long().unsqueeze(-1)).squeeze(-1)
                # The sum of (p_k - 1[y = k])^2 over classes.
                found["brier"] = average.double().square().sum(-1) - 2 * own.double() + 1
        if self._weights is not None:
            found["weights"] = self._weights
        if keep_predictions or self._outputs:
            found["prediction"] = average
        if keep_predictions:
            sizes = torch.bincount(self._group).to(average)
            found["groups"] = self._sums / sizes.reshape(-1, *[1] * average.dim())
        if self._outputs:
            found["outputs"] = torch.stack(self._outputs)
        return found
