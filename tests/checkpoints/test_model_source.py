"""Names of tensors in files of a model from a source."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from rebasin_core.checkpoints import (
    SafetensorsReader,
    SourcedModel,
    StoredTensor,
    configuration_of,
    parameters_on_meta,
)
from rebasin_core.checkpoints.naming import match_names
from rebasin_core.tensors.names import TensorNames


def network() -> nn.Module:
    with parameters_on_meta():
        model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Linear(3, 4, bias=False))
    model[3].weight = model[0].weight
    model.register_buffer("table", torch.ones(2), persistent=False)
    return model


def test_unchanged_names_are_those_of_the_module() -> None:
    model = SourcedModel(network(), None)
    assert model.names == TensorNames.of_module(model.module)
    assert "table" not in model.form.shapes


def test_names_in_files_keep_ties_buffers_and_optional_tensors() -> None:
    module = network()
    stored = {"words": StoredTensor("0.weight", (4, 3), (3, 1)), "upper": StoredTensor("1.weight", (2, 3), (3, 1))}
    stored["lower"] = StoredTensor("1.weight", (4, 3), (3, 1), 6)
    for name in ("1.bias", "2.weight", "2.bias", "2.running_mean", "2.running_var", "2.num_batches_tracked"):
        stored[name] = StoredTensor.whole(name, module.state_dict()[name])
    names = SourcedModel(module, None, stored=stored).names
    assert names.known == (*stored, "table")
    assert names.buffers is not None
    assert set(names.buffers) == {"2.running_mean", "2.running_var", "2.num_batches_tracked", "table"}
    assert names.aliases == {"3.weight": "words"}
    assert names.shapes["lower"] == (4, 3)
    assert set(names.optional) == {"table", "2.num_batches_tracked"}
    file = {f"module.{name}": torch.ones(part.shape) for name, part in stored.items() if "num_batches" not in name}
    found = match_names(names, file, "a file")
    assert found.names == {name: f"module.{name}" for name in stored if "num_batches" not in name}


def test_configurations_are_those_of_the_folder(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"weight": torch.ones(2)}, file)
    assert configuration_of(SafetensorsReader().read(file)) == {}
    for text, expected in (('{"hidden": 3}', {"hidden": 3}), ("[3]", {}), ("{", {})):
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
        assert configuration_of(SafetensorsReader().read(file)) == expected
    given = replace(SafetensorsReader().read(file), config={"hidden": 4})
    assert configuration_of(given) == {"hidden": 4}
