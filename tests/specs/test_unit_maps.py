"""Linear maps of groups that a table states."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.errors import ConfigError, SpecError
from rebasin_core.specs import TableSpec, TableSpecFactory, UnitMaps, to_git_rebasin
from rebasin_core.symmetry import Kind, Slot
from tests.specs.kinds.networks import Block, Gated, dense, rows, tokens

TABLE = {"0.weight": "a, -", "0.bias": "a", "2.weight": "b, a", "2.bias": "b", "4.weight": "-, b", "4.bias": "-"}
GATED = {
    "gate.weight": "h, -", "gate.bias": "h", "up.weight": "h, -", "up.bias": "h", "down.weight": "-, h",
    "down.bias": "-",
}  # fmt: skip


def test_rows_produce_and_columns_consume_units() -> None:
    spec = rc.table_spec(TABLE, dense(nn.ReLU(), 5, 4), kinds={"a": "positive", "b": "sign"})
    first, second = spec.symmetry.linear
    assert (first.group, first.kind) == ("a", Kind.POSITIVE)
    assert first.degrees == {Slot("0.weight", 0): 1, Slot("0.bias", 0): 1, Slot("2.weight", 1): -1}
    assert second.degrees == {Slot("2.weight", 0): 1, Slot("2.bias", 0): 1, Slot("4.weight", 1): 1}
    assert spec.folded_symmetry == spec.symmetry


def test_stated_kinds_are_checked() -> None:
    model, inputs = dense(nn.ReLU(), 5, 4), rows().float()
    right = rc.table_spec(TABLE, model, kinds={"a": "positive", "b": "positive"})
    assert rc.check_spec(right, model, inputs).passed
    assert right.symmetry.dimension == rc.trace_spec(model, inputs).symmetry.dimension == 9
    wrong = rc.check_spec(rc.table_spec(TABLE, model, kinds={"a": "positive", "b": "nonzero"}), model, inputs)
    assert wrong.suggestions == ("'b', kind nonzero of `2.weight`, `2.bias`, `4.weight`: expected the kind positive",)


@pytest.mark.parametrize(
    "maps",
    [
        {"kind": "nonzero", "produces": ["up.*"], "consumes": ["down.weight"]},
        UnitMaps(kind=Kind.NONZERO, produces=("up.weight", "up.bias"), consumes=("down.weight:1",)),
        [UnitMaps(kind=Kind.NONZERO, produces=("up.*",), consumes=("*.weight:1",))],
    ],
)
def test_tensors_that_produce_and_consume_units_are_listed(maps: Any) -> None:
    spec = rc.table_spec(GATED, Gated(), kinds={"h": maps})
    (linear,) = spec.symmetry.linear
    assert linear.degrees == {Slot("up.weight", 0): 1, Slot("up.bias", 0): 1, Slot("down.weight", 1): -1}
    assert rc.check_spec(spec, Gated(), rows().float()).passed


BLOCK = {
    "embed.weight": "-, s", "position": "-, s", "head.weight": "-, s", "head.bias": "-",
    **{f"{name}.{part}": "s" for name in ("norm1", "norm2", "norm") for part in ("weight", "bias")},
    **{f"{name}.weight": f"h*{width}@h, s" for name, width in (("query", "q"), ("key", "q"), ("value", "v"))},
    **{f"{name}.bias": f"h*{width}@h" for name, width in (("query", "q"), ("key", "q"), ("value", "v"))},
    "out.weight": "s, h*v", "out.bias": "s", "up.weight": "u, s", "up.bias": "u",
    "down.weight": "s, u", "down.bias": "s",
}  # fmt: skip
BLOCK_KINDS: dict[str, Any] = {
    "s": [
        {"kind": "orthogonal_fixing_ones", "ones": ["norm*.weight"]},
        {"kind": "nonzero", "produces": ["norm1.*"], "consumes": ["query.weight", "key.weight", "value.weight"]},
        {"kind": "nonzero", "produces": ["norm2.*"], "consumes": ["up.weight"]},
        {"kind": "nonzero", "produces": ["norm.*"], "consumes": ["head.weight"]},
    ],
    "q": {"kind": "invertible", "produces": ["query.*"], "consumes": ["key.*"]},
    "v": "invertible",
}


def test_a_table_states_all_that_tracing_derives() -> None:
    model = Block()
    spec, traced = rc.table_spec(BLOCK, model, sizes={"h": 2}, kinds=BLOCK_KINDS), rc.trace_spec(model, tokens())
    for own, other in ((spec.symmetry, traced.symmetry), (spec.folded_symmetry, traced.folded_symmetry)):
        found = [
            {(one.kind, frozenset(one.degrees.items()), tuple(sorted(one.ones))) for one in symmetry.linear}
            for symmetry in (own, other)
        ]
        assert found[0] == found[1]
    assert rc.check_spec(spec, model, tokens()).passed


def test_parts_of_a_fused_projection_are_numbered() -> None:
    table = {"qkv.weight": "w + w + -, -", "qkv.bias": "w + w + -"}
    maps = UnitMaps(kind=Kind.INVERTIBLE, produces=("qkv.*:0.0",), consumes=("qkv.*:0.1",))
    tensors = {"qkv.weight": torch.zeros(10, 3), "qkv.bias": torch.zeros(10)}
    (linear,) = rc.table_spec(table, tensors, sizes={"w": 4}, kinds={"w": maps}).symmetry.linear
    assert dict(linear.degrees) == {
        Slot("qkv.weight", 0, 0): 1, Slot("qkv.weight", 0, 1): -1,
        Slot("qkv.bias", 0, 0): 1, Slot("qkv.bias", 0, 1): -1,
    }  # fmt: skip


def test_groups_with_rotations_are_not_permuted() -> None:
    tensors = {"query": torch.zeros(4, 3), "key": torch.zeros(4, 3)}
    maps = UnitMaps(kind=Kind.ROTATION, produces=("query",), consumes=("key",))
    spec = rc.table_spec({"query": "w, -", "key": "w, -"}, tensors, kinds={"w": maps})
    assert spec.groups == {}
    assert spec.axes["query"][0].size == 4
    assert spec.symmetry.dimension == 4
    assert list(spec.symmetry.unpermuted) == ["w"]


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ({"c": "positive"}, "`kinds` names the group 'c'; "),
        ({"a": "scale"}, "`kinds` of group 'a': kind: .*got 'scale'; expected one of the kinds sign, flip, positive"),
        ({"a": {"kind": "sign", "produce": ["0.*"]}}, "`kinds` of group 'a': produce: Extra inputs are not permitted"),
        ({"a": 3}, "`kinds` of group 'a': the family: .*got 3"),
        ({"a": {"kind": "sign", "produces": ["1.*"]}}, "`produces` of group 'a': no axis of the group matches; "),
        (
            {"a": {"kind": "positive", "produces": ["0.*"], "consumes": ["*.weight"]}},
            "dimension 0 of `0.weight` is in `produces` and in `consumes`; give the dimension, as in '0.weight:0'",
        ),
        ({"a": {"kind": "positive", "ones": ["0.*", "2.*"]}}, "at least one slot with a nonzero degree"),
        ({"a": ["invertible", "positive"]}, "expected at most one family of maps at a slot"),
    ],
)
def test_wrong_kinds_raise_an_error(kinds: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        rc.table_spec(TABLE, dense(nn.ReLU(), 5, 4), kinds=kinds)


def test_a_subclass_states_kinds() -> None:
    class TwoLayers(TableSpec):
        """A table with kinds."""

        table: ClassVar = {"0.weight": "hidden, -", "0.bias": "hidden", "2.weight": "-, hidden", "2.bias": "-"}
        kinds: ClassVar = {"hidden": "positive"}

    spec = TwoLayers(dense(nn.ReLU(), 5))
    assert spec.symmetry.dimension == 5


def test_run_files_and_specification_files_keep_kinds(tmp_path: Path) -> None:
    factory = TableSpecFactory.model_validate({
        "name": "table",
        "table": TABLE,
        "kinds": {"a": "positive", "b": ["sign"]},
    })
    assert TableSpecFactory.model_validate_json(factory.canonical_json()) == factory
    spec = factory.derive(dense(nn.ReLU(), 5, 4), rows().float())
    assert [linear.kind for linear in spec.symmetry.linear] == [Kind.POSITIVE, Kind.SIGN]
    rc.save_spec(spec, tmp_path / "spec.json")
    read = rc.load_spec(tmp_path / "spec.json")
    assert (read.symmetry, read.layout) == (spec.symmetry, spec.layout)
    with pytest.raises(ConfigError, match=r"kinds\.a.*'invertible', got 'large'"):
        TableSpecFactory(table=TABLE, kinds={"a": {"kind": "large"}})


def test_files_of_git_re_basin_have_permutations_only() -> None:
    model = dense(nn.ReLU(), 5, 4)
    plain, stated = rc.table_spec(TABLE, model), rc.table_spec(TABLE, model, kinds={"a": "positive"})
    assert to_git_rebasin(stated) == to_git_rebasin(plain)
