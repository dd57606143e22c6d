"""Files of `torch.save`, compared with `torch.load`; nested state dicts; no code is executed."""

from __future__ import annotations

import os
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from rebasin_core import open_checkpoint
from rebasin_core.errors import FileFormatError, InvalidInputError


def state(seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).state_dict()


def saved(path: Path, value: Any, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def optimizer_state() -> dict[str, Any]:
    model = nn.Linear(3, 4)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize("is_new", [True, False], ids=["zip", "legacy"])
def test_tensors_are_those_of_torch_load(tmp_path: Path, *, is_new: bool) -> None:
    dtypes = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
    dtypes += [torch.float8_e4m3fn] if is_new else []  # PyTorch cannot read its own old format of float8
    given = {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in dtypes}
    given |= {"transposed": torch.rand(3, 4).T, "view": torch.arange(10.0)[3:5], "none": torch.zeros(0, 2)}
    path = saved(tmp_path / "a.bin", given, _use_new_zipfile_serialization=is_new)
    found, expected = open_checkpoint(path), torch.load(path, weights_only=True)
    assert found.format == "torch"
    assert found.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert found.tensors[name].shape == tensor.shape
        assert found.tensors[name].tolist() == tensor.tolist()


def test_a_name_that_belongs_to_safetensors(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", state()).rename(tmp_path / "a.safetensors")
    assert open_checkpoint(path).tensors.keys() == state().keys()


def test_shared_maps_of_the_user_do_not_change_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", state())
    before = path.read_bytes()
    import mmap  # ruff: ignore[import-outside-top-level] - not on all systems

    with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED):
        open_checkpoint(path).tensors["0.weight"].zero_()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("value", "entry", "ignored"),
    [
        ({"state_dict": state(), "epoch": 3, "best": torch.tensor(0.7)}, ("state_dict",), {"epoch", "best"}),
        (
            {"model": state(), "optimizer": optimizer_state(), "rng_state": torch.get_rng_state()},
            ("model",),
            {"optimizer", "rng_state"},
        ),
        (
            {
                "state_dict": state(),
                "optimizer_states": [optimizer_state()],
                "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
                "hyper_parameters": {"width": 4},
            },
            ("state_dict",),
            {"optimizer_states", "callbacks", "hyper_parameters"},
        ),
        ({"a": {"model": state(), "step": 2}}, ("a", "model"), {"a.step"}),
        (OrderedDict(state(), extra=None), (), {"extra"}),
    ],
    ids=["imagenet", "optimizer", "lightning", "deep", "plain"],
)
def test_the_only_state_dict_is_found(tmp_path: Path, value: Any, entry: tuple[str, ...], ignored: set[str]) -> None:
    found = open_checkpoint(saved(tmp_path / "a.ckpt", value))
    assert found.tensors.keys() == state().keys()
    assert found.entry == entry
    assert found.ignored.keys() == ignored


def test_ignored_content_is_described_by_type_and_size(tmp_path: Path) -> None:
    value = {"model": state(), "optimizer": {"state": {}, "param_groups": []}, "epoch": 3, "args": ["a", "b"]}
    ignored = open_checkpoint(saved(tmp_path / "a.pt", value)).ignored
    assert ignored == {"optimizer": "a dict of 2 entries", "epoch": "3", "args": "a list of 2 entries"}


def test_several_state_dicts_need_an_entry(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"model": state(0), "ema": {"shadow": state(1)}})
    with pytest.raises(InvalidInputError, match=r"several dictionaries of tensors: 'model', 'ema.shadow'.*`entry`"):
        open_checkpoint(path)
    found = open_checkpoint(path, entry="ema.shadow")
    assert found.entry == ("ema", "shadow")
    assert torch.equal(found.tensors["0.weight"], state(1)["0.weight"])
    assert found.ignored == {"model": "a dict of 7 entries"}
    with pytest.raises(InvalidInputError, match=r"no dictionary of tensors 'modle'; did you mean 'model'"):
        open_checkpoint(path, entry="modle")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(3), "one tensor without a name"),
        ([torch.zeros(3)], r"no state dict, got a list of 1 entries; expected.*torch.save\(model.state_dict"),
        ({"epoch": 3}, r"no state dict, got a dict of 1 entries"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "layout sparse_coo for `a`"),
        ({"a": torch.zeros(3, device="meta")}, "tensors without entries.*for `a`"),
        ({"a": torch.zeros(1).expand(10**9)}, r"expanded tensors.*`tensor.contiguous\(\)`.*for `a`"),
    ],
    ids=["tensor", "list", "number", "sparse", "meta", "expanded"],
)
def test_files_without_plain_named_tensors(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(FileFormatError, match=message) as caught:
        open_checkpoint(saved(tmp_path / "a.pt", value))
    assert "\n" not in str(caught.value)


class Command:
    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("is_new", [True, False], ids=["zip", "legacy"])
def test_code_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_new: bool) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "a.pt", {"a": torch.ones(3), "b": Command()}, _use_new_zipfile_serialization=is_new)
    with pytest.raises(FileFormatError, match=r"`posix.mkdir`, which can execute code.*state_dict\(\)") as caught:
        open_checkpoint(path)
    assert not (tmp_path / "executed").exists()
    assert "\n" not in str(caught.value)
    assert "\033" not in str(caught.value)


def test_modules_are_not_unpickled(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"function `torch.nn.modules.*state_dict\(\), path\)`"):
        open_checkpoint(saved(tmp_path / "a.pt", nn.Linear(3, 4)))


def test_compressed_archives_are_not_expanded(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(10_000_000))
    with pytest.raises(FileFormatError, match="entries are compressed; load it with PyTorch and save it again"):
        open_checkpoint(tmp_path / "a.pt")
