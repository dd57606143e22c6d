"""Small random models with their checkpoints, for the conformance kit."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import timm
import torch
from safetensors.torch import save_model

from rebasin_core import open_checkpoint
from rebasin_timm.source import TimmModelSource

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_MODELS: dict[str, dict[str, Any]] = {
    "test_resnet": {},
    "test_vit": {"img_size": 32},
}


def examples(folder: Path) -> Sequence[object]:
    """Write small models to folders.

    Args:
        folder: An empty folder.

    Returns:
        Pairs of a source and a checkpoint: a convolutional network, and a transformer.
    """
    found: list[object] = []
    for name, options in _MODELS.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = timm.create_model(name, pretrained=False, num_classes=5, **options)
        size = options.get("img_size", 32)
        described = {"input_size": [3, size, size], "fixed_input_size": bool(options)}
        config = {"architecture": name, "num_classes": 5, "model_args": options, "pretrained_cfg": described}
        target = folder / name
        target.mkdir()
        (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
        save_model(model, str(target / "model.safetensors"))
        checkpoint = open_checkpoint(target / "model.safetensors")
        found.append((TimmModelSource(), replace(checkpoint, config=config)))
    return found
