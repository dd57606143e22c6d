"""Folders of transformers: models, names in files, planted group elements, and files that transformers loads."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("rebasin_transformers", reason="rebasin-transformers is not installed")

import transformers
from rebasin_transformers import TransformersModelSource

import rebasin_core as rc
from rebasin_core.checkpoints import SourcedModel, function_difference
from rebasin_core.checkpoints.naming import match_names
from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.modules import named_tensors
from rebasin_core.testing import Check, conformance_checks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 41,
}
CAUSAL = {**SMALL, **SPECIAL, "num_key_value_heads": 2, "max_position_embeddings": 32}
IMAGE = {key: value for key, value in SMALL.items() if key != "vocab_size"} | {"image_size": 16, "patch_size": 8}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT2LMHeadModel": ("GPT2Config", {"vocab_size": 41, "n_embd": 16, "n_layer": 2, "n_head": 4, **SPECIAL}),
    "LlamaForCausalLM": ("LlamaConfig", {**CAUSAL, "tie_word_embeddings": True}),
    "MistralForCausalLM": ("MistralConfig", {**CAUSAL, "sliding_window": 4}),
    "Qwen2ForCausalLM": ("Qwen2Config", CAUSAL),
    "GemmaForCausalLM": ("GemmaConfig", {**CAUSAL, "head_dim": 4}),
    "MixtralForCausalLM": ("MixtralConfig", {**CAUSAL, "num_local_experts": 3}),
    "Qwen2MoeForCausalLM": (
        "Qwen2MoeConfig",
        {**CAUSAL, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "decoder_sparse_step": 1},
    ),
    "OPTForCausalLM": (
        "OPTConfig",
        {**SPECIAL, "vocab_size": 41, "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2,
         "num_attention_heads": 4, "word_embed_proj_dim": 16, "max_position_embeddings": 32},
    ),
    "GPTNeoXForCausalLM": ("GPTNeoXConfig", {**SMALL, **SPECIAL, "max_position_embeddings": 32}),
    "BertForSequenceClassification": ("BertConfig", {**SMALL, "pad_token_id": 0, "num_labels": 3}),
    "BertForMaskedLM": ("BertConfig", {**SMALL, "pad_token_id": 0}),
    "RobertaForMaskedLM": ("RobertaConfig", {**SMALL, **SPECIAL, "max_position_embeddings": 40}),
    "BertModel": ("BertConfig", {**SMALL, "pad_token_id": 0}),
    "ViTForImageClassification": ("ViTConfig", IMAGE),
    "ResNetForImageClassification": (
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic"},
    ),
    "T5ForConditionalGeneration": (
        "T5Config",
        {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4, "vocab_size": 41,
         "decoder_start_token_id": 0},
    ),
    "BartForSequenceClassification": (
        "BartConfig",
        {**SPECIAL, "vocab_size": 41, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1,
         "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24},
    ),
    "WhisperForConditionalGeneration": (
        "WhisperConfig",
        {**SPECIAL, "vocab_size": 41, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1,
         "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24,
         "num_mel_bins": 8, "max_source_positions": 10, "max_target_positions": 16, "decoder_start_token_id": 0},
    ),
    "CLIPModel": (
        "CLIPConfig",
        {"text_config": {**SMALL, **SPECIAL}, "vision_config": {**IMAGE, "projection_dim": 8}, "projection_dim": 8},
    ),
}  # fmt: skip


def made(name: str, seed: int = 0, **options: object) -> PreTrainedModel:
    """Return a model with random parameters, none of them zero or one."""
    config, values = MODELS[name]
    torch.manual_seed(seed)
    model: PreTrainedModel = getattr(transformers, name)(getattr(transformers, config)(**{**values, **options})).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.is_floating_point() and tensor.dim() == 1 and tensor.numel() > 1:
                tensor.add_(0.1 * torch.rand_like(tensor))
            elif tensor.is_floating_point() and tensor.dim() > 1:
                tensor.normal_(std=0.3)
    return model


def saved(model: PreTrainedModel, folder: Path) -> rc.Checkpoint:
    model.save_pretrained(folder)
    return rc.open_checkpoint(folder)


def tensors_of(model: SourcedModel, checkpoint: rc.Checkpoint) -> dict[str, Tensor]:
    """Return the parameters and buffers of a model, from the files where these contain them."""
    names = match_names(model.names, checkpoint.tensors, "the folder").names
    files = {name: checkpoint.tensors[file] for name, file in names.items()}
    return named_tensors(model.module) | dict(model.form.model_tensors(files))


@pytest.mark.parametrize("check", conformance_checks("rebasin-transformers"), ids=str)
def test_law_holds(check: Check) -> None:
    check.run()


@pytest.mark.parametrize("name", MODELS)
def test_planted_elements_are_found_and_written(name: str, tmp_path: Path) -> None:
    original = made(name)
    reference = saved(original, tmp_path / "reference")
    model = rc.model_of(reference)
    assert {p.device.type for p in model.module.parameters()} == {"meta"}
    spec = rc.spec_of(model, cache=False)
    tensors = tensors_of(model, reference)
    expected = dict(original.named_parameters())
    assert all(torch.equal(tensors[key], tensor) for key, tensor in expected.items())

    planted = spec.random_permutation(generator=torch.Generator().manual_seed(1))
    assert not planted.is_identity
    generator = torch.Generator().manual_seed(2)
    candidate = {
        key: tensor + 1e-4 * torch.randn(tensor.shape, generator=generator) if key in expected else tensor
        for key, tensor in planted.apply(tensors).items()
    }
    # The permuted network is a folder like any other.
    shutil.copytree(tmp_path / "reference", tmp_path / "candidate")
    stored = model.form.stored_tensors(candidate.__getitem__)
    written = {key: stored(key) for key in model.form.stored}
    save_file(written, tmp_path / "candidate" / "model.safetensors", {"format": "pt"})
    require_loadable(name, tmp_path / "candidate", candidate)

    read = tensors_of(model, rc.open_checkpoint(tmp_path / "candidate"))
    assert model.example_inputs is not None
    changed = function_difference(model.module, tensors, read.__getitem__, model.example_inputs)
    assert changed.error < 0.05
    aligned = rc.match(tensors, read, spec, matcher="weight").permutation.apply(read)
    distance = sum(float((aligned[key] - tensors[key]).square().sum()) for key in expected)
    assert distance <= 1.1e-8 * sum(p.numel() for p in expected.values())


def require_loadable(name: str, folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Assert that transformers loads a folder, with the given parameters."""
    loaded, report = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    assert all(torch.equal(p, tensors[key]) for key, p in loaded.named_parameters())


