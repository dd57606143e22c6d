"""Normalisation statistics at given parameters, from data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.tensors.modules import copied, named_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.evaluation.predictive import Batches

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def refreshed_buffers(model: nn.Module, parameters: Mapping[str, Tensor], data: Batches) -> dict[str, Tensor]:
    """Return a model's buffers with its batch statistics taken afresh at given parameters.

    Averaged weights have other activations than the networks they are averages of: their statistics must be taken anew.

    Args:
        model: The network; not changed.
        parameters: All its parameters by name.
        data: Batches ``(inputs, targets)``; one pass, each batch with the same weight.

    Returns:
        All buffers by name; the model's own where there is nothing to take.
    """
    first = next(iter(parameters.values()))
    private = FunctionalModel(model, device=first.device, dtype=first.dtype, training=True)
    norms = [m for m in private.module.modules() if isinstance(m, _BATCH_NORMS) and m.track_running_stats]
    buffers = copied(dict(private.module.named_buffers()))
    if not norms:
        return buffers
    for norm in norms:
        norm.momentum = None  # the plain average over batches
    prefixes = {id(module): name for name, module in private.module.named_modules()}
    for norm in norms:
        for name, _ in norm.named_buffers(recurse=False):
            buffers[f"{prefixes[id(norm)]}.{name}".lstrip(".")].zero_()
    with torch.no_grad():
        for inputs, _ in data:
            private({**parameters, **buffers}, private.to_device(inputs))
    return {name: buffers[name] for name in named_tensors(model) if name in buffers}
