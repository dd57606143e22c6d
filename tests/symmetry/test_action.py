"""Tensors of a layout are permuted by few gathers, in blocks if they are large; entry by entry as defined."""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rebasin_core import Group, Layout, Permutation
from rebasin_core.symmetry import action
from rebasin_core.symmetry.action import act, act_on_tensor
from rebasin_core.symmetry.axis import Atom, Axis, Product, concat, product

S, T, H = Atom(4, "s"), Atom(5, "t"), Atom(3, "h")
W, V = Atom(2, "w"), Atom(2, "v")
GROUPS = {"s": Group("s", 4), "t": Group("t", 5), "h": Group("h", 3), "w": Group("w", 2, "h"), "v": Group("v", 2, "h")}
LAYOUT = Layout(
    GROUPS,
    {
        "bias": (S,),
        "weight": (S, T),
        "convolution": (S, T, Atom(3), Atom(3)),
        "three": (S, T, H),
        "first": (S, Atom(6)),
        "last": (Atom(6), S),
        "flat": (T, product(S, Atom(6))),
        "inner": (T, product(Atom(6), S)),
        "two factors": (Atom(2), product(S, T)),
        "fused": (concat(product(H, W), product(H, V), Atom(2)), S),
        "heads": (product(H, W), T),
        "joined": (concat(S, Atom(1), S), concat(T, S)),
        "grouped": (H, S, W),
        "fixed": (Atom(2), Atom(3)),
        "scalar": (),
    },
)
FLAT = [name for name, found in LAYOUT.gathers.items() if found is not None]


def element(seed: int) -> Permutation:
    return Permutation.random(LAYOUT, generator=torch.Generator().manual_seed(seed))


def values(name: str, *lead: int) -> torch.Tensor:
    shape = (*lead, *LAYOUT.shape(name))
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)


def sources(permutation: Permutation, axis: Axis) -> list[int]:
    """Return the old position of every position of an axis, by the definition."""
    groups = permutation.layout.groups

    def paths(part: Axis, order: dict[str, int]) -> list[tuple[int, dict[str, int]]]:
        """Return the old position and the new units of each new position."""
        if isinstance(part, Atom):
            if part.group is None:
                return [(old, order) for old in range(part.size)]
            index = permutation.indices[part.group]
            outer = groups[part.group].within
            row = index if outer is None else index[order[outer]]
            return [(int(row[new]), {**order, part.group: new}) for new in range(part.size)]
        found: list[tuple[int, dict[str, int]]] = [(0, order)]
        if isinstance(part, Product):
            for factor in part.factors:
                found = [(old * factor.size + o, n) for old, new in found for o, n in paths(factor, new)]
            return found
        starts = [0, *itertools.accumulate(each.size for each in part.parts)]
        pairs = zip(starts, part.parts, strict=False)
        return [(start + old, new) for start, each in pairs for old, new in paths(each, order)]

    return [old for old, _ in paths(axis, {})]


def test_only_groups_nested_across_axes_need_more_than_one_gather_for_an_axis() -> None:
    assert set(LAYOUT.axes) - set(FLAT) == {"grouped"}
    for name in FLAT:
        gathers = LAYOUT.gathers[name] or ()
        assert len(gathers) == sum(any(a.group for a in atoms(axis)) for axis in LAYOUT.axes[name])


def atoms(axis: Axis) -> list[Atom]:
    if isinstance(axis, Atom):
        return [axis]
    return [atom for part in (axis.factors if isinstance(axis, Product) else axis.parts) for atom in atoms(part)]


@pytest.mark.parametrize("name", FLAT)
@pytest.mark.parametrize("large", [action._LARGE, -1])
def test_entries_are_permuted_as_defined(name: str, large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(action, "_LARGE", large)
    monkeypatch.setattr(action, "_BLOCK", 700)  # several rows, which do not divide the number of rows
    permutation, axes = element(3), LAYOUT.axes[name]
    for lead in ((), (2,), (3, 2), (0,)):
        tensor = values(name, *lead)
        expected = tensor
        for dim, axis in enumerate(axes, start=len(lead)):
            expected = expected.index_select(dim, torch.tensor(sources(permutation, axis)))
        found = act_on_tensor(permutation, name, tensor)
        assert torch.equal(found, expected)
        assert torch.equal(found, act(LAYOUT, permutation.indices, tensor, axes))
        assert found.numel() == 0 or found.data_ptr() != tensor.data_ptr()


@given(st.integers(0, 2**31), st.sampled_from(list(LAYOUT.axes)), st.sampled_from([1, 100, 1000]))
@settings(max_examples=60, deadline=None)
def test_gathers_equal_the_action_on_cells(seed: int, name: str, block: int) -> None:
    permutation, tensor = element(seed), values(name, 2)
    expected = act(LAYOUT, permutation.indices, tensor, LAYOUT.axes[name])
    assert torch.equal(permutation.apply({name: tensor})[name], expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(action, "_LARGE", -1)
        patch.setattr(action, "_BLOCK", block)
        assert torch.equal(permutation.apply({name: tensor})[name], expected)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.complex64, torch.int64, torch.bool]
)
def test_dtypes_and_strides(dtype: torch.dtype) -> None:
    permutation = element(5)
    tensor = values("convolution", 2).to(dtype)
    expected = act(LAYOUT, permutation.indices, tensor, LAYOUT.axes["convolution"])
    for given_ in (tensor, tensor[0].to(memory_format=torch.channels_last).unsqueeze(0).expand(2, -1, -1, -1, -1)):
        found = act_on_tensor(permutation, "convolution", given_)
        assert found.dtype is dtype
        assert torch.equal(found[0], expected[0])
    transposed = values("weight").to(dtype).T.contiguous().T
    assert torch.equal(
        act_on_tensor(permutation, "weight", transposed),
        act(LAYOUT, permutation.indices, transposed.contiguous(), LAYOUT.axes["weight"]),
    )


def test_large_tensors_are_permuted_in_blocks_and_keep_gradients() -> None:
    n = 1100  # rows of 4.4 kB: blocks of 238 rows, which do not divide 1100
    layout = Layout({"a": Group("a", n), "b": Group("b", n)}, {"w": (Atom(n, "a"), Atom(n, "b"))})
    permutation = Permutation.random(layout, generator=torch.Generator().manual_seed(0))
    tensor = torch.randn(n, n, generator=torch.Generator().manual_seed(1))
    assert tensor.nbytes > action._LARGE
    expected = tensor[permutation.indices["a"]][:, permutation.indices["b"]]
    assert torch.equal(permutation.apply({"w": tensor})["w"], expected)
    leaf = tensor.clone().requires_grad_()
    permuted = permutation.apply({"w": leaf})["w"]
    assert torch.equal(permuted, expected)
    permuted.square().sum().backward()
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, 2 * tensor)


def test_the_index_of_an_axis_is_computed_once_and_copied_with_the_permutation() -> None:
    permutation, axis = element(2), LAYOUT.axes["fused"][0]
    assert permutation.index_of(S) is permutation.indices["s"]
    index = permutation.index_of(axis)
    assert index.tolist() == sources(permutation, axis)
    assert permutation.index_of(concat(product(H, W), product(H, V), Atom(2))) is index
    assert torch.equal(permutation.index_of(Atom(3)), torch.arange(3))
    for copied in (copy.deepcopy(permutation), pickle.loads(pickle.dumps(permutation))):
        assert copied == permutation
        assert torch.equal(copied.index_of(axis), index)
