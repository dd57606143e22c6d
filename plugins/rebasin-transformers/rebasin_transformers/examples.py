"""Small random models with their checkpoints, for the conformance kit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM

from rebasin_core import open_checkpoint
from rebasin_transformers.source import TransformersModelSource

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedModel


def examples(folder: Path) -> Sequence[object]:
    """Write small models to folders.

    Args:
        folder: An empty folder.

    Returns:
        Pairs of a source and a checkpoint: a model with tied weights, and one whose files store experts separately.
    """
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    gpt2 = GPT2Config(vocab_size=23, n_embd=8, n_layer=1, n_head=2, n_positions=16, **special)
    mixtral = MixtralConfig(
        vocab_size=23,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=3,
        **special,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        models: list[PreTrainedModel] = [GPT2LMHeadModel(gpt2), MixtralForCausalLM(mixtral)]
    found: list[object] = []
    for number, model in enumerate(models):
        model.save_pretrained(folder / str(number))
        found.append((TransformersModelSource(), open_checkpoint(folder / str(number))))
    return found
