"""Flips of units that are an odd function plus a constant."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from rebasin_core import Group, Layout, Permutation
from rebasin_core.errors import FileFormatError, InvalidInputError, SpecError
from rebasin_core.symmetry import (
    Atom,
    Kind,
    LinearSymmetry,
    Shift,
    Slot,
    Symmetry,
    SymmetryElement,
    load_element,
    recentered,
)

A, B = Atom(4, "a"), Atom(5, "b")
LAYOUT = Layout(
    {"a": Group("a", 4), "b": Group("b", 5)},
    {
        "0.weight": (A, Atom(3)),
        "0.bias": (A,),
        "2.weight": (B, A),
        "2.bias": (B,),
        "4.weight": (Atom(2), B),
        "4.bias": (Atom(2),),
    },
)


def flips(group: str, layer: int, constant: float = 1.0) -> LinearSymmetry:
    """Return the flips of the units between a layer and the next."""
    after = f"{layer + 2}.weight"
    degrees = {Slot(f"{layer}.weight", 0): 1, Slot(f"{layer}.bias", 0): 1, Slot(after, 1): 1}
    return LinearSymmetry(group, Kind.FLIP, degrees, shifts=(Shift(after, 0, f"{layer + 2}.bias", constant),))


SYMMETRY = Symmetry(LAYOUT, (flips("a", 0), flips("b", 2)))


def element(seed: int, of: Symmetry = SYMMETRY) -> SymmetryElement:
    return SymmetryElement.random(of, generator=torch.Generator().manual_seed(seed))


def tensors(seed: int, *lead: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {n: torch.randn((*lead, *LAYOUT.shape(n)), generator=g, dtype=torch.float64) for n in LAYOUT.axes}


def logistic() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 2)).double()


def by_hand(given: dict[str, Tensor], e: SymmetryElement) -> dict[str, npt.NDArray[np.float64]]:
    """Flip single units by s(-u) = 1 - s(u), then permute."""
    found = {name: tensor.numpy().copy() for name, tensor in given.items()}
    for layer, value in zip((0, 2), e.maps, strict=True):
        for unit in [] if value is None else np.flatnonzero(value.numpy() < 0):
            found[f"{layer}.weight"][unit] *= -1
            found[f"{layer}.bias"][unit] *= -1
            found[f"{layer + 2}.bias"] += found[f"{layer + 2}.weight"][:, unit]
            found[f"{layer + 2}.weight"][:, unit] *= -1
    p = e.permutation.indices["a"].numpy()
    q = e.permutation.indices["b"].numpy()
    found["0.weight"], found["0.bias"] = found["0.weight"][p], found["0.bias"][p]
    found["2.weight"], found["2.bias"] = found["2.weight"][q][:, p], found["2.bias"][q]
    found["4.weight"] = found["4.weight"][:, q]
    return found


def expect_close(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_units_are_flipped_sequentially(seed: int) -> None:
    x, e = tensors(seed), element(seed)
    wanted = by_hand(x, e)
    for name, tensor in e.apply(x).items():
        np.testing.assert_allclose(tensor.numpy(), wanted[name], rtol=1e-12, atol=1e-12)


def test_the_function_of_a_network_and_of_a_module_is_kept() -> None:
    model, inputs, e = logistic(), torch.randn(7, 3, dtype=torch.float64), element(1)
    assert not torch.allclose(model(inputs), 0 * model(inputs))
    moved = e.apply(model)
    torch.testing.assert_close(moved(inputs), model(inputs), rtol=1e-12, atol=1e-12)
    expect_close(dict(moved.state_dict()), e.apply(dict(model.state_dict())))
    # Signs without the shift change the function.
    signs = recentered(e, SYMMETRY.centered).apply(model)
    assert (signs(inputs) - model(inputs)).abs().max() > 1e-3


def test_group_laws() -> None:
    e, f, x = element(1), element(2), tensors(0, 2)
    expect_close(e.compose(f).apply(x), f.apply(e.apply(x)))
    expect_close(e.inverse().apply(e.apply(x)), x)
    assert e.compose(e.inverse()).is_identity
    assert e.compose(f).inverse() == f.inverse().compose(e.inverse())
    p = Permutation.random(LAYOUT, generator=torch.Generator().manual_seed(3))
    expect_close(p.compose(e).apply(x), e.apply(p.apply(x)))
    expect_close(e.compose(p).apply(x), p.apply(e.apply(x)))


def test_flips_of_one_layer_are_among_those_of_all() -> None:
    alone, x = Symmetry(LAYOUT, (flips("b", 2),)), tensors(0)
    e, f = element(1), element(2, alone)
    expect_close(e.compose(f).apply(x), f.apply(e.apply(x)))
    assert e.compose(f).symmetry.fingerprint == SYMMETRY.fingerprint


def test_distances_count_flips_twice_as_signs_do() -> None:
    value = torch.tensor([1.0, -1.0, -1.0, 1.0]).double()
    e = SymmetryElement(SYMMETRY, Permutation.identity(LAYOUT), [value, None])
    assert e.distances == {"a": 2 * 2**0.5, "b": 0.0}
    assert e.inverse().distance == e.distance
    assert "a: flip and permutation at 2.83" in repr(e)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_dtypes_are_kept_and_weights_are_not_rounded(dtype: torch.dtype, rounding: float) -> None:
    x, e = tensors(0), element(1)
    low = {name: tensor.to(dtype) for name, tensor in x.items()}
    moved, exact = e.apply(low), e.apply({name: tensor.double() for name, tensor in low.items()})
    for name, tensor in moved.items():
        assert tensor.dtype is dtype
        if name in {"2.bias", "4.bias"}:
            assert (tensor.double() - exact[name]).abs().max() <= rounding * exact[name].abs().max()
        else:
            assert torch.equal(tensor.double(), exact[name])
        assert tensor.data_ptr() != low[name].data_ptr()


def test_tensors_without_the_weight_that_shifts_a_bias() -> None:
    x, e = tensors(0), element(1)
    with pytest.raises(InvalidInputError, match=r"expected `2.weight` together with `2.bias`"):
        e.apply({"2.bias": x["2.bias"]})
    kept = {name: tensor for name, tensor in x.items() if name.startswith(("0", "2.weight"))}
    expect_close(e.apply(kept), {name: tensor for name, tensor in e.apply(x).items() if name in kept})
    identity = SymmetryElement.identity(SYMMETRY)
    assert torch.equal(identity.apply({"2.bias": x["2.bias"]})["2.bias"], x["2.bias"])


def test_deviations_are_differences_of_transformed_networks() -> None:
    x, y, e = tensors(0), tensors(1), element(1)
    wanted = {name: tensor - e.apply(x)[name] for name, tensor in e.apply(y).items()}
    expect_close(e.apply_to_deviations({name: y[name] - x[name] for name in x}), wanted)


def test_gradients_pass_through_the_shift() -> None:
    x, e = {name: tensor.requires_grad_() for name, tensor in tensors(0).items()}, element(1)
    moved = e.apply(x)
    (gradient,) = torch.autograd.grad(moved["4.bias"].sum(), [x["4.weight"]])
    flipped = e.maps[1]
    assert flipped is not None
    # A flipped unit adds its column once.
    torch.testing.assert_close(gradient, ((1 - flipped) / 2).expand(2, 5))


def test_other_coordinates() -> None:
    e, x = element(1), tensors(0)
    signs = recentered(e, SYMMETRY.centered)
    assert {linear.kind for linear in signs.symmetry.linear} == {Kind.SIGN}
    assert recentered(signs, SYMMETRY) == e
    # The coordinates of tanh units: logistic units are 1/2 plus an odd function.
    coordinates = {
        name: tensor + x[name.replace("bias", "weight")].sum(1) / 2 if name in {"2.bias", "4.bias"} else tensor
        for name, tensor in x.items()
    }
    after = e.apply(x)
    wanted = {
        name: tensor + after[name.replace("bias", "weight")].sum(1) / 2 if name in {"2.bias", "4.bias"} else tensor
        for name, tensor in after.items()
    }
    expect_close(signs.apply(coordinates), wanted)
    with pytest.raises(InvalidInputError, match="in centered coordinates, got"):
        recentered(e, Symmetry(LAYOUT, (flips("a", 0),)))


def test_the_constant_scales_the_shift() -> None:
    twice = Symmetry(LAYOUT, (flips("a", 0, 2.0),))
    value = torch.tensor([-1.0, 1.0, 1.0, 1.0]).double()
    x = tensors(0)
    moved = SymmetryElement(twice, Permutation.identity(LAYOUT), [value]).apply(x)
    torch.testing.assert_close(moved["2.bias"], x["2.bias"] + 2 * x["2.weight"][:, 0])


def test_a_shift_sums_over_positions_of_a_kernel_and_a_transposed_weight() -> None:
    layout = Layout(
        {"a": Group("a", 4)},
        {
            "in": (A,),
            "kernel": (Atom(2), A, Atom(3), Atom(3)),
            "bias": (Atom(2),),
            "mat": (A, Atom(6)),
            "add": (Atom(6),),
        },
    )
    shifts = (Shift("kernel", 0, "bias"), Shift("mat", 1, "add"))
    linear = LinearSymmetry("a", Kind.FLIP, {Slot("in", 0): 1, Slot("kernel", 1): 1, Slot("mat", 0): 1}, shifts=shifts)
    g = torch.Generator().manual_seed(0)
    x = {name: torch.randn(layout.shape(name), generator=g, dtype=torch.float64) for name in layout.axes}
    value = torch.tensor([-1.0, 1.0, -1.0, 1.0]).double()
    moved = SymmetryElement(Symmetry(layout, (linear,)), Permutation.identity(layout), [value]).apply(x)
    torch.testing.assert_close(moved["bias"], x["bias"] + x["kernel"][:, [0, 2]].sum((1, 2, 3)))
    torch.testing.assert_close(moved["add"], x["add"] + x["mat"][[0, 2]].sum(0))


def test_files(tmp_path: Path) -> None:
    e = element(1)
    e.save(tmp_path / "e.safetensors")
    loaded = load_element(tmp_path / "e.safetensors", LAYOUT)
    assert loaded == e
    assert isinstance(loaded, SymmetryElement)
    assert loaded.symmetry.fingerprint == SYMMETRY.fingerprint
    document = json.loads(json.dumps(SYMMETRY.as_json()))
    assert document["linear"][0]["shifts"] == [["2.weight", 0, "2.bias", 1.0, 0.25]]
    assert Symmetry.from_json(document) == SYMMETRY
    assert copy.deepcopy(e) == e


@pytest.mark.parametrize("rows", [[["2.weight", 0, "2.bias"]], "2.bias", [["2.weight", "0", "2.bias", 1.0]]])
def test_damaged_files(rows: object) -> None:
    document = SYMMETRY.as_json()
    document["linear"][0]["shifts"] = rows
    with pytest.raises(FileFormatError, match="expected a linear symmetry as an object"):
        Symmetry.from_json(document)


def test_symmetries_that_contradict_themselves() -> None:
    good = flips("a", 0)
    with pytest.raises(SpecError, match="expected values of `Shift` for the next biases for maps of kind flip"):
        LinearSymmetry("a", Kind.FLIP, good.degrees)
    with pytest.raises(SpecError, match="expected no shifts for maps of kind sign"):
        LinearSymmetry("a", Kind.SIGN, good.degrees, shifts=good.shifts)
    for number in (0.0, float("nan")):
        with pytest.raises(SpecError, match="expected a finite, nonzero constant"):
            Shift("2.weight", 0, "2.bias", number)
        with pytest.raises(SpecError, match="expected a finite, nonzero slope"):
            Shift("2.weight", 0, "2.bias", slope=number)

    def of(*shifts: Shift, degrees: dict[Slot, int] | None = None) -> Symmetry:
        return Symmetry(LAYOUT, (LinearSymmetry("a", Kind.FLIP, degrees or good.degrees, shifts=shifts),))

    with pytest.raises(SpecError, match=r"a shift names the tensor '2.bais'; did you mean"):
        of(Shift("2.weight", 0, "2.bais"))
    with pytest.raises(SpecError, match=r"expected the bias '4.bias' to have one axis, that of dimension 0"):
        of(Shift("2.weight", 0, "4.bias"))
    with pytest.raises(SpecError, match="expected units that flip along another dimension"):
        of(Shift("4.weight", 0, "4.bias"))
    with pytest.raises(SpecError, match=r"expected one shift of the bias '2.bias'"):
        of(Shift("2.weight", 0, "2.bias"), Shift("2.weight", 0, "2.bias", 2.0))
    stacks = Layout({"e": Group("e", 2)}, {"{e}.w": (Atom(2, "e"), Atom(3)), "b": (Atom(3),)})
    shifts = (Shift("{e}.w", 1, "b"),)
    with pytest.raises(SpecError, match="shifts of tensors that belong to a stack are not supported"):
        Symmetry(stacks, (LinearSymmetry("e", Kind.FLIP, {Slot("{e}.w", 0): 1}, shifts=shifts),))
    with pytest.raises(SpecError, match="transformed by maps of kind sign and summed over by flips"):
        Symmetry(LAYOUT, (good, LinearSymmetry("a", Kind.SIGN, {Slot("2.weight", 1): 1, Slot("0.bias", 0): 1})))


def test_counts() -> None:
    assert (SYMMETRY.dimension, SYMMETRY.log2_signs) == (0, 9)
    assert SYMMETRY.centered.shifts == ()
    assert SYMMETRY.shifts == (Shift("2.weight", 0, "2.bias"), Shift("4.weight", 0, "4.bias"))
    with pytest.raises(InvalidInputError, match="expected factors 1 or -1"):
        SymmetryElement(SYMMETRY, Permutation.identity(LAYOUT), [torch.full((4,), 2.0), None])
