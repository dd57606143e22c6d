"""CPU time and memory of merge methods on folders of Llama's shape, and their differences from mergekit.

    python tests/benchmarks/merging.py [--width 64] [--layers 2] [--vocabulary 512] [--dtype float32]
        [--mergekit PYTHON] [--mergekit-dtype float32]

Weights are random, in safetensors files with the names of Hugging Face's Llama. `PYTHON` is the interpreter of an
environment with mergekit, which is not needed otherwise; each merge runs in a process of its own with one thread.
Memory is the peak of the anonymous resident set (without mapped files), minus that before the merge. The table shows
the largest difference of an entry, in units of the rounding of the largest of the values that are merged.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tabulate import tabulate

NETWORKS = ("first", "second")
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# For each method of mergekit: its options, those of rebasin_core, and the weights. DARE keeps all: others are random.
METHODS: dict[str, tuple[dict[str, object], dict[str, object], list[float]]] = {
    "linear": ({"normalize": True}, {"name": "mean"}, [0.7, 0.3]),
    "slerp": ({"t": 0.3}, {"name": "slerp"}, [0.7, 0.3]),
    "task_arithmetic": ({"lambda": 0.8}, {"name": "task_arithmetic", "scale": 0.8}, [0.7, 0.5]),
    "ties": ({"density": 0.5}, {"name": "ties", "density": 0.5}, [0.7, 0.3]),
    "dare_linear": ({"density": 1.0}, {"name": "dare", "density": 1.0}, [0.7, 0.5]),
    "dare_ties": (
        {"density": 1.0, "normalize": True},
        {"name": "dare", "density": 1.0, "elect_sign": True},
        [0.7, 0.3],
    ),
    "karcher": ({}, {"name": "karcher"}, [0.5, 0.5]),
    "model_stock": ({}, {"name": "model_stock"}, [0.5, 0.5]),
}


def shapes(width: int, layers: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a Llama with grouped queries and tied embeddings."""
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, width),
        "model.norm.weight": (width,),
    }
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        for part, rows in (("q", width), ("k", width // 4), ("v", width // 4), ("o", width)):
            found[f"{prefix}.self_attn.{part}_proj.weight"] = (rows, width)
        for part in ("gate", "up"):
            found[f"{prefix}.mlp.{part}_proj.weight"] = (4 * width, width)
        found[f"{prefix}.mlp.down_proj.weight"] = (width, 4 * width)
        for part in ("input", "post_attention"):
            found[f"{prefix}.{part}_layernorm.weight"] = (width,)
    return found


def write_folders(root: Path, args: argparse.Namespace) -> None:
    """Write a base and two networks that differ from it by noise."""
    generator = torch.Generator().manual_seed(0)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": args.width,
        "intermediate_size": 4 * args.width, "num_hidden_layers": args.layers, "num_attention_heads": args.width // 16,
        "num_key_value_heads": args.width // 64, "vocab_size": args.vocabulary, "tie_word_embeddings": True,
        "torch_dtype": args.dtype,
    }  # fmt: skip
    base = {
        n: 0.05 * torch.randn(s, generator=generator)
        for n, s in shapes(args.width, args.layers, args.vocabulary).items()
    }
    for folder, noise in (("base", 0.0), ("first", 0.02), ("second", 0.02)):
        (root / folder).mkdir()
        (root / folder / "config.json").write_text(json.dumps(config))
        tensors = {
            name: (tensor + noise * torch.randn(tensor.shape, generator=generator)).to(DTYPES[args.dtype])
            for name, tensor in base.items()
        }
        save_file(tensors, root / folder / "model.safetensors", metadata={"format": "pt"})


MEASURED = """
import json, sys, threading, time
from pathlib import Path

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

def measured(merge):
    before, peak, running = anonymous(), 0, True
    def watch():
        nonlocal peak
        while running:
            peak = max(peak, anonymous())
            time.sleep(0.002)
    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.process_time()
    merge()
    seconds = time.process_time() - start
    running = False
    watcher.join()
    print(json.dumps({"seconds": seconds, "megabytes": max(0, peak - before) / 1e3}))
"""

REBASIN = """
import struct, torch
from safetensors import safe_open
import rebasin_core as rc

torch.set_num_threads(1)
root, output, options = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
method = rc.default_registry().build("merge_method", options["method"])

def merge():
    files = {k: safe_open(root / k / "model.safetensors", "pt") for k in ("base", "first", "second")}
    merging = rc.merging.StreamingMerge(
        method,
        [files["first"].get_tensor, files["second"].get_tensor],
        weights=options["weights"],
        base=files["base"].get_tensor if method.uses_base else None,
    )
    names, header, position = sorted(files["first"].keys()), {}, 0
    for name in names:
        part, size = files["first"].get_slice(name), files["first"].get_tensor(name).nbytes
        offsets = [position, position + size]
        header[name] = {"dtype": part.get_dtype(), "shape": part.get_shape(), "data_offsets": offsets}
        position += size
    text = json.dumps(header).encode()
    output.mkdir(exist_ok=True)
    with (output / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, tensor in merging.tensors(names):
            file.write(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))

measured(merge)
"""

MERGEKIT = """
import torch, yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

torch.set_num_threads(1)
config = MergeConfiguration.model_validate(yaml.safe_load(Path(sys.argv[1]).read_text()))
options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True)
measured(lambda: run_merge(config, sys.argv[2], options))
"""


def configuration(root: Path, method: str, args: argparse.Namespace) -> str:
    """Return a recipe of mergekit, which is YAML and JSON."""
    options, _, weights = METHODS[method]
    models: list[dict[str, object]] = []
    for name, weight in zip(NETWORKS, weights, strict=True):
        own: dict[str, object] = {} if method in {"slerp", "karcher", "model_stock"} else {"weight": weight}
        if "density" in options:
            own["density"] = options["density"]
        models.append({"model": str(root / name), "parameters": own} if own else {"model": str(root / name)})
    shared = {key: value for key, value in options.items() if key != "density"}
    recipe: dict[str, object] = {"models": models, "merge_method": method, "parameters": shared}
    recipe |= {"dtype": args.mergekit_dtype or args.dtype, "out_dtype": args.dtype}
    if method == "slerp":
        recipe["base_model"] = str(root / "first")
    elif method not in {"linear", "karcher"}:
        recipe["base_model"] = str(root / "base")
    return json.dumps(recipe)


def in_process(python: str, *arguments: str) -> dict[str, float]:
    """Run a merge in a process and return its time and memory."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [python, "-c", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def tensors_in(folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of all files of a folder, mapped."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # ruff: ignore[in-dict-keys] - not a mapping
    return found


def largest_difference(root: Path) -> tuple[float, float]:
    """Return the largest difference, in units of the rounding of the dtype, and the share of entries that differ."""
    merged = tensors_in(root / "rebasin_core")
    expected = tensors_in(root / "mergekit")
    inputs = [tensors_in(root / name) for name in ("base", *NETWORKS)]
    if merged.keys() != expected.keys():
        message = f"names differ: {sorted(merged.keys() ^ expected.keys())}"
        raise SystemExit(message)
    largest, unequal, count = 0.0, 0, 0
    for name, tensor in merged.items():
        difference = (tensor.double() - expected[name].double()).abs()
        sizes = torch.stack([own[name].double().abs() for own in (merged, *inputs)]).amax(0)
        rounding = torch.finfo(tensor.dtype).eps / 2 * sizes
        largest = max(largest, (difference / rounding).max().item())
        unequal += int((difference > 0).sum())
        count += tensor.numel()
    return largest, unequal / count


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=512)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--mergekit-dtype", help="dtype in which mergekit computes; that of the files if omitted")
    parser.add_argument("--mergekit", help="interpreter of an environment with mergekit")
    parser.add_argument("--folder", help="where the files are written; a temporary folder if omitted")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        root = Path(name)
        write_folders(root, args)
        size = (root / "base" / "model.safetensors").stat().st_size
        print(f"files of {size / 1e6:.1f} MB, {args.dtype}")
        rows: list[list[object]] = []
        for method, (_, own_options, weights) in METHODS.items():
            options = json.dumps({"method": own_options, "weights": weights})
            own = in_process(sys.executable, MEASURED + REBASIN, str(root), str(root / "rebasin_core"), options)
            row: list[object] = [method, own["seconds"], own["megabytes"]]
            if args.mergekit:
                (root / "recipe.yaml").write_text(configuration(root, method, args))
                other = in_process(
                    args.mergekit, MEASURED + MERGEKIT, str(root / "recipe.yaml"), str(root / "mergekit")
                )
                row += [other["seconds"], other["megabytes"], *largest_difference(root)]
            rows.append(row)
        headers = ["method", "rebasin_core (CPU s)", "memory (MB)"]
        headers += ["mergekit (CPU s)", "memory (MB)", "max. difference (roundings)", "unequal entries (share)"]
        print(tabulate(rows, headers[: len(rows[0])], floatfmt=".3g"))


if __name__ == "__main__":
    main()