def with_config(folder: Path, **changes: object) -> rc.Checkpoint:
    path = folder / "config.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**document, **changes}), encoding="utf-8")
    return rc.open_checkpoint(folder)


def test_names_without_prefix_and_old_masks(tmp_path: Path) -> None:
    """The files of GPT-2 on the hub lack ``transformer.`` and contain causal masks."""
    original = made("GPT2LMHeadModel")
    saved(original, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    old = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    old |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 8, 8).tril() for layer in range(2)}
    save_file(old, tmp_path / "model.safetensors", {"format": "pt"})
    checkpoint = rc.open_checkpoint(tmp_path)
    found = tensors_of(rc.model_of(checkpoint), checkpoint)
    assert all(torch.equal(found[name], p) for name, p in original.named_parameters())


def test_old_spellings(tmp_path: Path) -> None:
    """Old files of BERT have ``gamma`` and ``beta``."""
    original = made("BertForSequenceClassification")
    saved(original, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    spelled = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    assert spelled.keys() != tensors.keys()
    save_file(spelled, tmp_path / "model.safetensors", {"format": "pt"})
    checkpoint = rc.open_checkpoint(tmp_path)
    found = tensors_of(rc.model_of(checkpoint), checkpoint)
    assert all(torch.equal(found[name], p) for name, p in original.named_parameters())


def test_tied_weights_under_their_second_name(tmp_path: Path) -> None:
    original = made("GPT2LMHeadModel")
    saved(original, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("transformer.wte.weight")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    checkpoint = rc.open_checkpoint(tmp_path)
    found = tensors_of(rc.model_of(checkpoint), checkpoint)
    assert torch.equal(found["transformer.wte.weight"], original.get_parameter("lm_head.weight"))


def test_experts_in_one_tensor(tmp_path: Path) -> None:
    """Files in the form of the modules, which transformers writes on request."""
    original = made("MixtralForCausalLM")
    original.save_pretrained(tmp_path, save_original_format=False)
    checkpoint = rc.open_checkpoint(tmp_path)
    assert any(name.endswith("experts.gate_up_proj") for name in checkpoint.tensors)
    found = tensors_of(rc.model_of(checkpoint), checkpoint)
    assert all(torch.equal(found[name], p) for name, p in original.named_parameters())


def test_rotary_frequencies_have_values(tmp_path: Path) -> None:
    original = made("LlamaForCausalLM")
    model = rc.model_of(saved(original, tmp_path))
    expected = original.get_buffer("model.rotary_emb.inv_freq")
    assert torch.equal(model.module.get_buffer("model.rotary_emb.inv_freq"), expected)


def test_outputs_are_those_of_the_model(tmp_path: Path) -> None:
    original = made("LlamaForCausalLM")
    checkpoint = saved(original, tmp_path)
    model = rc.model_of(checkpoint)
    assert model.example_inputs is not None
    _, inputs = model.example_inputs
    tensors = tensors_of(model, checkpoint)
    outputs = torch.func.functional_call(model.module, tensors, (), dict(inputs))
    assert outputs.keys() == {"logits"}
    torch.testing.assert_close(outputs["logits"], original(**inputs).logits)


def test_inputs_are_plain_tokens(tmp_path: Path) -> None:
    original = made("BartForSequenceClassification")
    model = rc.model_of(saved(original, tmp_path))
    assert model.example_inputs is not None
    _, inputs = model.example_inputs
    assert inputs.keys() == {"input_ids", "decoder_input_ids"}
    assert set(inputs["input_ids"][:, :-1].flatten().tolist()) & set(SPECIAL.values()) == set()
    assert inputs["input_ids"][:, -1].tolist() == [1, 1]


def test_inputs_can_be_given(tmp_path: Path) -> None:
    checkpoint = saved(made("LlamaForCausalLM"), tmp_path)
    source = {"name": "transformers", "named_inputs": {"input_ids": "1,3:int<41"}}
    model = rc.model_of(checkpoint, source)
    assert model.example_inputs is not None
    assert tuple(model.example_inputs[1]["input_ids"].shape) == (1, 3)
    assert model.identity != rc.model_of(checkpoint).identity


def test_specifications_are_cached_by_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    checkpoint = saved(made("LlamaForCausalLM"), tmp_path / "model")
    first = rc.spec_of(rc.model_of(checkpoint))
    renamed = with_config(tmp_path / "model", _name_or_path="another", torch_dtype="bfloat16")
    monkeypatch.setattr("rebasin_core.api.checkpoints.models.trace_spec", None)  # cannot be called
    assert rc.spec_of(rc.model_of(renamed)).layout == first.layout
    narrower = with_config(tmp_path / "model", intermediate_size=12)
    assert rc.model_of(narrower).identity != rc.model_of(renamed).identity


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "unheard_of"}, "has no models of type 'unheard_of'.*Code next to the weights is not executed"),
        ({"architectures": ["UnheardOfModel"]}, "has no UnheardOfModel"),
        ({"architectures": ["AutoTokenizer", "pipeline"]}, "has no AutoTokenizer, pipeline"),
        ({"hidden_size": "many"}, "cannot make the model of"),
        ({"num_attention_heads": 0}, "cannot make the model of"),
    ],
)
def test_unusable_configurations_are_errors(tmp_path: Path, changes: Mapping[str, object], message: str) -> None:
    saved(made("LlamaForCausalLM"), tmp_path)
    with pytest.raises(InvalidInputError, match=message):
        rc.model_of(with_config(tmp_path, **changes))


