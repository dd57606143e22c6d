"""The model of a checkpoint, and its cached specification."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, final

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.checkpoints import Checkpoint, FactoryModelSource, SafetensorsReader, SourcedModel
from rebasin_core.errors import InvalidInputError, SpecError, UnknownNameError
from rebasin_core.testing.examples.model_sources import TiedNetwork

TIED = "rebasin_core.testing.examples.model_sources:TiedNetwork"


@final
class HiddenSource(rc.ModelSource):
    """A source of networks with one hidden layer, of a width in the configuration."""

    name: Literal["hidden"] = "hidden"

    @override
    def recognizes(self, checkpoint: Checkpoint) -> bool:
        return "hidden" in (checkpoint.config or {})

    @override
    def _build(self, checkpoint: Checkpoint) -> SourcedModel:
        width = (checkpoint.config or {})["hidden"]
        module = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))
        return SourcedModel(module, ((torch.ones(1, 3),), {}), identity=f"hidden {width}")


@final
class OtherSource(rc.ModelSource):
    """Recognizes everything with a configuration."""

    name: Literal["other"] = "other"

    @override
    def recognizes(self, checkpoint: Checkpoint) -> bool:
        return checkpoint.config is not None

    @override
    def _build(self, checkpoint: Checkpoint) -> SourcedModel:
        return "no model"  # type: ignore[return-value]  # the mistake of an author


class Plugin:
    """A plugin that registers sources."""

    def __init__(self, *kinds: type[rc.ModelSource]) -> None:
        self._kinds = kinds

    @rc.hookimpl
    def rebasin_model_sources(self) -> list[type[rc.ModelSource]]:
        return [*self._kinds]


def registry(*kinds: type[rc.ModelSource]) -> rc.Registry:
    found = rc.Registry(external=False)
    found.manager.register(Plugin(*kinds))
    return found


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    save_file({"weight": torch.ones(2)}, tmp_path / "x.safetensors")
    return SafetensorsReader().read(tmp_path / "x.safetensors")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rebasin_core" / "specs"


def with_config(checkpoint: Checkpoint, **config: object) -> Checkpoint:
    return replace(checkpoint, config=config)


@pytest.mark.parametrize(
    "source", [TIED, {"name": "factory", "factory": TIED, "inputs": ["2,5:int<11"]}, FactoryModelSource(factory=TIED)]
)
def test_a_source_is_given_in_several_forms(checkpoint: Checkpoint, source: str | Mapping[str, object]) -> None:
    found = rc.model_of(checkpoint, source)
    assert "embedding.weight" in dict(found.module.named_parameters())


def test_the_source_that_recognizes_the_configuration_is_used(checkpoint: Checkpoint) -> None:
    found = rc.model_of(with_config(checkpoint, hidden=7), registry=registry(HiddenSource))
    assert found.form.shapes["0.weight"] == (7, 3)
    found = rc.model_of(with_config(checkpoint, hidden=7), "hidden", registry=registry(HiddenSource, OtherSource))
    assert found.identity == "hidden 7"


def test_ambiguous_configurations_are_errors(checkpoint: Checkpoint) -> None:
    with pytest.raises(InvalidInputError, match="the sources 'hidden', 'other' recognize the configuration; choose"):
        rc.model_of(with_config(checkpoint, hidden=7), registry=registry(HiddenSource, OtherSource))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "has no configuration .*; expected a folder with the config.json"),
        ({"layers": 3}, "has a configuration that no source of models recognizes"),
        ({"model_type": "llama", "architectures": ["A"]}, "run `pip install rebasin-transformers`, or give a factory"),
        ({"architecture": "resnet50"}, "run `pip install rebasin-timm`, or give a factory"),
    ],
)
def test_unknown_models_are_errors_with_the_way_out(
    checkpoint: Checkpoint, config: Mapping[str, object] | None, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        rc.model_of(replace(checkpoint, config=config), registry=rc.Registry(external=False))


def test_unknown_names_and_wrong_sources_are_errors(checkpoint: Checkpoint) -> None:
    with pytest.raises(UnknownNameError, match="model_source"):
        rc.model_of(checkpoint, "unknown")
    with pytest.raises(InvalidInputError, match=r"expected OtherSource\(\) to return a SourcedModel .* got str"):
        rc.model_of(checkpoint, OtherSource())
    with pytest.raises(InvalidInputError, match="KeyError"):
        rc.model_of(checkpoint, HiddenSource())


def test_specifications_are_traced_without_memory_for_parameters(checkpoint: Checkpoint) -> None:
    model = rc.model_of(checkpoint, {"name": "factory", "factory": TIED, "inputs": ["2,5:int<11"]})
    found = rc.spec_of(model)
    expected = rc.trace_spec(TiedNetwork(), torch.zeros(2, 5, dtype=torch.long))
    assert found.layout == expected.layout
    assert found.layout.aliases == {"head.weight": "embedding.weight"}
    assert {parameter.device.type for parameter in model.module.parameters()} == {"meta"}


def test_specifications_are_cached_by_identity(checkpoint: Checkpoint, cache: Path) -> None:
    plugins = registry(HiddenSource)
    model = rc.model_of(with_config(checkpoint, hidden=7), registry=plugins)
    first = rc.spec_of(model, registry=plugins)
    [file] = cache.iterdir()
    # Without inputs, the model could not be traced again.
    again = rc.spec_of(replace(model, example_inputs=None), registry=plugins)
    assert again.layout == first.layout
    assert again.layout.buffers == first.layout.buffers
    frozen = rc.spec_of(model, freeze=["0.*"], registry=plugins)
    assert frozen.layout != first.layout
    assert len([*cache.iterdir()]) == 2
    other = rc.model_of(with_config(checkpoint, hidden=8), registry=plugins)
    assert rc.spec_of(other, registry=plugins).layout.groups != first.layout.groups
    assert file.exists()


def test_damaged_cache_files_are_replaced(checkpoint: Checkpoint, cache: Path) -> None:
    plugins = registry(HiddenSource)
    model = rc.model_of(with_config(checkpoint, hidden=7), registry=plugins)
    first = rc.spec_of(model, registry=plugins)
    [file] = cache.iterdir()
    file.write_text("{", encoding="utf-8")
    assert rc.spec_of(model, registry=plugins).layout == first.layout
    assert json.loads(file.read_text(encoding="utf-8"))["kind"] == "specification"


def test_the_cache_is_not_used_without_identity_or_on_request(checkpoint: Checkpoint, cache: Path) -> None:
    plugins = registry(HiddenSource)
    model = rc.model_of(with_config(checkpoint, hidden=7), registry=plugins)
    rc.spec_of(model, cache=False, registry=plugins)
    rc.spec_of(replace(model, identity=""), registry=plugins)
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_not_used(checkpoint: Checkpoint, cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file instead of a folder", encoding="utf-8")
    plugins = registry(HiddenSource)
    model = rc.model_of(with_config(checkpoint, hidden=7), registry=plugins)
    assert rc.spec_of(model, registry=plugins).groups


def test_models_without_inputs_cannot_be_traced(checkpoint: Checkpoint) -> None:
    with pytest.raises(InvalidInputError, match="expected example inputs of TiedNetwork"):
        rc.spec_of(rc.model_of(checkpoint, TIED))
    model = rc.model_of(checkpoint, {"name": "factory", "factory": TIED, "inputs": ["2,5:int<11"]})
    with pytest.raises(SpecError, match="matches"):
        rc.spec_of(model, freeze=["missing"])
