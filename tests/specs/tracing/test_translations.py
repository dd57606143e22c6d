"""Shifts and means that tracing finds, for modules with known answers."""

from __future__ import annotations

import operator
import re
from itertools import starmap
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.errors import FileFormatError
from rebasin_core.specs import BiasedWeight, Dim, Foldable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Between(nn.Module):
    """A layer normalization and a layer, with a function between them."""

    def __init__(self, function: Callable[[Tensor], Tensor], *, bias: bool = True) -> None:
        super().__init__()
        self.norm, self.layer, self.function = nn.LayerNorm(6), nn.Linear(6, 2, bias=bias), function

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.layer(self.function(self.norm(inputs)))
        return output


LAYER = BiasedWeight(Dim("layer.weight", 1), "layer.bias")


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x,
        lambda x: x.transpose(0, 1).contiguous(),
        lambda x: x.permute(1, 0, 2),
        lambda x: x.reshape(-1, 6),
        lambda x: x.select(1, 0),
        lambda x: x.narrow(1, 1, 3),
        operator.itemgetter((torch.arange(3), torch.tensor([0, 1, 0]))),
        lambda x: x.mean(1),
        lambda x: x.mean(1, keepdim=True),
        lambda x: x.unsqueeze(1).expand(3, 2, 4, 6),
        lambda x: x.split(2, dim=1)[1],
        lambda x: x.unbind(1)[0],
        lambda x: functional.dropout(x, training=False),
    ],
)
@pytest.mark.parametrize("method", ["export", "execution"])
def test_copies_and_averages_keep_a_shift(function: Callable[[Tensor], Tensor], method: str) -> None:
    model = Between(function).eval()
    found = rc.trace_spec(model, torch.randn(3, 4, 6), method=method).foldable  # type: ignore[arg-type]  # a literal
    assert found.shifts == {"norm.bias": (LAYER,)}
    assert found.readers == {LAYER.units: (("norm.weight",), ("norm.bias",))}


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: x.sum(1), "sum"),
        (functional.relu, "relu"),
        (lambda x: x + 1, "add"),
        (lambda x: x * 2, "mul"),
        (lambda x: x - x.mean(-1, keepdim=True), "(sub|mean)"),
        (operator.itemgetter((slice(None), slice(None), [1, 0, 2, 3, 4, 5])), "index"),
        (lambda x: torch.cat([x, x], 1), "cat"),
        (lambda x: functional.pad(x, (0, 0, 1, 0)), "pad"),
    ],
)
def test_other_operators_do_not(function: Callable[[Tensor], Tensor], name: str) -> None:
    found = rc.trace_spec(Between(function), torch.randn(3, 4, 6)).foldable
    assert not found.shifts
    assert not found.readers
    assert re.search(f"its units are used by .*{name}", found.obstacles["norm.bias"].why)


class Shared(nn.Module):
    """Two normalizations and layers that share tensors."""

    def __init__(self, shared: str) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(6), nn.LayerNorm(6)
        self.layer1, self.layer2 = nn.Linear(6, 6), nn.Linear(6, 6)
        if shared == "shift":
            self.norm2.bias = self.norm1.bias
        if shared == "bias":
            self.layer2.bias = self.layer1.bias
        if shared == "weight":
            self.layer2.weight = self.layer1.weight

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.layer2(self.norm2(inputs + self.layer1(self.norm1(inputs))))
        return output


@pytest.mark.parametrize(
    ("shared", "shifts", "reason"),
    [
        ("none", ["norm1.bias", "norm2.bias"], None),
        ("weight", ["norm1.bias", "norm2.bias"], None),
        ("shift", [], "it is used several times"),
        ("bias", [], "the bias `layer1.bias` is used several times"),
    ],
)
def test_shared_tensors(shared: str, shifts: list[str], reason: str | None) -> None:
    found = rc.trace_spec(Shared(shared), torch.randn(3, 6)).foldable
    assert [*found.shifts] == shifts
    assert ("layer1.weight" in {at.tensor for at in found.readers}) is True
    if shared == "weight":
        scales, of_shifts = found.readers[Dim("layer1.weight", 1)]
        assert scales == ("norm1.weight", "norm2.weight")
        assert of_shifts == ("norm1.bias", "norm2.bias")
    if reason is not None:
        assert any(reason in obstacle.why for obstacle in found.obstacles.values())


