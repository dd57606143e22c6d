"""Choice of a device, and entries of tensors in any dtype."""

from __future__ import annotations

import pytest
import torch

from rebasin_core.errors import ConfigError
from rebasin_core.tensors.device import CPU, choose_device, select
from tests.pretend import NAME, PretendedDevice


def test_auto_is_cuda_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_available, expected in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr("torch.cuda.is_available", lambda found=is_available: found)
        assert choose_device("auto") == torch.device(expected)


@pytest.mark.parametrize("name", ["cpu", torch.device("cpu")])
def test_devices_and_their_names_are_accepted(name: str | torch.device) -> None:
    assert choose_device(name) == CPU


@pytest.mark.parametrize("name", ["tpu9", "cuda:99", "", "cpu:x"])
def test_devices_that_are_not_available_are_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"the device {name!r} is not available .*expected `auto`, `cpu`, `cuda`"):
        choose_device(name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2, torch.int64, torch.bool])
def test_selected_entries_are_those_of_a_loop(dtype: torch.dtype) -> None:
    tensor = (torch.arange(12).view(3, 4) - 5).to(dtype)
    found = select(tensor, 1, torch.tensor([2, 0, 3]))
    assert found.dtype == dtype
    for row in range(3):
        for column, source in enumerate((2, 0, 3)):
            assert found[row, column].item() == tensor[row, source].item()


def test_the_pretended_device_rejects_mixed_devices() -> None:
    with PretendedDevice() as used:
        tensor = torch.ones(4).to(NAME)
        with pytest.raises(RuntimeError, match="expected all tensors on one device"):
            tensor + torch.ones(4)
        assert (tensor + 1).cpu().tolist() == [2.0] * 4
    assert used.copied == 16
    assert used.peak == 32
