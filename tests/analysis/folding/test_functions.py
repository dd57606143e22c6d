"""Folding keeps the function, and makes the residual streams of transformers admit rotations."""

from __future__ import annotations

import pytest
import torch

import rebasin_core as rc
from rebasin_core.errors import SpecError
from rebasin_core.symmetry import Kind, SymmetryElement
from tests.analysis.folding.networks import MODELS, example, fold, outputs

# Models whose scales can all be folded, and the kind of their residual stream after that.
ROTATED = {
    "mlp": Kind.ORTHOGONAL_FIXING_ONES,
    "vision": Kind.ORTHOGONAL_FIXING_ONES,
    "gpt": Kind.ORTHOGONAL_FIXING_ONES,
    "gpt without bias": Kind.ORTHOGONAL_FIXING_ONES,
    "llama": Kind.ORTHOGONAL,
}


@pytest.mark.parametrize(
    ("scales", "shifts", "center"), [(True, True, True), (True, False, False), (False, True, True), (True, False, True)]
)
@pytest.mark.parametrize("name", MODELS)
def test_the_function_is_kept(name: str, scales: bool, shifts: bool, center: bool) -> None:  # ruff: ignore[boolean-type-hint-positional-argument] - parameters of the test
    given = example(name)
    folded = fold(given.tensors, given.spec, scales=scales, shifts=shifts, center=center).network
    expected = outputs(given.model, given.tensors, given.inputs)
    found = outputs(given.model, folded, given.inputs)
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize(("name", "kind"), ROTATED.items())
def test_folded_networks_admit_rotations_of_their_residual_stream(name: str, kind: Kind) -> None:
    given = example(name)
    folded = fold(given.tensors, given.spec)
    folded.report.require()
    symmetry = given.spec.symmetry_of(folded.network)
    assert symmetry == given.spec.folded_symmetry
    rotated = {linear.kind for linear in symmetry.linear if linear.ones}
    assert rotated == {kind}
    element = SymmetryElement.random(symmetry, generator=torch.Generator().manual_seed(1))
    expected = outputs(given.model, given.tensors, given.inputs)
    found = outputs(given.model, element.apply(folded.network), given.inputs)
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("name", MODELS)
def test_unfolded_networks_with_random_scales_change_under_these_rotations(name: str) -> None:
    given = example(name)
    symmetry = given.spec.folded_symmetry
    element = SymmetryElement.random(symmetry, generator=torch.Generator().manual_seed(1))
    expected = outputs(given.model, given.tensors, given.inputs)
    # `apply_to_deviations` does not check the scales.
    found = outputs(given.model, element.apply_to_deviations(given.tensors), given.inputs)
    assert (found - expected).abs().max() > 1e-3 * expected.abs().max()


@pytest.mark.parametrize("name", MODELS)
def test_folding_twice_is_folding_once(name: str) -> None:
    given = example(name)
    once = fold(given.tensors, given.spec)
    twice = fold(once.network, given.spec)
    for tensor, expected in zip(twice.network.values(), once.network.values(), strict=True):
        torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-14)


def test_the_values_of_a_folded_mlp() -> None:
    given = example("mlp")
    tensors, folded = given.tensors, fold(given.tensors, given.spec).network
    weight = tensors["2.weight"] * tensors["1.weight"]
    bias = tensors["2.bias"] + tensors["2.weight"] @ tensors["1.bias"]
    # The second normalization subtracts the mean, too; its input is written by this layer.
    centered = weight - weight.mean(1, keepdim=True)
    torch.testing.assert_close(folded["2.weight"], centered - centered.mean(0), rtol=0, atol=1e-14)
    torch.testing.assert_close(folded["2.bias"], bias - bias.mean(), rtol=0, atol=1e-14)
    assert folded["0.weight"].mean(0).abs().max() <= 1e-15
    assert bool((folded["1.weight"] == 1).all())
    assert not folded["1.bias"].any()
    for name in ("3.weight", "3.bias", "5.weight"):  # before and after ReLU
        assert torch.equal(folded[name], tensors[name])


def test_the_parts_are_options() -> None:
    given = example("gpt")
    scales = rc.fold(given.tensors, given.spec).report
    shifts = rc.fold(given.tensors, given.spec, scales=False, shifts=True).report
    means = rc.fold(given.tensors, given.spec, scales=False, center=True).report
    assert [bool(part) for part in (scales.scales, scales.shifts, scales.centered)] == [True, False, False]
    assert [bool(part) for part in (shifts.scales, shifts.shifts, shifts.centered)] == [False, True, False]
    # Without the others, only the weights that write to the stream.
    assert "blocks.0.mlp.down.weight" in means.centered
    assert "blocks.0.mlp.up.weight" not in means.centered


def test_a_bias_after_a_tied_embedding_takes_the_shift_but_the_scale_is_kept() -> None:
    given = example("tied gpt")
    report = fold(given.tensors, given.spec).report
    assert "norm.bias" in report.shifts
    assert list(report.kept) == ["norm.weight"]
    assert "`tokens.weight`" in report.kept["norm.weight"]
    assert "`head.weight`: `untie=True`" in report.kept["norm.weight"]
    with pytest.raises(SpecError, match=r"norm\.weight"):
        report.require()


def test_normalizations_after_the_sum_are_kept_with_the_operator_that_uses_them() -> None:
    given = example("bert")
    report = fold(given.tensors, given.spec).report
    assert set(report.kept) == {
        f"blocks.{k}.norm{n}.{part}" for k in (0, 1) for n in (1, 2) for part in ("weight", "bias")
    }
    assert report.kept["blocks.0.norm1.weight"] == "units are divided by their norm (layer_norm at layer_norm_1)"
    assert report.kept["blocks.0.norm1.bias"].startswith("its units are used by add")
    assert not report.is_complete


def test_a_shift_before_a_layer_without_bias_is_kept() -> None:
    given = example("gpt without bias")
    report = fold(given.tensors, given.spec).report
    assert list(report.kept) == ["norm.bias"]
    assert "`head.weight` has no bias" in report.kept["norm.bias"]
    assert report.is_complete  # shifts rotate with the stream
    assert "kept norm.bias" in str(report)


def test_scales_without_inverse_are_kept() -> None:
    given = example("gpt")
    tensors = given.tensors
    tensors["blocks.0.norm1.weight"][3] = 0.0
    report = fold(tensors, given.spec).report
    assert "1 of its entries are zero" in report.kept["blocks.0.norm1.weight"]
    assert not report.is_complete


def test_scales_that_are_one_already_need_no_reason() -> None:
    given = example("bert")
    tensors = given.tensors
    for name in tensors:
        if "norm" in name:
            tensors[name].fill_(float(name.endswith("weight")))
    report = fold(tensors, given.spec).report
    assert report.is_complete
    assert not report.kept
