"""Time and memory of `rebasin align`, `merge` and `diff` on pairs of checkpoints with a known permutation.

    python tests/benchmarks/checkpoints.py FOLDER MODEL... [--merge]

Models: resnet50, vit_b16, gpt2, and llama-SIZE for 0.1b, 0.4b, 1.2b, 3b and 7b in bfloat16 with grouped queries (all of
transformers), and unet (the shape of Stable Diffusion 1.5, of diffusers). The candidate is a randomly permuted copy of
the reference with noise of a tenth of the standard deviation of each tensor. Both are written tensor by tensor. Each
command is a new process; its memory is sampled from ``/proc``: *anonymous* is allocated memory, *mapped* are pages of
the files, which the system can discard. Options after ``--`` are options of the commands.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.api.checkpoints.preparation import permuted_tensor
from rebasin_core.checkpoints import parameters_on_meta, with_reserved_memory
from rebasin_core.checkpoints.writing import TensorInfo, write_checkpoint
from rebasin_core.tensors.modules import named_tensors, unsaved_buffers

LLAMAS: dict[str, dict[str, Any]] = {
    "0.1b": {"vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 6},
    "0.4b": {"vocab_size": 64000, "hidden_size": 1536, "intermediate_size": 4096, "num_hidden_layers": 12},
    "1.2b": {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16},
    "3b": {"vocab_size": 128256, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28},
    "7b": {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32},
}
HEADS = {"0.1b": (16, 4), "0.4b": (24, 8), "1.2b": (32, 8), "3b": (24, 8), "7b": (32, 32)}
INPUTS = {"resnet50": ("2,3,64,64",), "vit_b16": ("2,3,224,224",), "gpt2": ("1,8:int<50257",), "unet": ()}
_NOISE = 0.1


def resnet50() -> nn.Module:
    transformers = importlib.import_module("transformers")
    model: nn.Module = transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=1000))
    return model


def vit_b16() -> nn.Module:
    transformers = importlib.import_module("transformers")
    model: nn.Module = transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=1000))
    return model


def gpt2() -> nn.Module:
    transformers = importlib.import_module("transformers")
    model: nn.Module = transformers.GPT2LMHeadModel(transformers.GPT2Config(use_cache=False))
    return model


class Denoiser(nn.Module):
    """The network of Stable Diffusion 1.5, with its positional inputs only."""

    def __init__(self) -> None:
        super().__init__()
        diffusers = importlib.import_module("diffusers")
        self.unet = diffusers.UNet2DConditionModel(sample_size=64, cross_attention_dim=768)

    @override
    def forward(self, sample: Tensor, step: Tensor, text: Tensor) -> Tensor:
        """Return the predicted noise."""
        output: Tensor = self.unet(sample, step, text, return_dict=False)[0]
        return output


unet = Denoiser
INPUTS["unet"] = ("1,4,16,16", "1:int<1000", "1,7,768")


def llama() -> nn.Module:
    """Return the network whose size is in the environment variable ``REBASIN_LLAMA``."""
    transformers = importlib.import_module("transformers")
    size = os.environ["REBASIN_LLAMA"]
    heads, groups = HEADS[size]
    config = transformers.LlamaConfig(
        **LLAMAS[size], num_attention_heads=heads, num_key_value_heads=groups, tie_word_embeddings=size != "7b"
    )
    config.use_cache = False
    model: nn.Module = transformers.LlamaForCausalLM(config).bfloat16()
    return model


def make_pair(folder: Path, name: str) -> tuple[rc.Permutation, list[str]]:
    """Write a pair of checkpoints; return the permutation that aligns them, and options for the model."""
    factory, inputs = name, INPUTS.get(name, ("1,8:int<32000",))
    if name.startswith("llama-"):
        factory, os.environ["REBASIN_LLAMA"] = "llama", name.removeprefix("llama-")
    with parameters_on_meta():
        model: nn.Module = globals()[factory]().eval()
    source = {"name": "factory", "factory": f"checkpoints:{factory}", "inputs": list(inputs)}
    example = rc.model_of(rc.Checkpoint(folder, "", {}, (), {}), source).example_inputs
    assert example is not None
    spec = rc.trace_spec(with_reserved_memory(model), example[0])
    hidden = unsaved_buffers(model)
    tensors = {n: tensor for n, tensor in named_tensors(model).items() if n not in hidden}
    planted = spec.random_permutation(generator=torch.Generator().manual_seed(7))
    infos = {n: TensorInfo(tensor.dtype, tuple(tensor.shape)) for n, tensor in tensors.items()}
    names = list(tensors)

    def first(n: str) -> Tensor:
        return _random(n, tensors[n], names.index(n))

    def second(n: str) -> Tensor:
        tensor = first(n)
        if tensor.is_floating_point() and tensor.dim() > 1:
            noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(10_000 + names.index(n)))
            tensor = (tensor.float() + _NOISE * tensor.float().std() * noise).to(tensor.dtype)
        return permuted_tensor(planted, {n: tensor}, n)

    for side, produce in (("reference", first), ("candidate", second)):
        if not (folder / side).exists():
            write_checkpoint(folder / side, infos, produce, max_shard_bytes=2 * 10**9)
    return planted.inverse(), ["--model", f"checkpoints:{factory}", *(o for i in inputs for o in ("--input", i))]


def _random(name: str, like: Tensor, seed: int) -> Tensor:
    if not like.is_floating_point():
        return torch.zeros(like.shape, dtype=like.dtype)
    tensor = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))
    if name.endswith("running_var"):
        tensor = 1 + 0.1 * tensor.abs()
    elif like.dim() > 1:
        tensor *= (2 / max(1, like[0].numel())) ** 0.5
    else:
        tensor = float(name.endswith("weight")) + 0.1 * tensor
    return tensor.to(like.dtype)


def measure(arguments: list[str]) -> tuple[str, float, float, float, float]:
    """Run a command; return its output, seconds, CPU seconds, and peaks of anonymous and mapped memory in GB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen(
        [sys.executable, "-m", "rebasin_core", *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )
    peaks = {"RssAnon": 0, "RssFile": 0}

    def watch() -> None:
        while process.poll() is None:
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines()
            except (OSError, ProcessLookupError):
                return
            for line in lines:
                key, _, value = line.partition(":")
                if key in peaks:
                    peaks[key] = max(peaks[key], int(value.split()[0]))
            sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    watcher.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode != 0:
        message = f"exit code {process.returncode}: rebasin {' '.join(arguments)}"
        raise SystemExit(message)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return output, perf_counter() - start, cpu, peaks["RssAnon"] / 1e6, peaks["RssFile"] / 1e6


def main(folder: Path, name: str, options: list[str], *, merge: bool) -> None:
    planted, model = make_pair(folder / name, name)
    pair = [f"{folder}/{name}/{side}" for side in ("reference", "candidate")]
    size = sum(file.stat().st_size for file in (folder / name / "reference").iterdir()) / 1e9
    target = folder / name / "output"
    for command in ("align", "merge") if merge else ("align",):
        shutil.rmtree(target, ignore_errors=True)
        output, seconds, cpu, anonymous, mapped = measure([
            command,
            *pair,
            *model,
            "-o",
            str(target),
            "--json",
            *options,
        ])
        found = json.loads(output) if command == "align" else json.loads(output)["alignments"][1]
        distances = found["permuted"]
        is_recovered = rc.Permutation.load(next(target.glob("rebasin_permutation*"))) == planted
        print(
            f"{name:<12}{command:<7}{size:6.2f} GB {seconds:6.0f} s {cpu:6.0f} CPU s  anonymous {anonymous:5.2f} GB  "
            f"mapped {mapped:5.2f} GB  distance {distances['distance_before']:.3f}, {distances['distance_after']:.3f}  "
            f"{found['relation']}  {'recovered' if is_recovered else 'NOT recovered'}",
            flush=True,
        )
        shutil.rmtree(target)


if __name__ == "__main__":
    own, _, of_commands = " ".join(sys.argv[1:]).partition(" -- ")
    given = own.split()
    for each in given[1:]:
        if each != "--merge":
            main(Path(given[0]), each, of_commands.split(), merge="--merge" in given)
