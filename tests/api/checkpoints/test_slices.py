"""No operator of an alignment converts more than a slice of a large tensor to a wider dtype."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode  # ruff: ignore[import-private-name] - its documented name
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.bilinear import changes, pieces
from rebasin_core.tensors import widening
from rebasin_core.tensors.trees import tree_tensors
from tests.api.checkpoints.networks import TIED, Tied, noisy, write

TOKENS = 300
LIMIT = 512  # of 2400 entries of the embedding
HALF = {torch.bfloat16, torch.float16}


def vocabulary() -> Tied:
    """Return a network, most of whose parameters are its embedding."""
    return Tied(TOKENS)


class Conversions(TorchDispatchMode):
    """Records operators whose inputs have half precision and whose outputs do not, with the entries of the inputs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch does not annotate it
        self.found: list[tuple[str, int]] = []

    @override
    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        output = func(*args, **(kwargs or {}))
        entries = [t.numel() for t in tree_tensors((args, kwargs or {})) if t.dtype in HALF and t.device.type == "cpu"]
        wide = [t for t in tree_tensors(output) if t.is_floating_point() and t.dtype not in HALF]
        if entries and wide:
            self.found.append((str(func), max(entries)))
        return output


def test_large_tensors_are_widened_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((pieces, "MAX_ENTRIES"), (changes, "MAX_ENTRIES"), (widening, "PART")):
        monkeypatch.setattr(module, name, LIMIT)
    torch.manual_seed(0)
    reference = {name: tensor.detach() for name, tensor in vocabulary().state_dict().items()}
    candidate = TIED.permuted(noisy(reference, 0.001), orders := TIED.orders())
    files = [
        write(tmp_path / f"{number}.safetensors", {n: t.bfloat16() for n, t in tensors.items() if n != "head.weight"})
        for number, tensors in enumerate((reference, candidate))
    ]
    source = {"name": "factory", "factory": f"{__name__}:vocabulary", "inputs": [f"2,7:int<{TOKENS}"]}
    with Conversions() as conversions:
        found = rc.align_checkpoints(files[0], files[1], model=source)
        found.write(tmp_path / "output.safetensors")
    assert found.function is not None
    assert found.function.is_kept
    aligned = found.tensor("embedding.weight")
    expected: Tensor = reference["embedding.weight"]
    torch.testing.assert_close(aligned.float(), expected, rtol=0.02, atol=0.01)
    assert orders["stream"].tolist() != list(range(8))
    assert {entries > LIMIT // 2 for _, entries in conversions.found} == {True, False}
    assert [each for each in conversions.found if each[1] > LIMIT] == []
