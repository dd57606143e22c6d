"""Canonical forms modulo every kind of symmetry: equal for equivalent networks, and with the documented properties."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.analysis import canonical_form
from rebasin_core.errors import ConvergenceWarning, InvalidInputError
from rebasin_core.symmetry import Kind, LinearSymmetry, Slot, Symmetry
from tests.analysis.folding.networks import MODELS, example
from tests.specs.kinds.maps import random_values
from tests.specs.kinds.rotary_networks import Attention
from tests.specs.kinds.test_larger import CASES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def of_cases(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    build, inputs, _ = CASES[name]
    return build().double().eval(), inputs()


def of_rotary(form: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Attention(form).double().eval(), torch.randn(2, 4, 3, dtype=torch.float64)


def require_law(model: nn.Module, inputs: Tensor, spec: rc.PermutationSpec, symmetry: Symmetry, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = random_values(model, symmetry, generator)
    element = rc.SymmetryElement.random(symmetry, generator=generator)
    form = canonical_form(values, spec, symmetry)
    other = canonical_form(element.apply(values), spec, symmetry)
    for name, tensor in form.tensors.items():
        torch.testing.assert_close(other.tensors[name], tensor, rtol=1e-5, atol=1e-5, msg=name)
    expected = torch.func.functional_call(model, values, (inputs,))
    found = torch.func.functional_call(model, dict(form.tensors), (inputs,))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    again = canonical_form(form.tensors, spec, symmetry)
    for name, tensor in form.tensors.items():
        torch.testing.assert_close(again.tensors[name], tensor, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("name", sorted(CASES.keys() - {"linear"}))
def test_equivalent_networks_have_the_same_form(name: str, *, folded: bool) -> None:
    model, inputs = of_cases(name)
    spec = rc.trace_spec(model, inputs)
    for seed in range(3):
        require_law(model, inputs, spec, spec.folded_symmetry if folded else spec.symmetry, seed)


@pytest.mark.parametrize("form", ["rotated_halves", "partial", "interleaved"])
def test_equivalent_rotary_attentions_have_the_same_form(form: str) -> None:
    model, inputs = of_rotary(form)
    spec = rc.trace_spec(model, inputs)
    for seed in range(3):
        require_law(model, inputs, spec, spec.symmetry, seed)


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"tied gpt"}))
def test_equivalent_transformers_have_the_same_form(name: str) -> None:
    given = example(name)
    require_law(given.model, given.inputs, given.spec, given.spec.folded_symmetry, 0)


def test_equivalent_logistic_networks_have_the_same_form() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Sigmoid(), nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 2)).double()
    inputs = torch.randn(4, 3, dtype=torch.float64)
    spec = rc.trace_spec(model, inputs)
    for seed in range(3):
        require_law(model, inputs, spec, spec.symmetry, seed)
    values = random_values(model, spec.symmetry, torch.Generator().manual_seed(0))
    form = canonical_form(values, spec, spec.symmetry)
    assert bool((form.tensors["0.bias"] > 0).all())
    # In centered coordinates, biases after the first layer contain half of the weights before them.
    assert bool((form.tensors["2.bias"] + form.tensors["2.weight"].sum(1) / 2 > 0).all())


def test_networks_that_are_not_equivalent_have_different_forms() -> None:
    """A control: permutations alone do not remove the maps, and the form is not constant."""
    model, inputs = of_cases("block")
    spec = rc.trace_spec(model, inputs)
    generator = torch.Generator().manual_seed(0)
    values = random_values(model, spec.folded_symmetry, generator)
    other = rc.SymmetryElement.random(spec.folded_symmetry, generator=generator).apply(values)

    def differ(first: Mapping[str, Tensor], second: Mapping[str, Tensor], symmetry: Symmetry | tuple[()]) -> bool:
        forms = [canonical_form(tensors, spec, symmetry).tensors for tensors in (first, second)]
        return any(not torch.allclose(forms[0][name], forms[1][name], atol=1e-3) for name in values)

    assert differ(values, other, ())
    assert not differ(values, other, spec.folded_symmetry)
    changed = {**values, "up.bias": values["up.bias"] + 0.1}
    assert differ(values, changed, spec.folded_symmetry)


def test_invertible_maps_balance_and_diagonalize_the_gram_matrices() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {"in": torch.randn(3, 6, generator=generator), "out": torch.randn(5, 3, generator=generator)}
    tensors = {name: tensor.double() for name, tensor in tensors.items()}
    spec = rc.table_spec({"in": "units, -", "out": "-, units"}, tensors)
    linear = LinearSymmetry("units", Kind.INVERTIBLE, {Slot("in", 0): 1, Slot("out", 1): -1})
    found = canonical_form(tensors, spec, [linear]).tensors
    gram = found["in"] @ found["in"].T
    torch.testing.assert_close(found["out"].T @ found["out"], gram, rtol=1e-5, atol=1e-5)
    # The singular values of the product of both matrices are the eigenvalues of each Gram matrix.
    singular = torch.linalg.svdvals(tensors["out"] @ tensors["in"])[:3]
    torch.testing.assert_close(gram, torch.diag(singular), rtol=1e-5, atol=1e-5)
    assert bool((found["in"].sum(1) > 0).all())


def test_orthogonal_maps_sort_the_singular_values_of_all_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {"in": torch.randn(4, 6, generator=generator), "out": torch.randn(5, 4, generator=generator)}
    spec = rc.table_spec({"in": "units, -", "out": "-, units"}, tensors)
    for kind in (Kind.ORTHOGONAL, Kind.ORTHOGONAL_FIXING_ONES):
        linear = LinearSymmetry("units", kind, {Slot("in", 0): 1, Slot("out", 1): -1})
        form = canonical_form(tensors, spec, Symmetry(spec.layout, (linear,)))
        whole = torch.cat([form.tensors["in"], form.tensors["out"].T], 1)
        torch.testing.assert_close(whole.norm(), torch.cat([tensors["in"], tensors["out"].T], 1).norm())
        (matrix,) = form.element.maps
        assert matrix is not None
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(4, dtype=torch.float64))
        if kind is Kind.ORTHOGONAL:
            gram = whole @ whole.T
            torch.testing.assert_close(gram, torch.diag(gram.diagonal()), rtol=1e-4, atol=1e-4)
            assert bool((gram.diagonal().diff() < 0).all())
        else:
            torch.testing.assert_close(matrix.sum(1), torch.ones(4, dtype=torch.float64))


def test_several_families_of_signs_of_one_group_are_all_determined() -> None:
    tensors = {name: torch.randn(3, 2, generator=torch.Generator().manual_seed(k)) for k, name in enumerate("abc")}
    spec = rc.table_spec(dict.fromkeys("abc", "units, -"), tensors)
    families = (
        LinearSymmetry("units", Kind.SIGN, {Slot("a", 0): 1, Slot("b", 0): 1}),
        LinearSymmetry("units", Kind.SIGN, {Slot("a", 0): 1, Slot("c", 0): 1}),
    )
    symmetry = Symmetry(spec.layout, families)
    generator = torch.Generator().manual_seed(5)
    base = canonical_form(tensors, spec, symmetry).tensors
    for _ in range(8):
        element = rc.SymmetryElement.random(symmetry, generator=generator)
        found = canonical_form(element.apply(tensors), spec, symmetry).tensors
        assert all(torch.equal(found[name], base[name]) for name in "abc")
    assert sum(bool((base[name].sum(1) > 0).all()) for name in "abc") >= 2


def test_units_without_a_bias_or_with_zero_biases_have_determined_signs() -> None:
    tensors = {"in": torch.tensor([[1.0, -2.0], [0.5, 1.0]]), "bias": torch.zeros(2), "out": torch.ones(1, 2)}
    spec = rc.table_spec({"in": "units, -", "bias": "units", "out": "-, units"}, tensors)
    linear = LinearSymmetry("units", Kind.SIGN, {Slot("in", 0): 1, Slot("bias", 0): 1, Slot("out", 1): 1})
    found = canonical_form(tensors, spec, [linear]).tensors
    assert found["in"].tolist() == [[-1.0, 2.0], [0.5, 1.0]]
    assert found["out"].tolist() == [[-1.0, 1.0]]


def test_inner_and_outer_units_are_sorted_by_norm() -> None:
    tensors = {"in": torch.tensor([[1.0], [2.0], [4.0], [3.0]])}
    heads, width = rc.symmetry.Atom(2, "heads"), rc.symmetry.Atom(2, "width")
    groups = {"heads": rc.Group("heads", 2), "width": rc.Group("width", 2, "heads")}
    layout = rc.Layout(groups, {"in": (rc.symmetry.product(heads, width), rc.symmetry.Atom(1))})
    found = canonical_form(tensors, rc.specs.files.GivenSpec(layout)).tensors
    assert found["in"].flatten().tolist() == [4.0, 3.0, 2.0, 1.0]


def test_weights_without_full_rank_give_a_warning() -> None:
    model, inputs = of_cases("linear")  # five units before two outputs
    spec = rc.trace_spec(model, inputs)
    tensors = {name: p.detach() for name, p in model.named_parameters()}
    with pytest.warns(ConvergenceWarning, match=r"weights of group 'units\.0' do not have full rank"):
        form = canonical_form(tensors, spec, spec.symmetry)
    found = torch.func.functional_call(model, dict(form.tensors), (inputs,))
    torch.testing.assert_close(found, model(inputs), rtol=1e-6, atol=1e-6)


def test_scales_of_normalizations_must_be_folded() -> None:
    given = example("llama")
    with pytest.raises(InvalidInputError, match="must be one in all entries for maps of kind orthogonal"):
        canonical_form(given.tensors, given.spec, given.spec.folded_symmetry)
