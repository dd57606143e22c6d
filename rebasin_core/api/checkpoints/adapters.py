"""Adapters: opened and merged into their base models."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rebasin_core.api.opening import open_checkpoint, read_any
from rebasin_core.checkpoints.checkpoint import Checkpoint
from rebasin_core.checkpoints.lora import LoraTensors
from rebasin_core.checkpoints.requirements import is_adapter
from rebasin_core.errors import FileFormatError
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from pathlib import Path

    from rebasin_core.plugin.registry import Registry


def merge_lora(
    base: Checkpoint | Path | str, adapter: Checkpoint | Path | str, *, registry: Registry | None = None
) -> Checkpoint:
    r"""Return the checkpoint of a network with a LoRA adapter merged into its weights.

    The weight of a layer with an adapter becomes $W + s\,B A$ with the scale $s = \alpha / r$, or
    $\alpha / \sqrt{r}$ for rank-stabilized LoRA. It is computed in float32 or better whenever the tensor is accessed,
    and rounded to the dtype of the base.

    Args:
        base: The base model of the adapter: a checkpoint, or its path.
        adapter: The adapter, in the format of the library PEFT: an opened checkpoint, or its path.
        registry: Registry of readers; all installed plugins if None.

    Returns:
        A checkpoint with the names, files and configuration of the base.

    Raises:
        FileFormatError: If the adapter is not LoRA, incomplete, or has no ``adapter_config.json``.
        InvalidInputError: If it does not fit the base.

    References:
        E. J. Hu et al. (2022), "LoRA: low-rank adaptation of large language models", ICLR, arXiv 2106.09685, section
        4.1.
    """
    network = base if isinstance(base, Checkpoint) else open_checkpoint(base, registry=registry)
    update = adapter if isinstance(adapter, Checkpoint) else open_adapter(adapter, registry=registry)
    return replace(network, tensors=LoraTensors(network, update), files=(*network.files, *update.files))


def open_adapter(path: Path | str, *, registry: Registry | None = None) -> Checkpoint:
    """Open an adapter, such as LoRA, whose tensors are updates of a network.

    Args:
        path: Folder of the adapter, or its file of weights.
        registry: Registry of readers; all installed plugins if None.

    Returns:
        The checkpoint with the factors of the updates.

    Raises:
        FileFormatError: If it cannot be read, or is not an adapter.
    """
    found = read_any(path, registry=registry)
    if not is_adapter(found):
        message = f"{shown(found.path)} is not an adapter; expected tensors such as `lora_A` and `lora_B`"
        raise FileFormatError(message)
    return found
