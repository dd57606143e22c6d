"""Record names of files and networks of other libraries, and where each library loads each tensor of a file.

Run ``python -m tests.checkpoints.naming.record_layouts`` with transformers, timm, torchvision and diffusers installed.
The networks are random and small, without downloads. For every file, all tensors have different random values, the
library loads the file, and the values show which tensor of the network each of them became.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import safetensors.torch
import torch
from torch import Tensor, nn

PATH = Path(__file__).with_name("layouts.json")
State: TypeAlias = "dict[str, Tensor]"


def randomized(state: Mapping[str, Tensor]) -> State:
    """Return different random values of the same shapes and dtypes."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(tensor.shape, generator=generator)
        if tensor.is_floating_point()
        else torch.randint(1, 2**30, tensor.shape, generator=generator).to(tensor.dtype)
        for name, tensor in state.items()
    }


def from_folder(kind: Any, config: Any, state: State, **options: Any) -> nn.Module:
    """Return a network of transformers that is loaded from a folder."""
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        safetensors.torch.save_file(state, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        loaded: nn.Module = kind.from_pretrained(folder, **options)
    return loaded


def gpt2_as_on_the_hub() -> tuple[State, nn.Module]:
    library = importlib.import_module("transformers")
    config = library.GPT2Config(n_layer=2, n_embd=24, n_head=4, vocab_size=50, n_positions=16)
    state = randomized(library.GPT2Model(config).state_dict())
    for layer in range(2):
        state[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 16, 16).tril()
        state[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return state, from_folder(library.GPT2LMHeadModel, config, state)


def llama_without_head() -> tuple[State, nn.Module]:
    library = importlib.import_module("transformers")
    config = library.LlamaConfig(
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=50,
        tie_word_embeddings=True,
    )
    state = randomized(library.LlamaModel(config).state_dict())
    for layer in range(2):
        state[f"layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.rand(3)
    return state, from_folder(library.LlamaForCausalLM, config, state)


def bert_from_tensorflow() -> tuple[State, nn.Module]:
    library = importlib.import_module("transformers")
    config = library.BertConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40, vocab_size=50
    )
    pretraining = randomized(library.BertForPreTraining(config).state_dict())
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    state = {}
    for name, tensor in pretraining.items():
        renamed = name
        for new, spelling in old.items():
            renamed = renamed.replace(new, spelling)
        state[renamed] = tensor
    state["bert.embeddings.position_ids"] = torch.arange(512)[None]
    return state, from_folder(library.BertModel, config, state)


def vit_with_classifier() -> tuple[State, nn.Module]:
    library = importlib.import_module("transformers")
    config = library.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40, image_size=32, num_labels=7
    )
    state = randomized(library.ViTForImageClassification(config).state_dict())
    return state, from_folder(library.ViTModel, config, state, add_pooling_layer=False)


def timm_vit_of_an_ema() -> tuple[State, nn.Module]:
    timm = importlib.import_module("timm")
    averages = importlib.import_module("timm.utils").ModelEmaV3

    def build() -> nn.Module:
        model: nn.Module = timm.create_model(
            "vit_tiny_patch16_224", depth=2, embed_dim=24, num_heads=4, img_size=32, num_classes=7
        )
        return model

    state = randomized(averages(build()).state_dict())
    model = build()
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"state_dict": state, "epoch": 3}, Path(folder) / "last.pth.tar")
        importlib.import_module("timm.models").load_checkpoint(model, str(Path(folder) / "last.pth.tar"))
    return state, model


def resnet_in_parallel_without_counters() -> tuple[State, nn.Module]:
    models = importlib.import_module("torchvision.models")
    parallel = nn.DataParallel(models.resnet18(num_classes=7))
    state = {n: t for n, t in randomized(parallel.state_dict()).items() if not n.endswith("num_batches_tracked")}
    model: nn.Module = models.resnet18(num_classes=7)
    plain = dict(state)
    nn.modules.utils.consume_prefix_in_state_dict_if_present(plain, "module.")
    model.load_state_dict(plain)
    return state, model


def unet_in_a_trainer() -> tuple[State, nn.Module]:
    diffusers = importlib.import_module("diffusers")

    def build() -> nn.Module:
        model: nn.Module = diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=8,
        )
        return model

    trainer = nn.ModuleDict({"unet": build(), "time_weights": nn.Linear(3, 2)})
    state = randomized(trainer.state_dict())
    trainer.load_state_dict(state)
    return state, trainer["unet"]


LAYOUTS: tuple[Callable[[], tuple[State, nn.Module]], ...] = (
    gpt2_as_on_the_hub,
    llama_without_head,
    bert_from_tensorflow,
    vit_with_classifier,
    timm_vit_of_an_ema,
    resnet_in_parallel_without_counters,
    unet_in_a_trainer,
)


def recorded(state: State, model: nn.Module) -> dict[str, Any]:
    """Return the names and shapes of a file and a network, and the file's name of each tensor of the network."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    every = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    first = {id(tensor): name for name, tensor in tensors.items()}
    sources = {
        name: next((n for n, t in state.items() if t.shape == own.shape and torch.equal(t, own)), None)
        for name, own in tensors.items()
    }
    return {
        "network": {name: [*tensor.shape] for name, tensor in tensors.items()},
        "parameters": len(dict(model.named_parameters())),
        "saved": [name for name in model.state_dict() if name in tensors],
        "aliases": {name: first[id(tensor)] for name, tensor in every if first[id(tensor)] != name},
        "file": {name: [*tensor.shape] for name, tensor in state.items()},
        "sources": {name: source for name, source in sources.items() if source is not None},
    }


def main() -> None:
    """Write the file."""
    libraries = ("torch", "transformers", "timm", "torchvision", "diffusers")
    document: dict[str, Any] = {name: importlib.metadata.version(name) for name in libraries}
    document = {"versions": document, "layouts": {make.__name__: recorded(*make()) for make in LAYOUTS}}
    PATH.write_text(json.dumps(document, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
