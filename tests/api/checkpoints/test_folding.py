"""Folding of checkpoints, and its reversal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import rebasin_core as rc
from rebasin_core.analysis import Folding
from rebasin_core.api.checkpoints import fold_checkpoint, unfold_checkpoint
from rebasin_core.errors import InvalidInputError, SpecError, StorageError
from tests.analysis.folding.networks import LENGTH, MODELS, WORDS, example, outputs, randomized


def gpt() -> nn.Module:
    return MODELS["gpt"]().eval()


def tied() -> nn.Module:
    return MODELS["tied gpt"]().eval()


def bert() -> nn.Module:
    return MODELS["bert"]().eval()


def source(factory: str) -> dict[str, Any]:
    """Return the model as an option."""
    return {"name": "factory", "factory": f"{__name__}:{factory}", "inputs": [f"2,{LENGTH}:int<{WORDS}"]}


def written(path: Path, factory: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Write a network with random scales and shifts, and return its tensors."""
    torch.manual_seed(0)
    model = randomized(globals()[factory]()).to(dtype)
    tensors = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    save_file(tensors, path)
    return tensors


def test_files_are_folded_as_networks_are(tmp_path: Path) -> None:
    tensors = written(tmp_path / "a.safetensors", "gpt")
    found = fold_checkpoint(tmp_path / "a.safetensors", model=source("gpt"), shifts=True, center=True)
    assert found.report.difference is not None
    assert found.report.difference.is_kept
    files = found.write(tmp_path / "b.safetensors")
    assert files == (tmp_path / "b.safetensors", tmp_path / "b.folding.safetensors")
    expected = rc.fold(tensors, example("gpt").spec, shifts=True, center=True).network
    for name, tensor in load_file(tmp_path / "b.safetensors").items():
        assert torch.equal(tensor, expected[name])
    with safe_open(str(tmp_path / "b.safetensors"), "pt") as file:
        record = json.loads(file.metadata()["rebasin"])
    assert record["command"] == "fold"
    assert record["permutations"].keys() == {"b.folding.safetensors"}


def test_the_inverse_restores_the_file(tmp_path: Path) -> None:
    tensors = written(tmp_path / "a.safetensors", "gpt")
    fold_checkpoint(tmp_path / "a.safetensors", model=source("gpt"), shifts=True, center=True).write(
        tmp_path / "b.safetensors"
    )
    folding = tmp_path / "b.folding.safetensors"
    forms: list[Path | Folding] = [folding, Folding.load(folding)]
    for number, given in enumerate(forms):
        output = tmp_path / f"{number}.safetensors"
        assert unfold_checkpoint(given, tmp_path / "b.safetensors", output) == (output,)
        found = load_file(output)
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=2e-6)


def test_names_prefixes_and_other_tensors_are_those_of_the_file(tmp_path: Path) -> None:
    tensors = written(tmp_path / "a.safetensors", "gpt")
    torch.save(
        {"state_dict": {f"module.{n}": t for n, t in tensors.items()} | {"module.step": torch.ones(3)}},
        tmp_path / "a.pt",
    )
    fold_checkpoint(tmp_path / "a.pt", model=source("gpt")).write(tmp_path / "b.safetensors")
    found = load_file(tmp_path / "b.safetensors")
    assert found.keys() == {*(f"module.{name}" for name in tensors), "module.step"}
    assert bool((found["module.norm.weight"] == 1).all())


def test_a_specification_suffices_without_a_check(tmp_path: Path) -> None:
    written(tmp_path / "a.safetensors", "gpt")
    rc.save_spec(example("gpt").spec, tmp_path / "spec.json")
    with pytest.raises(InvalidInputError, match="needs the model"):
        fold_checkpoint(tmp_path / "a.safetensors", spec=tmp_path / "spec.json")
    found = fold_checkpoint(tmp_path / "a.safetensors", spec=tmp_path / "spec.json", check=False)
    assert found.report.is_complete
    assert found.report.difference is None


