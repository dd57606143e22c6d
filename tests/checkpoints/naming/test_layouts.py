"""Names of files of other libraries, with the library's own loader as the reference (see `record_layouts`)."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from rebasin_core.checkpoints.naming import NamePolicy, match_names
from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.names import TensorNames, counters_among
from tests.checkpoints.naming.record_layouts import PATH

LAYOUTS: dict[str, dict[str, Any]] = json.loads(PATH.read_text(encoding="utf-8"))["layouts"]


def expected_names(layout: dict[str, Any]) -> TensorNames:
    shapes = {name: tuple(shape) for name, shape in layout["network"].items()}
    buffers = frozenset([*shapes][layout["parameters"] :])
    optional = (buffers - set(layout["saved"])) | counters_among(shapes)
    return TensorNames(tuple(shapes), buffers, layout["aliases"], shapes, optional)


def tensors_of(layout: dict[str, Any]) -> dict[str, Tensor]:
    """Return different values, except for those that the network itself ties."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in layout["file"].items()}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_tensor_becomes_the_one_that_its_library_loads(name: str) -> None:
    layout = LAYOUTS[name]
    found = match_names(expected_names(layout), tensors_of(layout), name)
    assert dict(found.names) == layout["sources"]
    assert not found.missing
    assert not found.tied
    assert set(found.extra) == set(layout["file"]) - set(layout["sources"].values())


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "model.", "ema_model.module.", "shadow.", "a.b.c."])
@pytest.mark.parametrize("name", LAYOUTS)
def test_further_wrappers_do_not_change_the_result(name: str, wrapper: str) -> None:
    layout = LAYOUTS[name]
    wrapped = {wrapper + own: tensor for own, tensor in tensors_of(layout).items()}
    found = match_names(expected_names(layout), wrapped, name)
    assert {own: source.removeprefix(wrapper) for own, source in found.names.items()} == layout["sources"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_strict_names_do_not_fit(name: str) -> None:
    layout = LAYOUTS[name]
    with pytest.raises(InvalidInputError, match="does not fit the network"):
        match_names(expected_names(layout), tensors_of(layout), name, NamePolicy(mode="strict"))


def test_the_table_groups_layers_and_states_the_prefix() -> None:
    layout = LAYOUTS["gpt2_as_on_the_hub"]
    found = match_names(expected_names(layout), tensors_of(layout), "model.safetensors")
    summary = "model.safetensors: 28 of 28 tensors of the network, prefix `transformer.` added, 4 extra (copied)"
    assert found.table().splitlines() == [
        summary,
        "",
        "state   in the network  in the file           shape",
        "copied  -               h.*.attn.bias         [1, 1, 16, 16]  x2",
        "copied  -               h.*.attn.masked_bias  []  x2",
    ]
    assert "transformer.h.1.ln_2.bias           h.1.ln_2.bias" in found.table(full=True)


def test_older_spellings_are_listed() -> None:
    layout = LAYOUTS["bert_from_tensorflow"]
    table = match_names(expected_names(layout), tensors_of(layout), "bert").table()
    assert "respelled  encoder.layer.*.output.LayerNorm.weight" in table
    assert "bert.encoder.layer.*.output.LayerNorm.gamma" in table
