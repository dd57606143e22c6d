"""Files that are no checkpoints are described from their content, with a remedy."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rebasin_core import open_checkpoint
from rebasin_core.errors import FileFormatError


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return buffer.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return buffer.getvalue()


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty; the download or copy was interrupted"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "Git LFS.*git lfs pull"),
    "gguf": (b"GGUF\x03\0\0\0" + bytes(40), "GGUF.*gguf_file=name"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(40), "HDF5.*numpy.savez"),
    "keras": (zipped("metadata.json", "config.json", "model.weights.h5"), "Keras.*numpy.savez"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.5.0", "ONNX"),
    "saved model": (b"\x08\x01\x12\xa0\x01\x0a", "TensorFlow SavedModel"),
    "flax": (b"\x81\xa6params\x82\xa6kernel", "MessagePack.*Flax"),
    "npy": (npy(), r"NumPy array \(.npy\) without a name.*numpy.savez"),
    "html": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "HTML page.*download the file again"),
    "pickle": (pickle.dumps({"a": [1, 2, 3]}), "pickle that `torch.save` did not write.*can execute code"),
    "config": (b'{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}', "configuration.*its folder"),
    "text": ("epoch 1: loss 0.3 Å\n".encode() * 300, "a text file"),
    "gzip": (gzip.compress(b"content"), "compressed with gzip; decompress it first"),
    "tar": (tar(), "a tar archive; extract it first"),
    "zip": (zipped("b.txt", "a.txt"), "zip archive with `a.txt`, `b.txt`; extract it first"),
    "truncated": (zipped("model/data.pkl")[:40], "zip archive.*damaged or truncated"),
    "safetensors": (b"\xff" * 8 + b'{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}', "damaged safetensors"),
    "unknown": (bytes(range(200, 256)), r"unknown format that starts with b'\\xc8\\xc9"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_files(tmp_path: Path, kind: str) -> None:
    content, message = FILES[kind]
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(FileFormatError, match=message) as caught:
        open_checkpoint(tmp_path / "model.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_torchscript(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(3, 4)).save(tmp_path / "a.pt")
    with pytest.raises(FileFormatError, match=r"TorchScript.*torch.jit.load\(path\).state_dict\(\)"):
        open_checkpoint(tmp_path / "a.pt")


FOLDERS: dict[str, tuple[list[str], str]] = {
    "empty": ([], "empty folder"),
    "other": (["notes.csv"], "without weights; it has `notes.csv`; expected model.safetensors"),
    "only training": (["optimizer.pt", "training_args.bin"], "without weights"),
    "gguf": (["model-Q4_K_M.gguf", "config.json"], "GGUF"),
    "flax": (["flax_model.msgpack", "config.json"], "from_flax=True"),
    "tensorflow": (["tf_model.h5", "config.json"], "from_tf=True"),
    "keras": (["model.keras"], "Keras"),
    "onnx": (["decoder.onnx"], "ONNX"),
    "distributed": ([".metadata", "__0_0.distcp"], "dcp_to_torch"),
    "deepspeed": (["zero_pp_rank_0_mp_rank_00_optim_states"], "zero_to_fp32.py"),
    "pipeline": (["model_index.json", "unet/model.safetensors", "vae/model.safetensors"], "pipeline.*`unet`, `vae`"),
    "several": (["checkpoint-10/model.safetensors", "checkpoint-20/a.pt"], "several checkpoints.*`checkpoint-10`"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOLDERS)
def test_folders(tmp_path: Path, kind: str) -> None:
    names, message = FOLDERS[kind]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"content")
    with pytest.raises(FileFormatError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    import os  # ruff: ignore[import-outside-top-level] - pipes are not on all systems

    os.mkfifo(tmp_path / "a")
    with pytest.raises(FileFormatError, match="it is a pipe"):
        open_checkpoint(tmp_path / "a")


def test_names_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileFormatError, match=r"hf download meta-llama/Llama-3.2-1B --local-dir"):
        open_checkpoint("meta-llama/Llama-3.2-1B")
    with pytest.raises(FileFormatError, match="No such file or directory"):
        open_checkpoint("folder/inner/model.pt")


@pytest.mark.parametrize(
    ("names", "config", "message"),
    [
        (["model.fc.lora_A.weight", "model.fc.lora_B.weight"], None, r"adapter \(LoRA\).*merge_lora"),
        (["lora_unet_down_0.lora_down.weight", "lora_unet_down_0.lora_up.weight"], None, "adapter"),
        (["fc.base_layer.weight", "fc.lora_A.default.weight", "fc.lora_B.default.weight"], None, "merge_and_unload"),
        (["fc.weight"], {"quantization_config": {"quant_method": "fp8"}}, r"quantized weights \(fp8\).*dequantize"),
        (["fc.qweight", "fc.qzeros", "fc.scales"], None, "GPTQ or AWQ"),
        (["fc.weight", "fc.weight.absmax", "fc.weight.quant_state.bitsandbytes__nf4"], None, "bitsandbytes"),
        (["fc.weight", "fc.weight_scale_inv"], None, "FP8"),
    ],
)  # fmt: skip
def test_adapters_and_quantized_weights(tmp_path: Path, names: list[str], config: Any, message: str) -> None:
    torch.save({name: torch.zeros(2, 2) for name in names}, tmp_path / "pytorch_model.bin")
    if config is not None:
        import json  # ruff: ignore[import-outside-top-level] - only here

        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(FileFormatError, match=message):
        open_checkpoint(tmp_path)


def test_integer_tensors_and_float8_are_kept(tmp_path: Path) -> None:
    given: dict[str, Any] = {"fc.weight": torch.ones(2, 2, dtype=torch.int8), "b": torch.ones(2).to(torch.float8_e5m2)}
    torch.save(given, tmp_path / "a.pt")
    assert {t.dtype for t in open_checkpoint(tmp_path / "a.pt").tensors.values()} == {torch.int8, torch.float8_e5m2}