@pytest.mark.parametrize("has_both", [False, True])
def test_tied_weights_are_written_under_both_names(tmp_path: Path, has_both: bool) -> None:  # ruff: ignore[boolean-type-hint-positional-argument] - a parameter of the test
    tensors = written(tmp_path / "a.safetensors", "tied")
    folder = tmp_path / "tied"
    folder.mkdir()
    copies = {"head.weight": tensors["tokens.weight"].clone()} if has_both else {}
    save_file({**tensors, **copies}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"tie_word_embeddings": True, "size": 3, "text": {"size": 4}}))
    found = fold_checkpoint(folder, model=source("tied"), untie=True, shifts=True)
    found.report.require()
    assert found.report.difference is not None
    assert found.report.difference.is_kept
    found.write(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == {"tie_word_embeddings": False, "size": 3, "text": {"size": 4}}
    output = load_file(tmp_path / "out" / "model.safetensors")
    assert output.keys() == {*tensors, "head.weight"}
    given = example("tied gpt")
    doubled = {name: tensor.double() for name, tensor in output.items()}
    before = outputs(given.model, {name: tensor.double() for name, tensor in tensors.items()}, given.inputs)
    after = outputs(rc.untie(given.model), doubled, given.inputs)
    assert (after - before).abs().max() <= 1e-5 * before.abs().max()
    assert not torch.equal(output["head.weight"], output["tokens.weight"])
    assert (tmp_path / "out" / "rebasin_folding.safetensors").is_file()


def test_prefixes_apply_to_the_second_name(tmp_path: Path) -> None:
    tensors = written(tmp_path / "a.safetensors", "tied")
    save_file({f"network.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "a.safetensors")
    fold_checkpoint(tmp_path / "a.safetensors", model=source("tied"), untie=True).write(tmp_path / "b.safetensors")
    assert "network.head.weight" in load_file(tmp_path / "b.safetensors")


def test_kept_scales_are_reported(tmp_path: Path) -> None:
    written(tmp_path / "a.safetensors", "bert")
    found = fold_checkpoint(tmp_path / "a.safetensors", model=source("bert"))
    assert set(found.report.kept) == {f"blocks.{k}.norm{n}.weight" for k in (0, 1) for n in (1, 2)}
    with pytest.raises(SpecError, match="not all scales"):
        found.report.require()


def test_half_precision_states_the_change_by_rounding(tmp_path: Path) -> None:
    written(tmp_path / "a.safetensors", "gpt", torch.bfloat16)
    found = fold_checkpoint(tmp_path / "a.safetensors", model=source("gpt"))
    assert found.report.difference is not None
    assert found.report.difference.is_kept
    assert found.rounded is not None
    assert 1e-4 < found.rounded.error < 0.1
    found.write(tmp_path / "b.safetensors")
    assert {tensor.dtype for tensor in load_file(tmp_path / "b.safetensors").values()} == {torch.bfloat16}


def test_zero_and_infinite_scales_are_kept(tmp_path: Path) -> None:
    tensors = written(tmp_path / "a.safetensors", "gpt")
    tensors["blocks.0.norm1.weight"][0] = 0
    tensors["blocks.0.norm2.weight"][0] = float("inf")
    save_file(tensors, tmp_path / "a.safetensors")
    report = fold_checkpoint(tmp_path / "a.safetensors", model=source("gpt"), check=False).report
    assert "1 of its entries are zero" in report.kept["blocks.0.norm1.weight"]
    assert "not finite" in report.kept["blocks.0.norm2.weight"]


def test_outputs_are_not_replaced_without_request(tmp_path: Path) -> None:
    written(tmp_path / "a.safetensors", "gpt")
    found = fold_checkpoint(tmp_path / "a.safetensors", model=source("gpt"))
    with pytest.raises(StorageError, match="is also an input"):
        found.write(tmp_path / "a.safetensors", force=True)
    (tmp_path / "b.folding.safetensors").write_text("other")
    with pytest.raises(StorageError, match="exists"):
        found.write(tmp_path / "b.safetensors")
    assert (tmp_path / "b.folding.safetensors").read_text() == "other"


def test_the_inverse_of_networks_that_are_not_folded_is_an_error(tmp_path: Path) -> None:
    written(tmp_path / "a.safetensors", "gpt")
    fold_checkpoint(tmp_path / "a.safetensors", model=source("gpt")).write(tmp_path / "b.safetensors")
    with pytest.raises(InvalidInputError, match="expected a folded network"):
        unfold_checkpoint(tmp_path / "b.folding.safetensors", tmp_path / "a.safetensors", tmp_path / "c.safetensors")
    assert not (tmp_path / "c.safetensors").exists()


def test_untying_needs_a_model_and_no_specification(tmp_path: Path) -> None:
    written(tmp_path / "a.safetensors", "tied")
    with pytest.raises(InvalidInputError, match="no `spec` with `untie`"):
        fold_checkpoint(tmp_path / "a.safetensors", model=source("tied"), spec=example("tied gpt").spec, untie=True)
