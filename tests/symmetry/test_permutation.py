from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rebasin_core import Group, Layout, Permutation, table_spec
from rebasin_core.errors import FileFormatError, InvalidInputError, SpecError
from rebasin_core.symmetry.axis import Atom, concat, product

# All types of axes: plain, product, concatenation, nested in one axis and across axes.
LAYOUT = Layout(
    {"s": Group("s", 4), "h": Group("h", 3), "w": Group("w", 2, "h"), "v": Group("v", 2, "h")},
    {
        "qkv": (concat(product(Atom(3, "h"), Atom(2, "w")), product(Atom(3, "h"), Atom(2, "v"))), Atom(4, "s")),
        "fused": (product(Atom(3, "h"), concat(Atom(2, "w"), Atom(2, "v"), Atom(1))), Atom(4, "s")),
        "split": (Atom(3, "h"), Atom(4, "s"), Atom(2, "w")),
        "flat": (Atom(5), product(Atom(4, "s"), Atom(6))),
        "scalar": (),
    },
)
SEEDS = st.integers(0, 2**31)


def element(seed: int) -> Permutation:
    return Permutation.random(LAYOUT, generator=torch.Generator().manual_seed(seed))


def tensors(seed: int, *lead: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {name: torch.randn((*lead, *LAYOUT.shape(name)), generator=g) for name in LAYOUT.axes}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@given(SEEDS, SEEDS, SEEDS)
@settings(max_examples=50, deadline=None)
def test_group_laws(a: int, b: int, c: int) -> None:
    p, q, r = element(a), element(b), element(c)
    identity = Permutation.identity(LAYOUT)
    assert p.compose(q).compose(r) == p.compose(q.compose(r))
    assert p.compose(identity) == identity.compose(p) == p
    assert p.compose(p.inverse()).is_identity
    assert p.inverse().compose(p).is_identity


@given(SEEDS, SEEDS, SEEDS)
@settings(max_examples=50, deadline=None)
def test_action_is_a_homomorphism(a: int, b: int, seed: int) -> None:
    p, q, x = element(a), element(b), tensors(seed, 2)
    assert same(p.compose(q).apply(x), q.apply(p.apply(x)))
    assert same(p.inverse().apply(p.apply(x)), x)


@given(SEEDS, SEEDS)
@settings(max_examples=25, deadline=None)
def test_nested_index_by_the_definition(a: int, seed: int) -> None:
    p, x = element(a), tensors(seed)["split"]
    h, s, w = (p.indices[name] for name in ("h", "s", "w"))
    permuted = p.apply({"split": x})["split"]
    for i in range(3):
        for j in range(4):
            for k in range(2):
                assert permuted[i, j, k] == x[h[i], s[j], w[i, k]]


def test_product_and_concatenation_by_the_definition() -> None:
    p, x = element(7), tensors(8)
    flat = p.apply({"flat": x["flat"]})["flat"]
    assert torch.equal(flat.reshape(5, 4, 6), x["flat"].reshape(5, 4, 6)[:, p.indices["s"]])
    fused, old = p.apply({"fused": x["fused"]})["fused"].reshape(3, 5, 4), x["fused"].reshape(3, 5, 4)
    for i in range(3):
        source = old[p.indices["h"][i]][:, p.indices["s"]]
        expected = torch.cat([source[:2][p.indices["w"][i]], source[2:4][p.indices["v"][i]], source[4:]])
        assert torch.equal(fused[i], expected)


def test_leading_dimensions_are_not_permuted() -> None:
    p, x = element(1), tensors(2, 3, 2)
    permuted = p.apply(x)
    for name in x:
        assert torch.equal(permuted[name][1, 0], p.apply({name: x[name][1, 0]})[name])


def test_result_shares_no_memory() -> None:
    x = tensors(0)
    for p in (element(0), Permutation.identity(LAYOUT)):
        for name, permuted in p.apply(x).items():
            assert permuted.data_ptr() != x[name].data_ptr()


def test_order_counts_nested_permutations() -> None:
    # 4! for s, 3! for h, and 2! in each of three heads for w and for v.
    assert 10**LAYOUT.log10_order == pytest.approx(24 * 6 * 2**3 * 2**3)


def test_random_elements_are_uniform() -> None:
    layout = Layout({"g": Group("g", 3)}, {"x": (Atom(3, "g"),)})
    g = torch.Generator().manual_seed(0)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(3000):
        key = tuple(Permutation.random(layout, generator=g).indices["g"].tolist())
        counts[key] = counts.get(key, 0) + 1
    # Each of the six has 500 +- 20.4; five standard deviations.
    assert len(counts) == 6
    assert all(abs(count - 500) < 102 for count in counts.values())


def test_file_round_trip(tmp_path: Path) -> None:
    p = element(3)
    p.save(tmp_path / "p.safetensors")
    assert Permutation.load(tmp_path / "p.safetensors") == p
    assert Permutation.load(tmp_path / "p.safetensors", LAYOUT) == p
    other = Layout({"g": Group("g", 3)}, {"x": (Atom(3, "g"),)})
    with pytest.raises(FileFormatError, match="another specification"):
        Permutation.load(tmp_path / "p.safetensors", other)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x10\0\0\0\0\0\0\0{}"])
def test_damaged_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.safetensors").write_bytes(content)
    with pytest.raises(FileFormatError, match=r"p\.safetensors"):
        Permutation.load(tmp_path / "p.safetensors")


@pytest.mark.parametrize(
    "index",
    [torch.tensor([0, 0, 1]), torch.tensor([0, 1]), torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0, 1, 3])],
)
def test_invalid_index_raises(index: torch.Tensor) -> None:
    layout = Layout({"g": Group("g", 3)}, {"x": (Atom(3, "g"),)})
    with pytest.raises(InvalidInputError, match="group 'g'"):
        Permutation(layout, {"g": index})


