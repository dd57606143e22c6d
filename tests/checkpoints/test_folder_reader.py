"""Folders and shards, as `transformers` writes them; its own reading is the oracle where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rebasin_core import open_checkpoint
from rebasin_core.errors import FileFormatError, InvalidInputError

INDEX = "model.safetensors.index.json"


def tensors() -> dict[str, Tensor]:
    return {"a": torch.arange(3.0), "b": torch.ones(2, 2, dtype=torch.bfloat16), "c": torch.zeros(1)}


def sharded(folder: Path, **changes: str) -> Path:
    shards = {name: f"model-{i}-of-3.safetensors" for i, name in enumerate(tensors(), start=1)}
    for name, file in shards.items():
        save_file({name: tensors()[name]}, folder / file, metadata={"format": "pt"})
    document = {"metadata": {"total_size": 24}, "weight_map": shards | changes}
    (folder / INDEX).write_text(json.dumps(document), encoding="utf-8")
    (folder / "config.json").write_text('{"model_type": "mlp"}', encoding="utf-8")
    return folder


def test_shards_are_read_as_one_checkpoint(tmp_path: Path) -> None:
    found = open_checkpoint(sharded(tmp_path))
    assert found.format == "folder"
    assert found.shards == {
        "a": "model-1-of-3.safetensors",
        "b": "model-2-of-3.safetensors",
        "c": "model-3-of-3.safetensors",
    }
    assert [file.name for file in found.files] == sorted(found.shards.values())
    assert found.metadata == {"format": "pt"}
    assert found.config == {"model_type": "mlp"}
    for name, file in found.shards.items():
        assert torch.equal(found.tensors[name], load_file(tmp_path / file)[name])


def test_an_index_is_read_without_its_folder(tmp_path: Path) -> None:
    found = open_checkpoint(sharded(tmp_path) / INDEX)
    assert found.tensors.keys() == tensors().keys()
    assert found.companions == ()


def test_shards_of_torch_save(tmp_path: Path) -> None:
    for name, tensor in tensors().items():
        torch.save({name: tensor}, tmp_path / f"pytorch_model-{name}.bin")
    weight_map = {name: f"pytorch_model-{name}.bin" for name in tensors()}
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    found = open_checkpoint(tmp_path)
    assert found.shards == weight_map
    assert torch.equal(found.tensors["a"], tensors()["a"])


def test_files_that_belong_to_the_network(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "model.safetensors")
    belonging = [
        "README.md",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "modeling_own.py",
        "tokenizer.model",
    ]
    training = [
        "trainer_state.json",
        "training_args.bin",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state_0.pth",
        ".gitattributes",
    ]
    for name in belonging + training:
        (tmp_path / name).write_text("{}", encoding="utf-8")
    (tmp_path / "runs").mkdir()
    found = open_checkpoint(tmp_path)
    assert [path.name for path in found.companions] == sorted(belonging)
    assert found.ignored == {}


def test_the_file_of_transformers_is_preferred_and_others_are_reported(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "model.safetensors")
    torch.save({"other": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    found = open_checkpoint(tmp_path)
    assert found.tensors.keys() == tensors().keys()
    assert found.ignored == {"pytorch_model.bin": "another file of weights"}


def test_links_are_followed(tmp_path: Path) -> None:
    # The cache of the hub has links in its snapshots.
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    save_file(tensors(), tmp_path / "blobs" / "3f1e")
    (tmp_path / "snapshot" / "model.safetensors").symlink_to(Path("..", "blobs", "3f1e"))
    assert open_checkpoint(tmp_path / "snapshot").tensors.keys() == tensors().keys()


def test_the_only_file_of_weights_is_read_under_any_name(tmp_path: Path) -> None:
    torch.save({"model": tensors(), "ema": tensors()}, tmp_path / "last.ckpt")
    assert open_checkpoint(tmp_path, entry="ema").entry == ("ema",)


def test_several_files_of_weights(tmp_path: Path) -> None:
    for name in ("b.safetensors", "a.safetensors"):
        save_file(tensors(), tmp_path / name)
    with pytest.raises(
        InvalidInputError, match=r"several files of weights: `a.safetensors`, `b.safetensors`; give the path"
    ):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("file", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..\\a", ""])
def test_shards_outside_of_the_folder_are_not_read(tmp_path: Path, file: str) -> None:
    with pytest.raises(FileFormatError, match="names of files in the same folder"):
        open_checkpoint(sharded(tmp_path, a=file))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d": "model-4-of-3.safetensors"}, r"1 of 4 shards are missing: `model-4-of-3.safetensors`; download"),
        ({"d": "model-3-of-3.safetensors"}, r"tensors that it does not contain: `d`"),
        ({"a": 3}, r"'weight_map' with a file name for each tensor"),
    ],
)
def test_damaged_indices(tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        open_checkpoint(sharded(tmp_path, **changes))


def test_tensors_that_the_index_does_not_list_are_reported(tmp_path: Path) -> None:
    sharded(tmp_path)
    save_file({"a": torch.zeros(3), "more": torch.zeros(1)}, tmp_path / "model-1-of-3.safetensors")
    found = open_checkpoint(tmp_path)
    assert found.tensors.keys() == tensors().keys()
    assert found.ignored == {"model-1-of-3.safetensors": "1 tensors that the index does not list"}


def test_damaged_configurations(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(FileFormatError, match=r"config.json: expected a JSON object, got list"):
        open_checkpoint(tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", ["5GB", "8KB"])
def test_folders_of_transformers(tmp_path: Path, size: str) -> None:
    transformers: Any = pytest.importorskip("transformers", reason="transformers is not installed")
    options = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(**options, num_key_value_heads=1, vocab_size=50, tie_word_embeddings=True)
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size=size)
    found = open_checkpoint(tmp_path)
    assert (len(found.files) > 1) == (size == "8KB")
    assert found.config is not None
    assert found.config["model_type"] == "llama"
    expected = transformers.LlamaForCausalLM.from_pretrained(tmp_path).state_dict()
    assert expected.keys() - found.tensors.keys() == {"lm_head.weight"}
    assert all(torch.equal(found.tensors[name], expected[name]) for name in found.tensors)