def test_quantized_files_are_errors(tmp_path: Path) -> None:
    saved(made("LlamaForCausalLM"), tmp_path)
    document = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    document["quantization_config"] = {"quant_method": "gptq"}
    (tmp_path / "config.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(InvalidInputError, match=r"is quantized \(gptq\).*dequantize it first"):
        rc.model_of(rc.open_checkpoint(tmp_path / "model.safetensors"))


def test_code_in_the_folder_is_not_executed(tmp_path: Path) -> None:
    saved(made("LlamaForCausalLM"), tmp_path)
    for name in ("modeling_evil", "configuration_evil"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n", encoding="utf-8")
    references = {"AutoConfig": "configuration_evil.C", "AutoModelForCausalLM": "modeling_evil.M"}
    model = rc.model_of(with_config(tmp_path, auto_map=references))
    assert type(model.module).__name__ == "LlamaForCausalLM"
    with pytest.raises(InvalidInputError, match="has no models of type"):
        rc.model_of(with_config(tmp_path, model_type="evil"))
    assert not (tmp_path / "executed").exists()


def test_weights_and_kernels_are_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getaddrinfo", None)  # cannot be called
    saved(made("LlamaForCausalLM"), tmp_path)
    kernels = {"attn_implementation": "kernels-community/flash-attn3", "use_kernels": True}
    kernels["_attn_implementation"] = "kernels-community/flash-attn3"
    model = rc.model_of(with_config(tmp_path, **kernels))
    assert rc.spec_of(model, cache=False).groups


def test_a_missing_architecture_is_the_base_model(tmp_path: Path) -> None:
    saved(made("BertModel"), tmp_path)
    model = rc.model_of(with_config(tmp_path, architectures=None))
    assert type(model.module).__name__ == "BertModel"


def test_other_configurations_are_not_recognized(tmp_path: Path) -> None:
    checkpoint = saved(made("BertModel"), tmp_path)
    assert TransformersModelSource().recognizes(checkpoint)
    for config in ({"architecture": "resnet18"}, {"model_type": None}, {"model_type": ["llama"]}):
        other = rc.Checkpoint(tmp_path, "folder", checkpoint.tensors, (), {}, config=config)
        assert not TransformersModelSource().recognizes(other)


def test_listing_sources_does_not_import_transformers() -> None:
    code = "import sys, rebasin_core as rc; print(rc.default_registry().names('model_source'), *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'transformers'" in done.stdout
    assert "transformers" not in done.stdout.split()
