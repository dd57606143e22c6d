"""Model classes of the package transformers with small configurations, for `traced_models.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn


def transformers_models() -> dict[str, tuple[type[nn.Module], object, dict[str, Tensor]]]:  # ruff: ignore[too-many-locals] - a list of configurations
    """Return model classes with their configurations and inputs, by name."""
    import transformers as t  # ruff: ignore[import-outside-top-level] - an optional package

    ids = torch.randint(3, 90, (2, 7))
    small = {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 97,
    }
    causal = {**small, "num_key_value_heads": 2, "pad_token_id": 0, "use_cache": False}
    image = {"image_size": 32, "patch_size": 8}
    vision = {key: value for key, value in small.items() if key != "vocab_size"} | image
    both_sides = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    seq2seq = {"vocab_size": 97, "d_model": 24, **both_sides, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40}
    text, pixels = {"input_ids": ids}, {"pixel_values": torch.randn(2, 3, 32, 32)}
    both = {**text, "decoder_input_ids": ids}
    sound = {"input_features": torch.randn(2, 16, 40), "decoder_input_ids": ids}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    clip = {
        "text_config": {**small, "projection_dim": 16, "eos_token_id": 2},
        "vision_config": {**vision, "projection_dim": 16},
    }
    gpt2 = t.GPT2Config(vocab_size=97, n_embd=24, n_layer=2, n_head=4, n_positions=32, use_cache=False)
    t5 = t.T5Config(d_model=24, d_kv=6, d_ff=40, num_layers=2, num_heads=4, vocab_size=97, use_cache=False)
    whisper = t.WhisperConfig(
        **seq2seq, **special, num_mel_bins=16, max_source_positions=20, max_target_positions=16, use_cache=False
    )
    mamba = t.MambaConfig(vocab_size=97, hidden_size=24, state_size=5, num_hidden_layers=2, use_cache=False)
    return {
        **_mixtures_of_experts(causal, text),
        "GPT2LMHeadModel": (t.GPT2LMHeadModel, gpt2, text),
        "LlamaForCausalLM": (t.LlamaForCausalLM, t.LlamaConfig(**causal), text),
        "MistralForCausalLM": (t.MistralForCausalLM, t.MistralConfig(**causal), text),
        "Qwen2ForCausalLM": (t.Qwen2ForCausalLM, t.Qwen2Config(**causal), text),
        "Qwen3ForCausalLM": (t.Qwen3ForCausalLM, t.Qwen3Config(**causal, head_dim=6), text),
        "GemmaForCausalLM": (t.GemmaForCausalLM, t.GemmaConfig(**causal, head_dim=6), text),
        "Gemma2ForCausalLM": (t.Gemma2ForCausalLM, t.Gemma2Config(**causal, head_dim=6), text),
        "Phi3ForCausalLM": (t.Phi3ForCausalLM, t.Phi3Config(**causal), text),
        "GPTNeoXForCausalLM": (t.GPTNeoXForCausalLM, t.GPTNeoXConfig(**small, use_cache=False), text),
        "BloomForCausalLM": (
            t.BloomForCausalLM,
            t.BloomConfig(vocab_size=97, hidden_size=24, n_layer=2, n_head=4, use_cache=False),
            text,
        ),
        "MambaForCausalLM": (t.MambaForCausalLM, mamba, text),
        "BertForSequenceClassification": (t.BertForSequenceClassification, t.BertConfig(**small), text),
        "RobertaForMaskedLM": (
            t.RobertaForMaskedLM,
            t.RobertaConfig(**small, max_position_embeddings=40),
            text,
        ),
        "T5ForConditionalGeneration": (t.T5ForConditionalGeneration, t5, both),
        "WhisperForConditionalGeneration": (t.WhisperForConditionalGeneration, whisper, sound),
        "ViTForImageClassification": (t.ViTForImageClassification, t.ViTConfig(**vision), pixels),
        "CLIPModel": (t.CLIPModel, t.CLIPConfig(**clip, projection_dim=16), {**text, **pixels}),
    }


def _mixtures_of_experts(
    causal: dict[str, object], text: dict[str, Tensor]
) -> dict[str, tuple[type[nn.Module], object, dict[str, Tensor]]]:
    """Return mixture-of-experts models: four experts, two per token (DeepSeek-V3: eight experts in two groups)."""
    import transformers as t  # ruff: ignore[import-outside-top-level] - an optional package

    four = {"num_experts": 4, "num_experts_per_tok": 2}
    local = {"num_local_experts": 4, "num_experts_per_tok": 2}
    narrow = {**four, "moe_intermediate_size": 12, "decoder_sparse_step": 1}
    latent = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 6, "v_head_dim": 6}
    grouped = {"n_routed_experts": 8, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "n_shared_experts": 1}
    deepseek = t.DeepseekV3Config(
        **{**causal, **latent, **grouped, "num_key_value_heads": 4}, moe_intermediate_size=12, first_k_dense_replace=1
    )
    return {
        "MixtralForCausalLM": (t.MixtralForCausalLM, t.MixtralConfig(**causal, **local), text),
        "Qwen2MoeForCausalLM": (
            t.Qwen2MoeForCausalLM,
            t.Qwen2MoeConfig(**causal, **narrow, shared_expert_intermediate_size=12),
            text,
        ),
        "Qwen3MoeForCausalLM": (t.Qwen3MoeForCausalLM, t.Qwen3MoeConfig(**causal, **narrow, head_dim=6), text),
        "DeepseekV3ForCausalLM": (t.DeepseekV3ForCausalLM, deepseek, text),
        "OlmoeForCausalLM": (t.OlmoeForCausalLM, t.OlmoeConfig(**causal, **four), text),
        "GptOssForCausalLM": (t.GptOssForCausalLM, t.GptOssConfig(**causal, **local, head_dim=6), text),
    }
