"""Compare the derivation of symmetries of torchvision models with the package `rebasin` (snimu).

    pip install torchvision rebasin
    python tests/benchmarks/tracing.py [NAME ...]

For each model and library, in its own process: the time to derive the symmetries; the number of parameters and buffers
that a random permutation changes; and the relative change of the logits under this permutation, in float64 and
evaluation mode. Parameters and running statistics are random.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
import warnings

import torch
from tabulate import tabulate
from torch import Tensor, nn

NAMES = (
    "resnet18", "resnet50", "vgg11", "resnext50_32x4d", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x1_0",
    "googlenet", "squeezenet1_1", "densenet121", "convnext_tiny", "swin_t", "vit_b_16",
)  # fmt: skip
LIMIT = 240.0  # time limit of one measurement, in seconds


def model_of(name: str) -> nn.Module:
    """Return a model in float64 with random tensors."""
    from torchvision import models  # ruff: ignore[import-outside-top-level] - not needed to read the table

    torch.manual_seed(0)
    options = {"init_weights": False} if name == "googlenet" else {}
    model: nn.Module = models.get_model(name, weights=None, **options).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # no tensor may be constant, and the outputs must depend on all tensors
        for key, tensor in {**dict(model.named_parameters()), **dict(model.named_buffers())}.items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
                scale = math.sqrt(2 / max(1, tensor[0].numel())) if tensor.dim() > 1 else 0.1
                positive = key.endswith("running_var") or (tensor.dim() == 1 and key.endswith("weight"))
                tensor.copy_(noise.mul(scale).add(1).abs() if positive else noise.mul(scale))
    return model


def by_core(name: str, inputs: Tensor) -> tuple[float, nn.Module]:
    """Return the time of `trace_spec` in seconds, and the permuted model."""
    import rebasin_core as rc  # ruff: ignore[import-outside-top-level]

    model = model_of(name)
    start = time.perf_counter()
    spec = rc.trace_spec(model, inputs)
    seconds = time.perf_counter() - start
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    permuted = spec.random_permutation(generator=torch.Generator().manual_seed(1)).apply(tensors)
    with torch.no_grad():
        for key, tensor in tensors.items():
            tensor.copy_(permuted[key])
    return seconds, model


def by_peer(name: str, inputs: Tensor) -> tuple[float, nn.Module]:
    """Return the time of the package `rebasin` in seconds, and the permuted model."""
    from rebasin import PermutationCoordinateDescent  # ruff: ignore[import-outside-top-level]

    model = model_of(name)
    start = time.perf_counter()
    descent = PermutationCoordinateDescent(model_of(name), model, inputs)
    seconds = time.perf_counter() - start
    torch.manual_seed(1)
    for permutation, _ in descent.pinit.model_graph.permutation_to_info:
        permutation.perm_indices = torch.randperm(len(permutation.perm_indices))
    descent.apply_permutations()
    return seconds, model


def measure(library: str, name: str) -> dict[str, object]:
    """Return the time, the number of changed tensors and the relative change of the logits."""
    inputs = torch.randn(1, 3, 224, 224, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    before = model_of(name)
    seconds, after = (by_core if library == "core" else by_peer)(name, inputs)
    with torch.no_grad():
        expected, found = before(inputs), after(inputs)
    pairs = list(zip(before.state_dict().values(), after.state_dict().values(), strict=True))
    changed = sum(not torch.equal(first, second) for first, second in pairs)
    error = ((found - expected).abs().max() / expected.abs().max()).item()
    return {"seconds": seconds, "changed": f"{changed} / {len(pairs)}", "error": error}


def measured(library: str, name: str) -> dict[str, object]:
    """Return a measurement from a new process, or the reason of its failure."""
    command = [sys.executable, "-W", "ignore", __file__, library, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return {"failed": f"more than {LIMIT:.0f} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"failed": done.stderr.strip().splitlines()[-1].partition(":")[0]}
    found: dict[str, object] = json.loads(lines[-1])
    return found


def row(name: str) -> list[str]:
    """Return a row of the table."""
    cells = [f"`{name}`"]
    for library in ("core", "peer"):
        found = measured(library, name)
        if "failed" in found:
            cells += [str(found["failed"]), "", ""]
        else:
            cells += [f"{found['seconds']:.1f}", str(found["changed"]), f"{found['error']:.0e}"]
    return cells


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if len(sys.argv) == 3 and sys.argv[1] in {"core", "peer"}:
        print(json.dumps(measure(sys.argv[1], sys.argv[2])))
    else:
        measures = ["time (s)", "changed tensors", "relative change"]
        headers = ["model", f"rebasin_core: {measures[0]}", *measures[1:], f"`rebasin`: {measures[0]}", *measures[1:]]
        print(tabulate([row(name) for name in sys.argv[1:] or NAMES], headers, tablefmt="github"))
