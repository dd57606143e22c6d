"""Checkpoints of timm: models from configurations, planted group elements, and files that timm loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

pytest.importorskip("timm", reason="timm is not installed")
pytest.importorskip("rebasin_timm", reason="rebasin-timm is not installed")

import timm
from rebasin_timm import TimmModelSource
from timm.models import save_for_hf

import rebasin_core as rc
from rebasin_core.checkpoints import function_difference
from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.modules import named_tensors
from rebasin_core.testing import Check, conformance_checks

if TYPE_CHECKING:
    from torch import nn

MODELS: dict[str, dict[str, Any]] = {
    "test_resnet": {},
    "test_vit": {"img_size": 48},
    "test_vit3": {"img_size": 48},
    "test_convnext": {},
    "test_efficientnet": {},
    "test_mambaout": {},
    "test_nfnet": {},
    "resnet18": {"in_chans": 1},
    "resnet50": {},
    "swin_tiny_patch4_window7_224": {"embed_dim": 12, "depths": (1, 1), "num_heads": (1, 2), "img_size": 56},
    "densenet121": {"growth_rate": 4, "block_config": (1, 2)},
    "regnetx_002": {},
    "mobilenetv3_small_050": {},
    "convnext_atto": {},
}


def made(name: str, **options: object) -> nn.Module:
    """Return a model with random parameters and statistics, none of them zero or one."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=7, **{**MODELS[name], **options}).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.dim() == 1:
                tensor.add_(0.1 * torch.randn_like(tensor))
        for key, tensor in model.named_buffers():
            if key.endswith(("running_mean", "running_var")):
                tensor.add_(0.1 * torch.rand_like(tensor))
    return model


def saved(model: nn.Module, folder: Path) -> rc.Checkpoint:
    # Older versions do not record the arguments of the model.
    options = MODELS[model.pretrained_cfg["architecture"]]
    save_for_hf(model, folder, model_args=options or None, safe_serialization=True)
    return rc.open_checkpoint(folder / "model.safetensors")


@pytest.mark.parametrize("check", conformance_checks("rebasin-timm"), ids=str)
def test_law_holds(check: Check) -> None:
    check.run()


@pytest.mark.parametrize("name", MODELS)
def test_planted_elements_are_found_and_written(name: str, tmp_path: Path) -> None:
    original = made(name)
    reference = saved(original, tmp_path / "reference")
    model = rc.model_of(reference)
    assert {p.device.type for p in model.module.parameters()} == {"meta"}
    assert model.form.shapes == {key: tuple(tensor.shape) for key, tensor in original.state_dict().items()}
    spec = rc.spec_of(model, cache=False)
    tensors = named_tensors(model.module) | dict(model.form.model_tensors(reference.tensors))
    planted = spec.random_permutation(generator=torch.Generator().manual_seed(1))
    assert not planted.is_identity
    candidate = planted.apply(tensors)
    assert model.example_inputs is not None
    given = {key: tensors[key] for key in model.form.shapes}
    assert function_difference(model.module, given, candidate.__getitem__, model.example_inputs).is_kept

    # The permuted network is a folder like any other.
    folder = tmp_path / "candidate"
    folder.mkdir()
    (folder / "config.json").write_text((tmp_path / "reference" / "config.json").read_text())
    save_file({key: candidate[key].contiguous() for key in model.form.shapes}, folder / "model.safetensors")
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    (images,) = model.example_inputs[0]
    torch.testing.assert_close(loaded(images), original(images), rtol=1e-3, atol=1e-4)

    aligned = rc.match(tensors, candidate, spec, matcher="weight").permutation.apply(candidate)
    assert all(torch.equal(aligned[key], tensors[key]) for key in model.form.shapes)


def with_config(folder: Path, changes: dict[str, object]) -> rc.Checkpoint:
    path = folder / "config.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**document, **changes}), encoding="utf-8")
    return rc.open_checkpoint(folder / "model.safetensors")


