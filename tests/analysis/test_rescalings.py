"""Canonical forms modulo the scales and signs that `find_rescalings` finds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.errors import ConvergenceWarning
from rebasin_core.symmetry import Atom, Kind, LinearSymmetry, Slot, Symmetry, product


def small(activation: str, *, norm: bool = False) -> tuple[nn.Module, rc.PermutationSpec, torch.Tensor]:
    acts = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(6)] if norm else []
    model = nn.Sequential(
        nn.Linear(4, 6), *middle, acts[activation](), nn.Linear(6, 5), acts[activation](), nn.Linear(5, 3)
    ).double()
    inputs = torch.randn(7, 4, generator=torch.Generator().manual_seed(1)).double()
    return model, rc.trace_spec(model, inputs), inputs


@pytest.mark.parametrize(("activation", "kinds"), [("relu", ["positive"] * 2), ("tanh", ["sign"] * 2), ("gelu", [])])
def test_scale_and_sign_symmetries_are_found(activation: str, kinds: list[str]) -> None:
    model, spec, inputs = small(activation)
    found = rc.specs.find_rescalings(spec, model, inputs)
    assert [r.kind for r in found] == kinds
    if kinds == ["positive"] * 2:
        assert found[0].degrees == {Slot("0.weight", 0): 1, Slot("0.bias", 0): 1, Slot("2.weight", 1): -1}


def test_scale_symmetries_of_convolutions_and_flattened_axes_are_found() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)).double()
    inputs = torch.randn(3, 1, 6, 6).double()
    (found,) = rc.specs.find_rescalings(rc.trace_spec(model, inputs), model, inputs)
    assert found.degrees == {Slot("0.weight", 0): 1, Slot("0.bias", 0): 1, Slot("4.weight", 1): -1}


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_equivalent_networks_have_the_same_canonical_form(activation: str) -> None:
    model, spec, inputs = small(activation)
    rescalings = rc.specs.find_rescalings(spec, model, inputs)
    generator = torch.Generator().manual_seed(4)
    tensors = {name: p.detach() for name, p in model.named_parameters()}
    element = rc.SymmetryElement.random(Symmetry(spec.layout, rescalings), generator=generator)
    other = element.apply(tensors)
    forms = [rc.analysis.canonical_form(t, spec, rescalings) for t in (tensors, other)]
    # The elements of the two forms differ by the element between the networks.
    assert forms[1].element == element.inverse().compose(forms[0].element)
    for form, own in zip(forms, (tensors, other), strict=True):
        assert all(torch.equal(form.element.apply(own)[name], tensor) for name, tensor in form.tensors.items())
    for name, tensor in forms[0].tensors.items():
        torch.testing.assert_close(forms[1].tensors[name], tensor, rtol=1e-6, atol=1e-9)
    before = model(inputs)
    after = torch.func.functional_call(model, dict(forms[0].tensors), (inputs,))
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)
    assert sum(t.square().sum() for t in forms[0].tensors.values()) <= sum(t.square().sum() for t in tensors.values())


@pytest.mark.parametrize("kind", [Kind.POSITIVE, Kind.NONZERO])
def test_canonical_forms_with_nested_groups_and_degrees_of_several_sizes(kind: Kind) -> None:
    heads, width = Atom(2, "h"), Atom(1, "w")
    axes = {"in": (product(heads, width),), "two": (heads, width), "out": (heads, width)}
    spec = rc.specs.files.GivenSpec(rc.Layout({"h": rc.Group("h", 2), "w": rc.Group("w", 1, "h")}, axes))
    slots = {Slot("in", 0, 1): 1, Slot("out", 1): -1}
    tensors = {"in": torch.tensor([2.0, -2.0]), "two": torch.ones(2, 1), "out": torch.full((2, 1), 8.0)}

    def squares(of: dict[Slot, int]) -> tuple[torch.Tensor, ...]:
        form = rc.analysis.canonical_form(tensors, spec, [LinearSymmetry("w", kind, of)])
        assert bool((form.tensors["in"] > 0).all()) == (kind is Kind.NONZERO)
        return tuple(form.tensors[name].flatten().square().double() for name in ("in", "two", "out"))

    first, _, last = squares(slots)  # the minimum of 4 f^2 + 64 f^-2 has equal terms
    torch.testing.assert_close(first, torch.full((2,), 16.0).double())
    torch.testing.assert_close(last, first)
    first, two, last = squares({**slots, Slot("two", 1): 2})  # a minimum of 4 f^2 + f^4 + 64 f^-2 is stationary
    torch.testing.assert_close(2 * first + 4 * two, 2 * last)
    first, two, last = squares({Slot("in", 0, 1): 1, Slot("two", 1): 2})  # without compensation, the sum is 1
    torch.testing.assert_close(first + two, torch.ones(2).double())


def test_an_unconverged_canonical_form_gives_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rc.analysis.balance, "_MAX_SWEEPS", 1)
    model, spec, inputs = small("relu")
    rescalings = rc.specs.find_rescalings(spec, model, inputs)
    tensors = {name: p.detach() for name, p in model.named_parameters()}
    with pytest.warns(
        ConvergenceWarning, match="still changed by a factor of .* after 1 sweeps: the form is approximate"
    ):
        rc.analysis.canonical_form(tensors, spec, rescalings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_canonical_forms_converge_in_low_precision(dtype: torch.dtype) -> None:
    model, spec, inputs = small("relu")
    rescalings = rc.specs.find_rescalings(spec, model, inputs)
    tensors = {name: p.detach().to(dtype) for name, p in model.named_parameters()}
    found = rc.analysis.canonical_form(tensors, spec, rescalings)  # a warning would be an error
    assert all(bool(torch.isfinite(tensor).all()) for tensor in found.tensors.values())
