from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rebasin_core import Group, Layout, Permutation
from rebasin_core.errors import FileFormatError, InvalidInputError
from rebasin_core.symmetry import (
    Atom,
    GroupElement,
    Kind,
    LinearSymmetry,
    Slot,
    Symmetry,
    SymmetryElement,
    concat,
    load_element,
    product,
)
from rebasin_core.tensors.files import read_tensors, write_tensors
from tests.symmetry.dense import matrix_of, operator

S, H, W, V, R = Atom(4, "s"), Atom(3, "h"), Atom(2, "w"), Atom(2, "v"), Atom(4, "r")
# All types of axes: plain, product, concatenation, nested in one axis and across axes, one group twice in a cell.
LAYOUT = Layout(
    {
        "s": Group("s", 4),
        "h": Group("h", 3),
        "w": Group("w", 2, "h"),
        "v": Group("v", 2, "h"),
        "r": Group("r", 4, "h"),
    },
    {
        "qkv": (concat(product(H, W), product(H, V), Atom(1), product(H, W)), S),
        "fused": (product(H, concat(W, V, Atom(1))), S),
        "split": (H, S, W),
        "flat": (Atom(2), product(S, Atom(3))),
        "square": (S, S),
        "rotary": (S, product(H, concat(R, R))),
        "bias": (S,),
        "count": (),
    },
)
KINDS = [kind for kind in Kind if kind is not Kind.FLIP]  # see `test_flips`


def symmetry(stream: Kind, inner: Kind) -> Symmetry:
    """Return a symmetry with a kind for the plain group ``s`` and one for the nested group ``w``."""
    of_stream = {
        Slot("qkv", 1): -1,
        Slot("fused", 1): -1,
        Slot("split", 1): 1,
        Slot("flat", 1): -1,
        Slot("square", 0): 1,
        Slot("square", 1): -1,
        Slot("rotary", 0): -1,
        Slot("bias", 0): 1,
    }
    of_inner = {Slot("qkv", 0, 1): 1, Slot("qkv", 0, 6): -1, Slot("fused", 0, 1): 1, Slot("split", 2): -1}
    rotary = LinearSymmetry("r", Kind.ROTATION, {Slot("rotary", 1, 1): 1, Slot("rotary", 1, 2): -1})
    heads = LinearSymmetry("h", Kind.POSITIVE, {Slot("fused", 0): 2, Slot("split", 0): -3})
    return Symmetry(
        LAYOUT, (LinearSymmetry("s", stream, of_stream), LinearSymmetry("w", inner, of_inner), rotary, heads)
    )


def element(of: Symmetry, seed: int) -> SymmetryElement:
    return SymmetryElement.random(of, generator=torch.Generator().manual_seed(seed))


