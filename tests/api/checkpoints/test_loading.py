"""`load_posterior` reads checkpoints of every format as single networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import rebasin_core as rc
from rebasin_core.errors import FileFormatError, InvalidInputError

MODEL = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def written(folder: Path, kind: str) -> Path:
    state: dict[str, Any] = MODEL.state_dict()
    match kind:
        case "torch":
            torch.save({"state_dict": state, "epoch": 3}, folder / "a.ckpt")
            return folder / "a.ckpt"
        case "npz":
            np.savez(folder / "a.npz", **{name: tensor.numpy() for name, tensor in state.items()})
            return folder / "a.npz"
        case "folder":
            save_file(state, folder / "model.safetensors")
            (folder / "config.json").write_text("{}", encoding="utf-8")
            return folder
        case _:
            save_file(state, folder / "a.safetensors")
            return folder / "a.safetensors"


@pytest.mark.parametrize("kind", ["torch", "npz", "folder", "safetensors"])
def test_all_formats_give_the_network(tmp_path: Path, kind: str) -> None:
    found = rc.load_posterior(written(tmp_path, kind), model=MODEL)
    assert found.is_point
    parameters, buffers = dict(MODEL.named_parameters()), dict(MODEL.named_buffers())
    assert found.mean.keys() == parameters.keys()
    assert found.buffers.keys() == buffers.keys()
    assert all(torch.equal(tensor, parameters[name]) for name, tensor in found.mean.items())
    assert all(torch.equal(tensor, buffers[name]) for name, tensor in found.buffers.items())


def test_tensors_are_aligned_copies(tmp_path: Path) -> None:
    path = written(tmp_path, "npz")
    found = rc.load_posterior(path, model=MODEL)
    path.write_bytes(b"")  # a map of this file would crash the process
    assert all(tensor.data_ptr() % 16 == 0 for tensor in found.mean.values())
    assert torch.equal(found.mean["0.weight"], MODEL.state_dict()["0.weight"])


def test_adapters_and_several_networks_are_errors(tmp_path: Path) -> None:
    torch.save({"model": MODEL.state_dict(), "ema": MODEL.state_dict()}, tmp_path / "a.pt")
    with pytest.raises(InvalidInputError, match="several dictionaries of tensors"):
        rc.load_posterior(tmp_path / "a.pt", model=MODEL)
    save_file({"fc.lora_A.weight": torch.ones(2, 3), "fc.lora_B.weight": torch.ones(4, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(FileFormatError, match=r"adapter \(LoRA\)"):
        rc.load_posterior(tmp_path / "a.safetensors", model=MODEL)


def test_folders_with_shards_have_the_digests_of_their_files(tmp_path: Path) -> None:
    from rebasin_core.api.opening import (  # ruff: ignore[import-outside-top-level] - only here
        digest_of_checkpoint,
    )

    save_file({"a": torch.ones(2)}, tmp_path / "model-1.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}), encoding="utf-8")
    first = digest_of_checkpoint(index)
    assert digest_of_checkpoint(tmp_path) == first
    (tmp_path / "README.md").write_text("text", encoding="utf-8")
    assert digest_of_checkpoint(tmp_path) == first
    save_file({"a": torch.zeros(2)}, tmp_path / "model-1.safetensors")
    assert digest_of_checkpoint(tmp_path) != first
