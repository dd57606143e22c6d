"""Folders whose normalizations are folded: transformers loads them, and they compute the same function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("rebasin_transformers", reason="rebasin-transformers is not installed")

from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

import rebasin_core as rc
from rebasin_core.api.checkpoints import fold_checkpoint, unfold_checkpoint
from rebasin_core.specs.checking.precision import FullPrecision
from rebasin_core.symmetry import Kind, SymmetryElement

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = torch.randint(0, 41, (2, 7), generator=torch.Generator().manual_seed(0))
SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=41, n_embd=16, n_layer=2, n_head=4, n_positions=16, **SPECIAL))


def llama(*, tied: bool) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=41, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=16, tie_word_embeddings=tied, **SPECIAL,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def gemma(*, tied: bool) -> PreTrainedModel:
    """Return a model that multiplies normalized units by one plus a parameter, in single precision."""
    config = GemmaConfig(
        vocab_size=41, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, head_dim=4,
        num_key_value_heads=2, max_position_embeddings=16, tie_word_embeddings=tied, **SPECIAL,
    )  # fmt: skip
    return GemmaForCausalLM(config)


def vision() -> PreTrainedModel:
    config = ViTConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, image_size=8, patch_size=4
    )
    return ViTForImageClassification(config)


MODELS = {
    "gpt2": gpt2,
    "llama": lambda: llama(tied=False),
    "tied llama": lambda: llama(tied=True),
    "gemma": lambda: gemma(tied=False),
    "tied gemma": lambda: gemma(tied=True),
    "vision": vision,
}


def made(name: str) -> PreTrainedModel:
    """Return a model with random scales and shifts."""
    torch.manual_seed(0)
    model: PreTrainedModel = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (1.0 if parameter.dim() == 1 else 0.2))
    return model


def logits(model: PreTrainedModel) -> torch.Tensor:
    """Return the outputs of a model, in double precision."""
    inputs = (
        {"pixel_values": torch.ones(2, 3, 8, 8).double()} if "ViT" in type(model).__name__ else {"input_ids": TOKENS}
    )
    with torch.no_grad():
        found: torch.Tensor = model.double()(**inputs).logits
    return found


@pytest.mark.parametrize("name", MODELS)
def test_folded_folders_are_loaded_and_compute_the_same_function(name: str, tmp_path: Path) -> None:
    model = made(name)
    model.save_pretrained(tmp_path / "model")
    is_tied = name in {"gpt2", "tied llama", "tied gemma"}
    found = fold_checkpoint(tmp_path / "model", untie=is_tied, shifts=True, center=True)
    found.report.require()
    assert found.report.difference is not None
    assert found.report.difference.is_kept
    found.write(tmp_path / "folded")
    loaded: PreTrainedModel = type(model).from_pretrained(tmp_path / "folded")
    scales = [t for n, t in loaded.named_parameters() if "norm" in n.replace("ln_", "norm") and n.endswith("weight")]
    assert len(scales) >= 5
    assert all(bool((scale == (0 if "gemma" in name else 1)).all()) for scale in scales)
    expected = logits(model)
    assert (logits(loaded) - expected).abs().max() <= 1e-5 * expected.abs().max()
    if is_tied:
        assert json.loads((tmp_path / "folded" / "config.json").read_text())["tie_word_embeddings"] is False
        names = [key for key in loaded.state_dict() if "wte" in key or "embed_tokens" in key or "lm_head" in key]
        assert len(names) == 2
        assert not torch.equal(loaded.state_dict()[names[0]], loaded.state_dict()[names[1]])


def test_folding_is_reversed_in_the_form_of_the_files(tmp_path: Path) -> None:
    model = made("vision")
    model.save_pretrained(tmp_path / "model")
    fold_checkpoint(tmp_path / "model", shifts=True, center=True).write(tmp_path / "folded")
    unfold_checkpoint(tmp_path / "folded" / "rebasin_folding.safetensors", tmp_path / "folded", tmp_path / "again")
    loaded = ViTForImageClassification.from_pretrained(tmp_path / "again")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=1e-5, atol=2e-6)


def test_tied_folders_are_kept_with_the_reason(tmp_path: Path) -> None:
    made("gpt2").save_pretrained(tmp_path / "model")
    report = fold_checkpoint(tmp_path / "model").report
    assert list(report.kept) == ["transformer.ln_f.weight"]
    assert "`lm_head.weight`: `untie=True`" in report.kept["transformer.ln_f.weight"]
    assert not report.is_complete


@pytest.mark.parametrize("name", ["gemma", "tied gemma"])
def test_rotations_of_the_stream_of_gemma_are_recovered_after_folding(name: str) -> None:
    model = made(name).double()
    spec = rc.trace_spec(model, (), kwargs={"input_ids": TOKENS, "use_cache": False})
    folded = rc.fold(model, spec, untie="tied" in name)
    folded.report.require()
    reference = {key: parameter.detach() for key, parameter in folded.network.named_parameters()}
    symmetry = folded.spec.folded_symmetry
    (rotation,) = [linear for linear in symmetry.linear if linear.kind is Kind.ORTHOGONAL]
    assert len(rotation.zeros) == 5
    candidate = SymmetryElement.random(symmetry, generator=torch.Generator().manual_seed(0)).apply(reference)
    outputs = []
    for parameters in (reference, candidate):
        with torch.no_grad(), FullPrecision():  # the normalizations cast to single precision
            found = torch.func.functional_call(folded.network, parameters, (), {"input_ids": TOKENS})
        outputs.append(found.logits)
    assert (outputs[1] - outputs[0]).abs().max() <= 1e-9 * outputs[0].abs().max()
    result = rc.match(reference, candidate, folded.spec, rc.matchers.WeightMatcher(symmetry="full"))
    aligned = result.apply(candidate)
    assert max((aligned[key] - tensor).abs().max() for key, tensor in reference.items()) <= 1e-6
