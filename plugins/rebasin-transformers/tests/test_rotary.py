"""Rotations of pairs of neighbors in the models of transformers that rotate them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("rebasin_transformers", reason="rebasin-transformers is not installed")

import transformers

import rebasin_core as rc
from rebasin_core.symmetry import Kind, Pairs

SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
OPENAI = {"vocab_size": 13, "n_positions": 16, "n_embd": 32, "n_layer": 1, "n_head": 4, "rotary_dim": 4, **SPECIAL}
SMALL = {
    "vocab_size": 13, "hidden_size": 16, "intermediate_size": 10, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 16, **SPECIAL,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "GPTJ": OPENAI,
    "CodeGen": {**OPENAI, "n_ctx": 16},
    "Cohere": SMALL,
    "Glm": {**SMALL, "head_dim": 8},
}


@pytest.mark.parametrize("name", MODELS)
def test_neighbors_are_rotated(name: str) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**MODELS[name])
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    inputs = {"input_ids": torch.randint(3, 13, (2, 6)), "use_cache": False}
    spec = rc.trace_spec(model, (), kwargs=inputs)
    (found,) = [linear for linear in spec.symmetry.linear if linear.kind is Kind.ROTATION]
    assert found.pairs is Pairs.NEIGHBORS
    assert spec.symmetry.layout.groups[found.group].size == (8 if name == "Cohere" else 4)
    rc.check_spec(spec, model, (), kwargs=inputs).require()


def test_a_key_that_all_heads_share_is_traced() -> None:
    config = transformers.DeepseekV2Config(
        **{**SMALL, "num_key_value_heads": 2}, moe_intermediate_size=8, kv_lora_rank=8, q_lora_rank=None,
        qk_nope_head_dim=4, qk_rope_head_dim=4, v_head_dim=4, first_k_dense_replace=1, n_routed_experts=2,
        n_shared_experts=1, num_experts_per_tok=1, n_group=1, topk_group=1,
    )  # fmt: skip
    model = transformers.DeepseekV2ForCausalLM(config).eval()
    inputs = {"input_ids": torch.randint(3, 13, (2, 6)), "use_cache": False}
    spec = rc.trace_spec(model, (), kwargs=inputs)
    rc.check_spec(spec, model, (), kwargs=inputs).require()
