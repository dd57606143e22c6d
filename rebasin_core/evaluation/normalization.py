"""Batch-normalization statistics computed from data."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch import nn

from rebasin_core.evaluation.batches import checked_batches
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.tensors.modules import copied, named_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.evaluation.batches import Batches

# Found by class, because the reset changes the state of these modules (mode and momentum).
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def use_batch_statistics(model: FunctionalModel) -> None:
    """Make the batch-normalization layers of a model use the statistics of the current batch.

    Other layers (such as dropout) do not change mode. Running statistics are not updated, except the batch counter.

    Args:
        model: The model; modified in place.
    """
    for module in model.module.modules():
        if isinstance(module, _BATCH_NORMS):
            module.train()
            module.momentum = 0.0


@final
class BatchStatistics:
    """Recomputation of the batch-normalization statistics of a model for given parameters.

    Averaged weights produce other activations than the networks that were averaged, so their statistics differ.

    Args:
        model: The network; not changed.
        device: Device to run on.
        dtype: Dtype of floating-point parameters, buffers and inputs.

    References:
        P. Izmailov et al. (2018), "Averaging weights leads to wider optima and better generalization", UAI, arXiv
        1803.05407, section 3.2.
    """

    def __init__(
        self, model: nn.Module, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self._model = FunctionalModel(model, device=device, dtype=dtype, training=True)
        self._names = list(named_tensors(model))
        modules = self._model.module.named_modules()
        self._norms = [(p, m) for p, m in modules if isinstance(m, _BATCH_NORMS) and m.track_running_stats]

    def __bool__(self) -> bool:
        """Return whether the model has batch-normalization statistics."""
        return bool(self._norms)

    def at(self, parameters: Mapping[str, Tensor], data: Batches) -> dict[str, Tensor]:
        """Return all buffers, with statistics recomputed for given parameters.

        Args:
            parameters: All parameters by name; buffers among them are ignored.
            data: Batches ``(inputs, targets)``, iterated once. Statistics are averaged over batches, weighted by the
                number of examples.

        Returns:
            All buffers by name; buffers that are not statistics are those of the model.
        """
        buffers = copied(dict(self._model.module.named_buffers()))
        if not self._norms:
            return buffers
        for prefix, norm in self._norms:
            for name, _ in norm.named_buffers(recurse=False):
                buffers[f"{prefix}.{name}".lstrip(".")].zero_()
        seen = 0
        with torch.no_grad():
            for inputs, _ in checked_batches(data):
                seen += len(inputs)
                for _, norm in self._norms:
                    norm.momentum = len(inputs) / seen  # running average with equal weight for each example
                self._model({**parameters, **buffers}, self._model.to_device(inputs))
        return {name: buffers[name] for name in self._names if name in buffers}


def refreshed_buffers(model: nn.Module, parameters: Mapping[str, Tensor], data: Batches) -> dict[str, Tensor]:
    """Return a model's buffers with batch-normalization statistics recomputed for given parameters.

    Averaged weights produce other activations than the networks that were averaged, so their statistics differ.

    Args:
        model: The network; not changed.
        parameters: All parameters by name.
        data: Batches ``(inputs, targets)``, iterated once. Statistics are averaged over batches, weighted by the number
            of examples.

    Returns:
        All buffers by name; buffers that are not statistics are those of the model.

    References:
        P. Izmailov et al. (2018), arXiv 1803.05407, section 3.2.
    """
    first = next(iter(parameters.values()))
    return BatchStatistics(model, device=first.device, dtype=first.dtype).at(parameters, data)
