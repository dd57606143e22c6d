"""Checks that a checkpoint holds the weights of a whole network: not an adapter, and not quantized."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rebasin_core.errors import FileFormatError
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rebasin_core.checkpoints.checkpoint import Checkpoint

ADAPTER_CONFIG = "adapter_config.json"
"""Configuration of an adapter of the library PEFT."""

_ADAPTER = re.compile(r"(^|[._])(lora_(A|B|up|down|embedding_A|embedding_B)|hada_w\d_\w|lokr_w\d)([._]|$)")
_UNMERGED = re.compile(r"(^|\.)base_layer\.")
# Names of tensors that only quantized layers have, and the method.
_QUANTIZED: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(^|\.)qweight$"), "GPTQ or AWQ"),
    (re.compile(r"(^|\.)(SCB|weight_format|absmax|quant_map|nested_absmax|quant_state\.\w+)$"), "bitsandbytes"),
    (re.compile(r"(^|\.)weight_(scale|scale_inv|scale_2|packed)$"), "FP8 or INT8 with scales"),
    (re.compile(r"(^|\.)_packed_params(\.|$)"), "PyTorch quantization"),
)


def require_network(checkpoint: Checkpoint) -> None:
    """Raise if a checkpoint is an adapter, or its weights are quantized.

    Args:
        checkpoint: The checkpoint.

    Raises:
        FileFormatError: If its tensors are not the parameters of a network; states how to get these.
    """
    if is_adapter(checkpoint):
        message = (
            f"{shown(checkpoint.path)} is an adapter (LoRA), not a network; merge it into its base model first: "
            "`merge_lora(base, adapter)`"
        )
        raise FileFormatError(message)
    if any(_UNMERGED.search(name) for name in _layers_of_adapters(checkpoint.tensors)):
        message = (
            f"{shown(checkpoint.path)} has adapters that are not merged into its weights; merge them with the library "
            "that wrote it: `model.merge_and_unload().save_pretrained(output)` of peft"
        )
        raise FileFormatError(message)
    method = quantization(checkpoint)
    if method is not None:
        message = (
            f"{shown(checkpoint.path)} has quantized weights ({method}), which cannot be compared or averaged; use the "
            "checkpoint before quantization, or dequantize it, for example with `model.dequantize()` and "
            "`save_pretrained` of transformers"
        )
        raise FileFormatError(message)


def is_adapter(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint is an adapter of a network, such as LoRA, according to its files and names.

    Args:
        checkpoint: The checkpoint.

    Returns:
        Whether it is. A network with adapters that are not merged is none.
    """
    if any(path.name == ADAPTER_CONFIG for path in checkpoint.companions) and checkpoint.config is None:
        return True
    return any(_ADAPTER.search(name) for name in checkpoint.tensors) and not any(
        _UNMERGED.search(name) for name in checkpoint.tensors
    )


def quantization(checkpoint: Checkpoint) -> str | None:
    """Return the quantization method of a checkpoint according to its configuration and the names of its tensors.

    Args:
        checkpoint: The checkpoint.

    Returns:
        The method; None if weights are not known to be quantized.
    """
    configured = (checkpoint.config or {}).get("quantization_config")
    if configured is not None:
        method = configured.get("quant_method", "unknown") if isinstance(configured, dict) else configured
        return shown(method, 40).strip("'")
    return next((method for pattern, method in _QUANTIZED if any(map(pattern.search, checkpoint.tensors))), None)


def _layers_of_adapters(names: Iterable[str]) -> list[str]:
    """Return all names if some are of adapters: `base_layer` alone may be a layer of a network."""
    given = list(names)
    return given if any(_ADAPTER.search(name) for name in given) else []