def test_unknown_names_and_wrong_shapes_raise() -> None:
    p = element(0)
    with pytest.raises(InvalidInputError, match="not in the specification: `extra`"):
        p.apply({"extra": torch.zeros(1)})
    with pytest.raises(InvalidInputError, match=r"`split` has shape \(3, 4\)"):
        p.apply({"split": torch.zeros(3, 4)})


def test_contradictory_layout_raises() -> None:
    g = Group("g", 3)
    with pytest.raises(SpecError, match="has 3 units, its axis there has 4"):
        Layout({"g": g}, {"x": (Atom(4, "g"),)})
    with pytest.raises(SpecError, match="did you mean 'hidden'"):
        Layout({"hidden": g}, {"x": (Atom(3, "hiden"),)})
    with pytest.raises(SpecError, match="cyclic"):
        Layout({"a": Group("a", 2, "b"), "b": Group("b", 2, "a")}, {})
    with pytest.raises(SpecError, match="exactly one axis of the outer group"):
        Layout({"h": Group("h", 2), "w": Group("w", 2, "h")}, {"x": (Atom(2, "w"),)})


def test_json_round_trip() -> None:
    again = Layout.from_json(LAYOUT.as_json())
    assert again == LAYOUT
    assert again.fingerprint == LAYOUT.fingerprint


def test_permuted_module_computes_the_same_function(generator: torch.Generator) -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)).eval()
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5, generator=generator)
    table = dict.fromkeys(("0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"), "h")
    spec = table_spec({**table, "0.weight": "h, -", "3.weight": "-, h", "3.bias": "-"}, model)
    permutation = spec.random_permutation(generator=generator)
    permuted = permutation.apply(model)
    x = torch.randn(4, 3, generator=generator)
    assert isinstance(permuted, nn.Sequential)
    assert not torch.equal(dict(permuted.named_parameters())["0.weight"], dict(model.named_parameters())["0.weight"])
    torch.testing.assert_close(permuted(x), model(x))
    with pytest.raises(InvalidInputError, match=r"from builtins\.int; expected a Posterior, a mapping"):
        permutation.apply(3)


def test_specification_instead_of_its_layout_raises(tmp_path: Path) -> None:
    spec: Any = table_spec({"w": "units"}, {"w": torch.zeros(3)})
    permutation = spec.identity()
    permutation.save(tmp_path / "p.safetensors")
    with pytest.raises(InvalidInputError, match="expected a `Layout`, got `_GivenTable`; use the `layout` of the"):
        Permutation(spec, permutation.indices)
    with pytest.raises(InvalidInputError, match="expected a `Layout`"):
        Permutation.load(tmp_path / "p.safetensors", spec)


def test_unsupported_targets_raise() -> None:
    spec = table_spec({"weight": "units, -", "bias": "units"}, torch.nn.Linear(2, 3))
    odd: Any = object()
    with pytest.raises(InvalidInputError, match=r"from builtins\.object; expected a Posterior, a mapping"):
        spec.identity().apply(odd)
    with pytest.raises(InvalidInputError, match="not in the specification: `other`"):
        spec.identity().apply({"weight": torch.zeros(3, 2), "bias": torch.zeros(3), "other": torch.zeros(1)})


def test_state_dict_keeps_both_names_of_a_shared_module() -> None:
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Linear(2, 3)
            self.again = self.first

    model = Twice()
    spec = table_spec({"first.weight": "units, -", "first.bias": "units"}, model)
    permutation = spec.random_permutation(generator=torch.Generator().manual_seed(1))
    permuted = permutation.apply(model.state_dict())
    assert list(permuted) == list(model.state_dict())
    assert torch.equal(permuted["again.weight"], permutation.apply(model).first.weight)
    strange = {**model.state_dict(), "other": torch.zeros(3)}
    with pytest.raises(InvalidInputError, match="not in the specification: `other`"):
        permutation.apply(strange)
