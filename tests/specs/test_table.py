from __future__ import annotations

import pytest
import torch
from torch import nn

from rebasin_core import TableSpec, table_spec
from rebasin_core.errors import SpecError


class Flattened(TableSpec):
    table = {  # ruff: ignore[mutable-class-default] - never changed
        "0.weight": "c, -, -, -",
        "0.bias": "c",
        "1.weight": "c",
        "1.bias": "c",
        "1.running_mean": "c",
        "1.running_var": "c",
        "3.weight": "-, c*-",
        "3.bias": "-",
    }


def convolutional(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, channels, 3), nn.BatchNorm2d(channels), nn.Flatten(), nn.Linear(channels * 36, 3))


@pytest.mark.parametrize("channels", [1, 4, 7])
def test_one_table_applies_to_all_widths(channels: int) -> None:
    spec = Flattened(convolutional(channels))
    assert spec.groups["c"].size == channels
    assert spec.layout.shape("3.weight") == (3, channels * 36)


def test_scalars_may_be_omitted() -> None:
    assert Flattened(convolutional(2)).axes["1.num_batches_tracked"] == ()


def test_sizes_are_inferred_across_tensors() -> None:
    tensors = {"qkv": torch.zeros(36, 5), "out": torch.zeros(5, 12), "bias": torch.zeros(3)}
    table = {"qkv": "h*w@h + h*w + h*v@h, s", "out": "s, h*v", "bias": "h"}
    spec = table_spec(table, tensors)
    assert {name: group.size for name, group in spec.groups.items()} == {"h": 3, "w": 4, "v": 4, "s": 5}
    assert spec.groups["w"].within == "h"


def test_undetermined_sizes_raise() -> None:
    tensors = {"x": torch.zeros(12)}
    with pytest.raises(SpecError, match=r"`h`, `w`; add it to `sizes`"):
        table_spec({"x": "h*w"}, tensors)
    assert table_spec({"x": "h*w"}, tensors, sizes={"h": 4}).groups["w"].size == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.bias": None}, "missing from the table: `0.bias`"),
        ({"0.biass": "c"}, "did you mean '0.bias'"),
        ({"0.bias": "c, -"}, "the table has 2 axes"),
        ({"3.bias": "c"}, "has 3 units here and 4 elsewhere"),
        ({"3.weight": "-, c*35"}, "the axis has length 144, the table implies 140"),
        ({"3.weight": "-, 7*-"}, "cannot divide an axis of length 144"),
        ({"0.bias": "c*"}, "position"),
    ],
)
def test_invalid_tables_raise(change: dict[str, str | None], message: str) -> None:
    table = {name: text for name, text in {**Flattened.table, **change}.items() if text is not None}
    with pytest.raises(SpecError, match=message):
        table_spec(table, convolutional(4))