class Written(nn.Module):
    """Several ways to write to a stream that is normalized."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(5, 6), nn.Parameter(torch.randn(4, 6))
        self.token, self.gate = nn.Parameter(torch.randn(1, 1, 6)), nn.Parameter(torch.randn(6))
        self.factor = nn.Parameter(torch.randn(4, 1))
        self.scaled, self.gated, self.plain = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.matrix, self.norm, self.head = nn.Parameter(torch.randn(6, 6)), nn.LayerNorm(6), nn.Linear(6, 2)

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        source = functional.one_hot(tokens, 6).to(self.positions)
        stream = self.embedding(tokens) * 2 + self.positions
        stream = stream + self.factor * self.scaled(source) - self.plain(source).tanh()
        stream = stream + self.gate * self.gated(source) + source @ self.matrix
        stream = torch.cat([self.token.expand(len(tokens), 1, 6), stream], 1)
        output: Tensor = self.head(self.norm(stream))
        return output


def test_weights_that_write_to_normalized_units() -> None:
    found = rc.trace_spec(Written(), torch.randint(0, 5, (2, 4))).foldable
    names = {"embedding.weight": 1, "positions": 1, "token": 2, "scaled.weight": 0, "scaled.bias": 0, "matrix": 1}
    # Not the layer before tanh, and not those that are multiplied by a vector.
    assert found.writers == tuple(sorted(starmap(Dim, names.items()), key=found.writers.index))
    assert len(found.writers) == len(names)


def test_units_that_are_also_an_output_are_seen() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = nn.Linear(6, 6), nn.LayerNorm(6)

        @override
        def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
            stream = self.layer(inputs)
            return self.norm(stream), stream

    assert not rc.trace_spec(Both(), torch.randn(3, 6)).foldable.writers


def test_patches_of_a_convolution() -> None:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.norm, self.head = nn.Conv2d(1, 6, 2, stride=2), nn.LayerNorm(6), nn.Linear(6, 2)

        @override
        def forward(self, images: Tensor) -> Tensor:
            output: Tensor = self.head(self.norm(self.patches(images).flatten(2).transpose(1, 2)))
            return output

    found = rc.trace_spec(Patches(), torch.randn(3, 1, 4, 4)).foldable
    assert set(found.writers) == {Dim("patches.weight", 0), Dim("patches.bias", 0)}


def test_a_transposed_weight_of_a_matrix_product() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.weight, self.bias = (
                nn.LayerNorm(6),
                nn.Parameter(torch.randn(6, 2)),
                nn.Parameter(torch.zeros(2)),
            )

        @override
        def forward(self, inputs: Tensor) -> Tensor:
            return torch.addmm(self.bias, self.norm(inputs), self.weight)

    found = rc.trace_spec(Product(), torch.randn(3, 6)).foldable
    assert found.shifts == {"norm.bias": (BiasedWeight(Dim("weight", 0), "bias"),)}


def test_frozen_tensors_are_not_folded() -> None:
    spec = rc.trace_spec(Between(lambda x: x), torch.randn(3, 4, 6), freeze=["layer.bias"])
    assert not spec.foldable.shifts


def test_files_contain_what_can_be_folded(tmp_path: Path) -> None:
    spec = rc.trace_spec(Shared("bias"), torch.randn(3, 6))
    rc.save_spec(spec, tmp_path / "spec.json")
    assert rc.load_spec(tmp_path / "spec.json").foldable == spec.foldable


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        {"shifts": {}, "writers": [["a"]], "readers": [], "obstacles": {}},
        {"shifts": {"a": [["b", "0", "c"]]}, "writers": [], "readers": [], "obstacles": {}},
        {"shifts": {}, "writers": [], "readers": [["a", 0, [1], []]], "obstacles": {}},
    ],
)
def test_other_documents_are_errors(document: object) -> None:
    with pytest.raises(FileFormatError, match="expected foldable parts"):
        Foldable.from_json(document)
