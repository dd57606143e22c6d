"""Folding of normalizations that multiply by one plus a parameter, as in Gemma."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import rebasin_core as rc
from rebasin_core.analysis import Folding
from rebasin_core.analysis.folding.pair import FoldedPair
from rebasin_core.errors import FileFormatError, InvalidInputError
from rebasin_core.posteriors import (
    DiagonalGaussianPosterior,
    LowRankGaussianPosterior,
    PointPosterior,
    SamplesPosterior,
)
from rebasin_core.symmetry import Kind, SymmetryElement
from tests.analysis.folding.networks import example, fold, outputs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

NORMS = ("blocks.0.norm1.weight", "blocks.0.norm2.weight", "norm.weight")


def distance(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    return max((tensor - second[name]).abs().max().item() for name, tensor in first.items())


def test_the_parameters_become_zero_and_the_next_weights_are_multiplied_by_the_scale() -> None:
    given = example("gemma")
    tensors, folded = given.tensors, rc.fold(given.tensors, given.spec)
    assert sorted(folded.report.scales) == sorted(NORMS)
    assert folded.report.is_complete
    assert not any(folded.network[name].any() for name in NORMS)
    expected = tensors["head.weight"] * (1 + tensors["norm.weight"])
    torch.testing.assert_close(folded.network["head.weight"], expected, rtol=0, atol=1e-14)
    before = outputs(given.model, tensors, given.inputs)
    assert (outputs(given.model, folded.network, given.inputs) - before).abs().max() <= 1e-9
    assert given.spec.symmetry_of(folded.network) is given.spec.folded_symmetry
    assert given.spec.symmetry_of(tensors, folded.network) is given.spec.symmetry
    assert distance(folded.undo(folded.network), tensors) <= 1e-13


def test_rotations_of_the_stream_are_recovered() -> None:
    given = example("gemma")
    reference = rc.fold(given.tensors, given.spec).network
    element = SymmetryElement.random(given.spec.folded_symmetry, generator=torch.Generator().manual_seed(0))
    assert Kind.ORTHOGONAL in {linear.kind for linear in given.spec.folded_symmetry.linear}
    candidate = element.apply(reference)
    expected = outputs(given.model, given.tensors, given.inputs)
    assert (outputs(given.model, candidate, given.inputs) - expected).abs().max() <= 1e-9
    result = rc.match(reference, candidate, given.spec, rc.matchers.WeightMatcher(symmetry="full"))
    assert distance(result.apply(candidate), reference) <= 1e-6
    with pytest.raises(InvalidInputError, match=r"weight` must be zero in all entries for maps of kind orthogonal"):
        element.apply(given.tensors)


def test_networks_with_other_scales_are_aligned_in_the_coordinates_of_the_reference() -> None:
    given = example("gemma")
    folded = rc.fold(given.tensors, given.spec)
    element = SymmetryElement.random(given.spec.folded_symmetry, generator=torch.Generator().manual_seed(0))
    # The candidate is the rotated reference, in which other scales are exchanged with the next weights.
    other = rc.fold(example("gemma", seed=1).tensors, given.spec)
    candidate = other.undo(element.apply(folded.network))
    expected = outputs(given.model, given.tensors, given.inputs)
    assert (outputs(given.model, candidate, given.inputs) - expected).abs().max() <= 1e-9
    matcher = rc.matchers.WeightMatcher(symmetry="full")
    pair = FoldedPair.of(given.spec, PointPosterior(given.tensors), PointPosterior(candidate), matcher.kinds)
    assert pair is not None
    result = rc.match(pair.reference.posterior, pair.candidate.posterior, given.spec, matcher)
    aligned = pair.restored(result.apply(pair.candidate.posterior))
    assert distance(aligned.mean, given.tensors) <= 1e-6


def test_tied_embeddings_keep_the_last_scale() -> None:
    given = example("tied gemma")
    report = rc.fold(given.tensors, given.spec).report
    assert list(report.kept) == ["norm.weight"]
    assert "`tokens.weight`" in report.kept["norm.weight"]
    assert not report.is_complete


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_scales_without_inverse_are_kept(value: float) -> None:
    given = example("gemma")
    tensors = given.tensors
    tensors["norm.weight"][2] = value
    if value != value:  # ruff: ignore[comparison-with-itself] - NaN
        with pytest.raises(InvalidInputError, match=r"norm\.weight"):
            rc.fold(tensors, given.spec)
        return
    report = rc.fold(tensors, given.spec).report
    assert "1 of the entries of one plus it are zero" in report.kept["norm.weight"]


def test_files_contain_the_parameters(tmp_path: Path) -> None:
    given = example("gemma")
    folded = rc.fold(given.tensors, given.spec)
    path = tmp_path / "folding.safetensors"
    folded.folding.save(path)
    loaded = Folding.load(path)
    assert loaded.zeros == frozenset(NORMS)
    for name in given.tensors:
        assert torch.equal(folded.folding.unfolded(name, folded.network), loaded.unfolded(name, folded.network))
    with safe_open(path, "pt") as file:
        ((key, value),) = file.metadata().items()
    record = json.loads(value)
    record["document"]["zeros"] = ["head.weight"]
    save_file(load_file(path), path, metadata={key: json.dumps(record)})
    with pytest.raises(FileFormatError, match=r"the list of scales, does not have the tensors `head\.weight`"):
        Folding.load(path)


@pytest.mark.parametrize("kind", [DiagonalGaussianPosterior, LowRankGaussianPosterior])
def test_gaussians_with_fixed_parameters_are_folded(kind: type) -> None:
    given = example("gemma")
    vectors = {name: tensor for name, tensor in given.tensors.items() if "norm" in name}
    random = {name: tensor for name, tensor in given.tensors.items() if name not in vectors}
    stddev = {name: torch.full_like(tensor, 0.1) for name, tensor in random.items()}
    factor = {name: torch.randn(2, *tensor.shape, dtype=torch.float64) for name, tensor in random.items()}
    gaussian = (
        DiagonalGaussianPosterior(random, stddev, fixed=vectors)
        if kind is DiagonalGaussianPosterior
        else LowRankGaussianPosterior(random, stddev, factor, fixed=vectors)
    )
    folded = rc.fold(gaussian, given.spec)
    assert folded.report.is_complete
    assert not any(folded.network.mean[name].any() for name in NORMS)
    expected = gaussian.stddev["head.weight"] * (1 + vectors["norm.weight"]).abs()
    torch.testing.assert_close(folded.network.stddev["head.weight"], expected, rtol=1e-13, atol=0)
    undone = folded.undo(folded.network)
    assert distance(undone.mean, gaussian.mean) <= 1e-13
    assert distance(undone.stddev, gaussian.stddev) <= 1e-13


def test_rotations_of_posteriors_need_parameters_that_are_zero_and_not_random() -> None:
    given = example("gemma")
    element = SymmetryElement.random(given.spec.folded_symmetry, generator=torch.Generator().manual_seed(0))
    stacked = {name: torch.stack([tensor, tensor]) for name, tensor in given.tensors.items()}
    with pytest.raises(InvalidInputError, match="must be zero"):
        SamplesPosterior(stacked).transform(element)
    folded = fold(given.tensors, given.spec).network
    stddev = {name: torch.full_like(tensor, 0.1) for name, tensor in folded.items()}
    with pytest.raises(InvalidInputError, match="must be zero, but is random"):
        LowRankGaussianPosterior(
            folded, stddev, {name: tensor.unsqueeze(0) for name, tensor in stddev.items()}
        ).transform(element)
