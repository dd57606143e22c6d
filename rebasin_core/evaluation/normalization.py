"""Normalisation statistics at given parameters, from data."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch import nn

from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.tensors.modules import copied, named_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.evaluation.task import Batches

# By their classes: what is set here is the state of these modules (their mode and momentum), which no execution shows.
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def use_batch_statistics(model: FunctionalModel) -> None:
    """Let batch normalisations of a model take the statistics of whatever batch they are given.

    Other layers (dropout) stay as they are, and so do the statistics that a call is given, but for their count of
    batches.

    Args:
        model: Changed for good.
    """
    for module in model.module.modules():
        if isinstance(module, _BATCH_NORMS):
            module.train()
            module.momentum = 0.0


@final
class BatchStatistics:
    """Takes a model's batch statistics anew at any parameters: the reset of Garipov et al. and Izmailov et al.

    Args:
        model: The network; not changed.
        device: Where it is run.
        dtype: Its floating dtype.

    References:
        P. Izmailov et al. (2018), "Averaging weights leads to wider optima and better generalization", UAI, arXiv
        1803.05407, section 3.2.
    """

    def __init__(
        self, model: nn.Module, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self._private = FunctionalModel(model, device=device, dtype=dtype, training=True)
        self._names = list(named_tensors(model))
        modules = self._private.module.named_modules()
        self._norms = [(p, m) for p, m in modules if isinstance(m, _BATCH_NORMS) and m.track_running_stats]

    def __bool__(self) -> bool:
        """Return whether the model has any such statistics."""
        return bool(self._norms)

    def at(self, parameters: Mapping[str, Tensor], data: Batches) -> dict[str, Tensor]:
        """Return all buffers, with the statistics of data at given parameters.

        Args:
            parameters: All parameters by name; buffers among them are ignored.
            data: Batches ``(inputs, targets)``; one pass. The statistics of the batches are averaged, each batch with
                the weight of its number of examples.

        Returns:
            All buffers by name; the model's own where there is nothing to take.
        """
        buffers = copied(dict(self._private.module.named_buffers()))
        if not self._norms:
            return buffers
        for prefix, norm in self._norms:
            for name, _ in norm.named_buffers(recurse=False):
                buffers[f"{prefix}.{name}".lstrip(".")].zero_()
        seen = 0
        with torch.no_grad():
            for inputs, _ in data:
                seen += len(inputs)
                for _, norm in self._norms:
                    norm.momentum = len(inputs) / seen  # a running average with equal weights for all examples
                self._private({**parameters, **buffers}, self._private.to_device(inputs))
        return {name: buffers[name] for name in self._names if name in buffers}


def refreshed_buffers(model: nn.Module, parameters: Mapping[str, Tensor], data: Batches) -> dict[str, Tensor]:
    """Return a model's buffers with its batch statistics taken afresh at given parameters.

    Averaged weights have other activations than the networks they are averages of: their statistics must be taken anew.

    Args:
        model: The network; not changed.
        parameters: All its parameters by name.
        data: Batches ``(inputs, targets)``; one pass. The statistics of the batches are averaged, each batch with the
            weight of its number of examples.

    Returns:
        All buffers by name; the model's own where there is nothing to take.
    """
    first = next(iter(parameters.values()))
    return BatchStatistics(model, device=first.device, dtype=first.dtype).at(parameters, data)
