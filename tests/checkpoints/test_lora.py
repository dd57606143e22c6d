"""LoRA adapters merged into their base, compared with formulas and with the library peft where it is installed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rebasin_core import Checkpoint, merge_lora, open_adapter, open_checkpoint
from rebasin_core.errors import FileFormatError, InvalidInputError


def base(folder: Path, **tensors: Tensor) -> Checkpoint:
    save_file({name.replace("__", "."): tensor for name, tensor in tensors.items()}, folder / "base.safetensors")
    return open_checkpoint(folder / "base.safetensors")


def adapter(folder: Path, tensors: dict[str, Tensor], **options: Any) -> Path:
    target = folder / "adapter"
    target.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, **options}
    (target / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({f"base_model.model.{n}": t for n, t in tensors.items()}, target / "adapter_model.safetensors")
    return target


def factors(layer: str = "fc", rank: int = 2) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {f"{layer}.lora_A.weight": torch.randn(rank, 4), f"{layer}.lora_B.weight": torch.randn(3, rank)}


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        ({}, 4.0),
        ({"use_rslora": True}, 8 / math.sqrt(2)),
        ({"alpha_pattern": {"fc": 2}}, 1.0),
        ({"rank_pattern": {"fc": 4}}, 2.0),
    ],
)
def test_updates_are_scaled_products(tmp_path: Path, options: Any, scale: float) -> None:
    weight, other = torch.randn(3, 4), torch.randn(5)
    given = factors()
    merged = merge_lora(base(tmp_path, fc__weight=weight, other=other), adapter(tmp_path, given, **options))
    expected = weight.double() + scale * given["fc.lora_B.weight"].double() @ given["fc.lora_A.weight"].double()
    torch.testing.assert_close(merged.tensors["fc.weight"].double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(merged.tensors["other"], other)
    assert list(merged.tensors) == ["fc.weight", "other"]


def test_low_precision_is_rounded_once(tmp_path: Path) -> None:
    weight, given = torch.randn(3, 4).bfloat16(), factors()
    merged = merge_lora(base(tmp_path, fc__weight=weight), adapter(tmp_path, given))
    expected = weight.float() + 4.0 * given["fc.lora_B.weight"] @ given["fc.lora_A.weight"]
    assert torch.equal(merged.tensors["fc.weight"], expected.bfloat16())


def test_the_base_and_its_file_do_not_change(tmp_path: Path) -> None:
    network = base(tmp_path, fc__weight=torch.zeros(3, 4))
    merged = merge_lora(network, adapter(tmp_path, factors()))
    assert merged.tensors["fc.weight"].abs().sum() > 0
    assert network.tensors["fc.weight"].abs().sum() == 0
    assert {file.name for file in merged.files} == {"base.safetensors", "adapter_model.safetensors"}


def test_a_prefix_of_the_base_is_found(tmp_path: Path) -> None:
    network = base(tmp_path, fc__weight=torch.zeros(3, 4))
    merged = merge_lora(network, adapter(tmp_path, factors("transformer.fc")))
    assert merged.tensors["fc.weight"].abs().sum() > 0


@pytest.mark.parametrize(
    ("tensors", "options", "error", "message"),
    [
        (factors(), {"peft_type": "IA3"}, FileFormatError, "type 'LORA', got 'IA3'.*merge_and_unload"),
        (factors(), {"use_dora": True}, FileFormatError, "got DoRA"),
        (factors(), {"r": 0}, FileFormatError, "positive number `r` .*, got 0"),
        (factors(), {"r": 0.5}, FileFormatError, "an integer `r`, got 0.5"),
        (factors(), {"rank_pattern": {"fc": 0.5}}, FileFormatError, "an integer `rank_pattern.fc`, got 0.5"),
        (factors(), {"lora_alpha": "x"}, FileFormatError, "positive number `lora_alpha` .*, got 'x'"),
        (factors(), {"alpha_pattern": [1]}, FileFormatError, "a JSON object `alpha_pattern`"),
        (factors("other"), {}, InvalidInputError, "changes `other.weight`, which the base .* does not have"),
        ({"fc.lora_A.weight": torch.ones(2, 4)}, {}, FileFormatError, "one factor is missing for `fc`"),
        (
            {"fc.lora_A.weight": torch.ones(2, 5), "fc.lora_B.weight": torch.ones(3, 2)},
            {},
            InvalidInputError,
            r"`fc.weight` of the base has shape \(3, 4\), the factors of the adapter have \(2, 5\)",
        ),
        ({**factors(), "fc.lora_magnitude_vector": torch.ones(3)}, {}, FileFormatError, "is not supported; merge it"),
    ],
    ids=["kind", "dora", "rank", "fraction", "ranks", "alpha", "pattern", "layer", "factor", "shape", "magnitude"],
)
def test_adapters_that_do_not_fit(
    tmp_path: Path, tensors: dict[str, Tensor], options: Any, error: type[Exception], message: str
) -> None:
    network = base(tmp_path, fc__weight=torch.zeros(3, 4))
    with pytest.raises(error, match=message):
        merge_lora(network, adapter(tmp_path, tensors, **options))


def test_networks_are_not_adapters(tmp_path: Path) -> None:
    base(tmp_path, fc__weight=torch.zeros(3, 4))
    with pytest.raises(FileFormatError, match="is not an adapter"):
        open_adapter(tmp_path / "base.safetensors")


def test_adapters_without_options(tmp_path: Path) -> None:
    path = adapter(tmp_path, factors())
    (path / "adapter_config.json").unlink()
    with pytest.raises(FileFormatError, match=r"no adapter_config.json, which has the scale"):
        merge_lora(base(tmp_path, fc__weight=torch.zeros(3, 4)), path)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.conv = nn.Conv2d(2, 4, 3)
        self.fc = nn.Linear(6, 5)
        self.head = nn.Linear(5, 3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["fc", "embedding", "conv"]},
        {"target_modules": ["fc", "head"], "rank_pattern": {"head": 2}, "alpha_pattern": {"head": 5}},
        {"target_modules": ["fc"], "modules_to_save": ["head"], "use_rslora": True, "bias": "lora_only"},
    ],
    ids=["layers", "patterns", "saved"],
)
def test_the_result_is_that_of_peft(tmp_path: Path, options: Any) -> None:
    peft: Any = pytest.importorskip("peft", reason="peft is not installed")
    torch.manual_seed(0)
    network = Network()
    save_file(network.state_dict(), tmp_path / "base.safetensors")
    model = peft.get_peft_model(network, peft.LoraConfig(r=3, lora_alpha=7, **options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name or (options.get("bias") and name.endswith("fc.bias")):
                parameter.normal_()
    model.save_pretrained(tmp_path / "adapter")
    merged = merge_lora(tmp_path / "base.safetensors", tmp_path / "adapter")
    expected = model.merge_and_unload().state_dict()
    assert merged.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(merged.tensors[name], tensor, rtol=1e-5, atol=1e-5)