def test_images_have_the_configured_size(tmp_path: Path) -> None:
    for name, expected in (("test_vit", (2, 3, 48, 48)), ("resnet18", (2, 1, 128, 128))):
        model = rc.model_of(saved(made(name), tmp_path / name))
        assert model.example_inputs is not None
        assert tuple(model.example_inputs[0][0].shape) == expected


def test_images_can_be_given(tmp_path: Path) -> None:
    checkpoint = saved(made("test_resnet"), tmp_path)
    model = rc.model_of(checkpoint, {"name": "timm", "input": "1,3,40,48"})
    assert model.example_inputs is not None
    assert tuple(model.example_inputs[0][0].shape) == (1, 3, 40, 48)
    assert model.identity != rc.model_of(checkpoint).identity


def test_older_configurations_are_read(tmp_path: Path) -> None:
    """Older folders have the description of the weights as the whole configuration."""
    original = made("test_resnet")
    checkpoint = saved(original, tmp_path)
    config = {"architecture": "test_resnet", "num_classes": 7, "input_size": [3, 96, 96], "labels": ["a"]}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model = rc.model_of(checkpoint)
    assert model.form.shapes == {key: tuple(tensor.shape) for key, tensor in original.state_dict().items()}
    assert model.example_inputs is not None
    assert tuple(model.example_inputs[0][0].shape) == (2, 3, 96, 96)


def test_tables_of_positions_have_values(tmp_path: Path) -> None:
    original = made("swin_tiny_patch4_window7_224")
    model = rc.model_of(saved(original, tmp_path))
    buffers: dict[str, Tensor] = dict(original.named_buffers())
    names = [name for name in buffers if name.endswith("relative_position_index")]
    assert names
    assert all(torch.equal(model.module.get_buffer(name), buffers[name]) for name in names)


@pytest.mark.parametrize("name", ["unheard_of", "hf-hub:timm/resnet18.a1_in1k", "local-dir:/tmp", "timm/resnet18", ""])
def test_unknown_architectures_are_errors(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getaddrinfo", None)  # cannot be called
    saved(made("test_resnet"), tmp_path)
    with pytest.raises(InvalidInputError, match="has no architecture"):
        rc.model_of(with_config(tmp_path, {"architecture": name}))


def test_weights_are_not_downloaded_or_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getaddrinfo", None)  # cannot be called
    saved(made("test_resnet"), tmp_path)
    options = {"pretrained": True, "checkpoint_path": "/missing.pth", "cache_dir": str(tmp_path)}
    model = rc.model_of(with_config(tmp_path, {"model_args": options}))
    assert {p.device.type for p in model.module.parameters()} == {"meta"}


@pytest.mark.parametrize(
    "changes",
    [
        {"model_args": {"unknown_option": 3}},
        {"model_args": 3},
        {"model_args": {"num_classes": "many"}},
        {"pretrained_cfg": [3]},
    ],
)
def test_unusable_configurations_are_errors(tmp_path: Path, changes: dict[str, object]) -> None:
    saved(made("test_resnet"), tmp_path)
    with pytest.raises(InvalidInputError, match="cannot make the model of"):
        rc.model_of(with_config(tmp_path, changes))


def test_other_configurations_are_not_recognized(tmp_path: Path) -> None:
    checkpoint = saved(made("test_resnet"), tmp_path)
    assert TimmModelSource().recognizes(checkpoint)
    for text in ('{"model_type": "llama"}', '{"architecture": 3}', "[]", "{", ""):
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
        assert not TimmModelSource().recognizes(checkpoint)
    (tmp_path / "config.json").unlink()
    assert not TimmModelSource().recognizes(checkpoint)


def test_listing_sources_does_not_import_timm() -> None:
    code = "import sys, rebasin_core as rc; print(rc.default_registry().names('model_source'), 'timm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'timm'" in done.stdout
    assert done.stdout.split()[-1] == "False"