def tensors(seed: int, *lead: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {n: torch.randn((*lead, *LAYOUT.shape(n)), generator=g, dtype=torch.float64) for n in LAYOUT.axes}


def expect_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("inner", KINDS)
@pytest.mark.parametrize("stream", KINDS)
def test_action_is_that_of_dense_matrices(stream: Kind, inner: Kind) -> None:
    e = element(symmetry(stream, inner), 1)
    x = tensors(2, 2)
    moved = e.apply(x)
    for name, tensor in x.items():
        wanted = tensor.reshape(2, -1).numpy() @ operator(e, name).T
        np.testing.assert_allclose(moved[name].reshape(2, -1).numpy(), wanted, rtol=1e-10, atol=1e-10)


SEEDS = st.integers(0, 2**31)
OF_KINDS = st.builds(symmetry, st.sampled_from(KINDS), st.sampled_from(KINDS))


@given(OF_KINDS, SEEDS, SEEDS, SEEDS)
@settings(max_examples=40, deadline=None)
def test_group_laws(of: Symmetry, a: int, b: int, seed: int) -> None:
    e, f, x = element(of, a), element(of, b), tensors(seed)
    expect_close(e.compose(f).apply(x), f.apply(e.apply(x)))
    expect_close(e.inverse().apply(e.apply(x)), x)
    assert e.compose(e.inverse()).is_identity
    assert e.inverse().compose(e) == SymmetryElement.identity(of)
    assert e.compose(f).inverse() == f.inverse().compose(e.inverse())
    assert e.compose(SymmetryElement.identity(of)) == e


@given(OF_KINDS, SEEDS, SEEDS, SEEDS)
@settings(max_examples=20, deadline=None)
def test_permutations_are_elements_among_them(of: Symmetry, a: int, b: int, seed: int) -> None:
    e, x = element(of, a), tensors(seed)
    p = Permutation.random(of.permutations, generator=torch.Generator().manual_seed(b))
    first, last = p.compose(e), e.compose(p)
    assert isinstance(first, GroupElement)
    expect_close(first.apply(x), e.apply(p.apply(x)))
    expect_close(last.apply(x), p.apply(e.apply(x)))
    lifted = SymmetryElement(of, p, [None] * len(of.linear))
    assert lifted == p
    assert p == lifted
    assert hash(p) == hash(lifted)
    assert lifted.distances == {**dict.fromkeys(of.unpermuted, 0.0), **p.distances}
    assert lifted.is_identity == p.is_identity


@pytest.mark.parametrize("kind", KINDS)
def test_distance_is_that_of_matrices_and_equal_for_the_inverse(kind: Kind) -> None:
    e = element(symmetry(kind, kind), 3)
    index = e.permutation.indices
    values = [value.numpy() for value in e.maps if value is not None]
    stream = np.eye(4)[index["s"]] if kind is not Kind.ROTATION else np.eye(4)
    inner_index, heads = index.get("w"), index["h"]
    expected = {}
    m = stream @ matrix_of(kind, values[0], 1)
    expected["s"] = [m]
    expected["w"] = [
        (np.eye(2)[inner_index[h]] if inner_index is not None else np.eye(2))
        @ matrix_of(kind, values[1][heads[h] if inner_index is not None else h], 1)
        for h in range(3)
    ]
    for group, blocks in expected.items():
        n = len(blocks[0])
        squares = sum(((m - np.eye(n)) ** 2).sum() + ((np.linalg.inv(m).T - np.eye(n)) ** 2).sum() for m in blocks)
        assert e.distances[group] == pytest.approx(np.sqrt(squares / 2), rel=1e-9)
    assert e.inverse().distances == pytest.approx(e.distances, rel=1e-9)
    assert e.distance == pytest.approx(np.linalg.norm(list(e.distances.values())))
    assert SymmetryElement.identity(e.symmetry).distance == 0


def test_elements_of_other_linear_symmetries_of_one_layout_are_composed() -> None:
    """Two matchers can find elements of different subgroups."""
    whole = symmetry(Kind.ORTHOGONAL, Kind.INVERTIBLE)
    parts = [Symmetry(LAYOUT, whole.linear[:3], whole.unpermuted), Symmetry(LAYOUT, whole.linear[1:], whole.unpermuted)]
    e, f = (element(part, seed) for seed, part in enumerate(parts))
    x = tensors(1)
    both = e.compose(f)
    expect_close(both.apply(x), f.apply(e.apply(x)))
    assert both.symmetry.dimension == whole.dimension
    assert f.inverse().compose(e.inverse()) == both.inverse()
    assert both.compose(f.inverse()) == e
    assert e != f


def test_a_matrix_that_undoes_the_permutation_is_the_identity() -> None:
    """A permutation is an orthogonal map, too: the same element has several pairs of map and permutation."""
    layout = Layout({"s": Group("s", 3)}, {"in": (Atom(3, "s"),), "out": (Atom(3, "s"),), "norm": (Atom(3, "s"),)})
    degrees = {Slot("in", 0): 1, Slot("out", 0): -1}
    p = Permutation(layout, {"s": torch.tensor([1, 2, 0])})
    undo = torch.eye(3, dtype=torch.float64)[p.indices["s"]].T
    whole = Symmetry(layout, (LinearSymmetry("s", Kind.ORTHOGONAL, degrees, ones=("norm",)),))
    e = SymmetryElement(whole, p, [undo])
    assert e.is_identity
    assert e.distance == pytest.approx(0)
    # If the group also acts on a tensor that the matrix does not transform, the permutation remains there.
    partial = Symmetry(layout, (LinearSymmetry("s", Kind.ORTHOGONAL, degrees),))
    assert not SymmetryElement(partial, p, [undo]).is_identity


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_results_have_the_dtype_of_the_tensor_and_are_rounded_once(dtype: torch.dtype) -> None:
    e = element(symmetry(Kind.ORTHOGONAL, Kind.INVERTIBLE), 1)
    x = {name: tensor.to(dtype) for name, tensor in tensors(2).items()}
    moved, exact = e.apply(x), e.apply({name: tensor.double() for name, tensor in x.items()})
    assert all(tensor.dtype == dtype for tensor in moved.values())
    assert all(torch.equal(tensor, exact[name].to(dtype)) for name, tensor in moved.items())


def test_complex_and_integer_tensors() -> None:
    e = element(symmetry(Kind.ORTHOGONAL, Kind.SIGN), 1)
    real, imag = tensors(1)["square"], tensors(2)["square"]
    moved = e.apply({"square": torch.complex(real, imag)})["square"]
    expect_close(
        {"square": moved.real, "i": moved.imag}, {**e.apply({"square": real}), "i": e.apply({"square": imag})["square"]}
    )
    whole = {"count": torch.tensor(3), "square": torch.ones(4, 4, dtype=torch.int64)}
    with pytest.raises(InvalidInputError, match=r"`square`: .*torch.int64, which maps of kind orthogonal of group 's'"):
        e.apply(whole)
    only_heads = SymmetryElement(e.symmetry, e.permutation, [None, None, None, e.maps[3]])
    assert torch.equal(only_heads.apply(whole)["square"], whole["square"])


def test_two_families_of_factors_at_one_slot() -> None:
    """Such as a scale after a batch normalization, which a sign may precede."""
    slot, only_first = Slot("square", 0), Slot("bias", 0)
    of = Symmetry(
        LAYOUT,
        (
            LinearSymmetry("s", Kind.SIGN, {slot: 1, only_first: 1}),
            LinearSymmetry("s", Kind.POSITIVE, {slot: 2}),
        ),
    )
    e = element(of, 3)
    sign, positive = e.maps
    assert sign is not None
    assert positive is not None
    x = {"square": tensors(1)["square"], "bias": tensors(1)["bias"]}
    scaled = SymmetryElement(of, Permutation.identity(LAYOUT), e.maps).apply(x)
    expect_close(scaled, {"square": (sign * positive**2)[:, None] * x["square"], "bias": sign * x["bias"]})


def test_results_share_no_memory_and_inputs_do_not_change() -> None:
    of = symmetry(Kind.SIGN, Kind.SIGN)
    x = tensors(1)
    before = copy.deepcopy(x)
    for e in (element(of, 1), SymmetryElement.identity(of)):
        for tensor in e.apply(x).values():
            tensor.zero_()
    expect_close(x, before)


@pytest.mark.parametrize("kind", KINDS)
def test_files_and_copies(kind: Kind, tmp_path: Path) -> None:
    e = element(symmetry(kind, kind), 5)
    e.save(tmp_path / "element.safetensors", meta={"matcher": "test"})
    back = load_element(tmp_path / "element.safetensors", e.layout)
    assert isinstance(back, SymmetryElement)
    assert back == e
    # The file has the maps bit by bit.
    assert all(torch.equal(a, b) for a, b in zip(back.maps, e.maps, strict=True) if a is not None and b is not None)
    assert pickle.loads(pickle.dumps(e)) == copy.deepcopy(e) == e.to("cpu") == e
    other = Layout({"x": Group("x", 2)}, {"bias": (Atom(2, "x"),)})
    with pytest.raises(FileFormatError, match="the element belongs to another specification"):
        load_element(tmp_path / "element.safetensors", other)


def test_files_of_permutations_are_elements(tmp_path: Path) -> None:
    p = Permutation.random(LAYOUT, generator=torch.Generator().manual_seed(0))
    p.save(tmp_path / "p.safetensors")
    assert load_element(tmp_path / "p.safetensors") == p
    with pytest.raises(FileFormatError, match="'symmetry'"):
        SymmetryElement.load(tmp_path / "p.safetensors")


def test_damaged_files_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    e = element(symmetry(Kind.ORTHOGONAL, Kind.SIGN), 5)
    e.save(path)
    stored, document = read_tensors(path, kind="symmetry")
    for change, match in (
        ({"map/0": 2 * stored["map/0"]}, "orthogonal matrices"),
        ({"map/1": stored["map/1"][0]}, "of shape"),
        ({"permutation/s": stored["permutation/w"]}, "expected integers of shape"),
    ):
        write_tensors(path, {**stored, **change}, kind="symmetry", document=document)
        with pytest.raises(FileFormatError, match=match):
            load_element(path)
    write_tensors(path, stored, kind="symmetry", document={})
    with pytest.raises(FileFormatError, match="expected a symmetry"):
        load_element(path)


def one(kind: Kind, n: int = 2) -> Symmetry:
    layout = Layout({"s": Group("s", n)}, {"bias": (Atom(n, "s"),)})
    return Symmetry(layout, (LinearSymmetry("s", kind, {Slot("bias", 0): 1}),))


@pytest.mark.parametrize(
    ("kind", "value", "match"),
    [
        (Kind.SIGN, [1.0, -0.5], "factors 1 or -1, got values from -0.5 to 1"),
        (Kind.POSITIVE, [1.0, 0.0], "positive factors"),
        (Kind.NONZERO, [1.0, 0.0], "nonzero factors"),
        (Kind.ROTATION, [[0.0, 0.0]], "nonzero complex factors"),
        (Kind.ORTHOGONAL, [[1.0, 0.0], [0.1, 1.0]], "orthogonal matrices, got one with an error of 0.1"),
        (Kind.ORTHOGONAL_FIXING_ONES, [[1.0, 0.0], [0.0, -1.0]], "`g @ 1 = 1`, got an error of 2"),
        (Kind.INVERTIBLE, [[1.0, 1.0], [1.0, 1.0]], "a condition number of at most 1e.12, got inf"),
        (Kind.INVERTIBLE, [[1.0, 0.0], [0.0, 1e-13]], "a condition number of at most 1e.12, got 1e.13"),
        (Kind.POSITIVE, [1.0, float("nan")], "finite entries"),
        (Kind.POSITIVE, [1.0, 1.0, 1.0], r"of shape \(2,\), got torch.float64 of \(3,\)"),
        (Kind.ORTHOGONAL, [1.0, 1.0], r"of shape \(2, 2\)"),
    ],
)
def test_maps_of_another_kind_are_rejected(kind: Kind, value: list[float], match: str) -> None:
    of = one(kind)
    with pytest.raises(InvalidInputError, match=match):
        SymmetryElement(of, Permutation.identity(of.permutations), [torch.tensor(value, dtype=torch.float64)])


def test_other_misuse() -> None:
    of = one(Kind.SIGN)
    identity = Permutation.identity(of.permutations)
    with pytest.raises(InvalidInputError, match="expected 1 maps, one per linear symmetry, got 0"):
        SymmetryElement(of, identity, [])
    with pytest.raises(InvalidInputError, match=r"got torch\.int64"):
        SymmetryElement(of, identity, [torch.ones(2, dtype=torch.int64)])
    with pytest.raises(InvalidInputError, match="as a tensor, or None"):
        SymmetryElement(of, identity, [1.0])  # type: ignore[list-item]
    with pytest.raises(InvalidInputError, match="the permutation belongs to another specification"):
        SymmetryElement(of, Permutation.identity(LAYOUT), [None])
    with pytest.raises(InvalidInputError, match="a `Symmetry`"):
        SymmetryElement(LAYOUT, identity, [None])  # type: ignore[arg-type]
    flip = SymmetryElement(of, identity, [torch.tensor([1.0, -1.0])])
    with pytest.raises(InvalidInputError, match=r"cannot be composed: .*expected at most one family of maps at a slot"):
        flip.compose(element(one(Kind.ORTHOGONAL), 1))
    assert flip != element(one(Kind.ORTHOGONAL), 1)
    with pytest.raises(InvalidInputError, match="belongs to another specification"):
        flip.compose(element(one(Kind.ROTATION), 1))
    wider = Layout({"s": Group("s", 2), "t": Group("t", 2)}, {"bias": (Atom(2, "s"),), "other": (Atom(2, "t"),)})
    fixed = Symmetry(wider, (LinearSymmetry("t", Kind.SIGN, {Slot("other", 0): 1}),), frozenset({"t"}))
    narrow = Symmetry(fixed.permutations, (LinearSymmetry("s", Kind.SIGN, {Slot("bias", 0): 1}),))
    signs = [
        SymmetryElement(each, Permutation.identity(each.permutations), [torch.tensor([1.0, -1.0])])
        for each in (fixed, narrow)
    ]
    with pytest.raises(InvalidInputError, match="the same groups, axes and permutations"):
        signs[0].compose(signs[1])
    with pytest.raises(InvalidInputError, match="nonnegative, finite `log_stddev`"):
        SymmetryElement.random(of, generator=torch.Generator(), log_stddev=-1)
    with pytest.raises(InvalidInputError, match="belongs to another specification"):
        element(of, 1).compose(element(symmetry(Kind.SIGN, Kind.SIGN), 1))


def test_tensors_that_must_be_one() -> None:
    layout = Layout({"s": Group("s", 2)}, {"w": (Atom(2, "s"),), "norm": (Atom(2, "s"),)})
    of = Symmetry(layout, (LinearSymmetry("s", Kind.ORTHOGONAL, {Slot("w", 0): 1}, ones=("norm",)),))
    e, x = element(of, 1), {"w": torch.ones(2), "norm": torch.tensor([1.0, 1.5])}
    with pytest.raises(InvalidInputError, match="`norm` must be one in all entries for maps of kind orthogonal"):
        e.apply(x)
    assert torch.equal(e.apply({**x, "norm": torch.ones(2)})["norm"], torch.ones(2))
    only_permutation = SymmetryElement(of, e.permutation, [None])
    assert only_permutation.apply(x)["norm"].tolist() == e.permutation.apply(x)["norm"].tolist()
    assert torch.equal(e.apply_to_deviations(x)["norm"], only_permutation.apply(x)["norm"])


def test_one_unit() -> None:
    for kind in KINDS:
        if kind is not Kind.ROTATION:
            of = one(kind, 1)
            e = element(of, 0)
            assert e.compose(e.inverse()).is_identity


def test_description() -> None:
    of = one(Kind.POSITIVE)
    e = SymmetryElement(of, Permutation.identity(of.permutations), [torch.tensor([2.0, 1.0])])
    # The map changes one factor by 1, its inverse by 1/2: the root mean square of 1 and 1/2.
    assert repr(e) == "SymmetryElement(distances from the identity: s: positive and permutation at 0.791)"
    assert not e.is_identity
