"""Folding of posteriors: every sample by its own map, Gaussians if their scales are not random."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

import rebasin_core as rc
from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors import (
    DiagonalGaussianPosterior,
    LowRankGaussianPosterior,
    MixturePosterior,
    PointPosterior,
    SamplesPosterior,
)
from tests.analysis.folding.networks import Example, example, fold, outputs


@cache
def networks() -> list[Example]:
    """Return three networks; not on import, which would trace them when tests are collected."""
    return [example("gpt", seed) for seed in range(3)]


def stacked(networks: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([network[name] for network in networks]) for name in networks[0]}


def test_every_sample_is_folded_by_its_own_map() -> None:
    spec = networks()[0].spec
    samples = SamplesPosterior(stacked([one.tensors for one in networks()]), weights=torch.tensor([0.5, 0.25, 0.25]))
    folded = rc.fold(samples, spec, shifts=True, center=True)
    assert len(folded.foldings) == len(networks())
    for k, one in enumerate(networks()):
        expected = fold(one.tensors, spec).network
        assert all(torch.equal(tensor, expected[name]) for name, tensor in folded.network.member(k).mean.items())
    assert folded.network.weights.tolist() == [0.5, 0.25, 0.25]
    undone = folded.undo(folded.network)
    for name, tensor in samples.samples.items():
        torch.testing.assert_close(undone.samples[name], tensor, rtol=1e-13, atol=1e-13)
    with pytest.raises(InvalidInputError, match="expected a single network, got 3"):
        _ = folded.folding


def test_tensors_that_samples_share_can_differ_afterwards() -> None:
    spec = networks()[0].spec
    tensors = stacked([one.tensors for one in networks()])
    random = {name: tensors[name] for name in ("blocks.0.norm1.weight", "blocks.0.norm1.bias")}
    fixed = {name: tensor for name, tensor in networks()[0].tensors.items() if name not in random}
    folded = rc.fold(SamplesPosterior(random, fixed=fixed), spec, shifts=True, center=True).network
    assert "blocks.0.attention.query.weight" in folded.samples
    assert "blocks.0.norm1.weight" in folded.samples
    assert "blocks.0.mlp.up.weight" in folded.fixed
    for k, one in enumerate(networks()):
        before = {**fixed, **{name: tensor[k] for name, tensor in random.items()}}
        expected = outputs(one.model, before, one.inputs)
        found = outputs(one.model, folded.member(k).mean, one.inputs)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_mixtures_are_folded_by_component() -> None:
    spec = networks()[0].spec
    points = [PointPosterior(one.tensors) for one in networks()]
    samples = SamplesPosterior(stacked([one.tensors for one in networks()[:2]]))
    folded = rc.fold(MixturePosterior([samples, points[2]]), spec, shifts=True, center=True)
    assert len(folded.foldings) == 3
    last = folded.network.components[1].mean
    expected = fold(networks()[2].tensors, spec).network
    assert all(torch.equal(tensor, expected[name]) for name, tensor in last.items())
    undone = folded.undo(folded.network).components[1].mean
    torch.testing.assert_close(undone["norm.bias"], points[2].mean["norm.bias"], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", [DiagonalGaussianPosterior, LowRankGaussianPosterior])
def test_gaussians_with_fixed_scales_have_scales_of_one(kind: type) -> None:
    given = networks()[0]
    vectors = {name: tensor for name, tensor in given.tensors.items() if "norm" in name}
    random = {name: tensor for name, tensor in given.tensors.items() if name not in vectors}
    stddev = {name: torch.full_like(tensor, 0.1) for name, tensor in random.items()}
    factor = {name: torch.randn(2, *tensor.shape, dtype=torch.float64) for name, tensor in random.items()}
    gaussian = (
        DiagonalGaussianPosterior(random, stddev, fixed=vectors)
        if kind is DiagonalGaussianPosterior
        else LowRankGaussianPosterior(random, stddev, factor, fixed=vectors)
    )
    folded = rc.fold(gaussian, given.spec, shifts=True)
    assert isinstance(folded.network, kind)
    assert folded.report.is_complete
    assert all(bool((folded.network.mean[name] == 1).all()) for name in folded.report.scales)
    assert not folded.report.shifts
    assert "only scales can be folded" in folded.report.kept["norm.bias"]
    noise = gaussian.draw_noise(generator=torch.Generator().manual_seed(0))
    expected = outputs(given.model, gaussian.from_noise(noise), given.inputs)
    sample = folded.network.from_noise(gaussian.transform_noise(folded.folding.element, noise))
    torch.testing.assert_close(outputs(given.model, sample, given.inputs), expected, rtol=1e-11, atol=1e-11)
    undone = folded.undo(folded.network)
    torch.testing.assert_close(undone.stddev["head.weight"], gaussian.stddev["head.weight"], rtol=1e-13, atol=0)


def test_random_scales_are_kept_in_a_gaussian() -> None:
    given = networks()[0]
    stddev = {name: torch.full_like(tensor, 0.1) for name, tensor in given.tensors.items()}
    report = rc.fold(DiagonalGaussianPosterior(given.tensors, stddev), given.spec).report
    assert not report.scales
    assert not report.is_complete
    assert "it is random (standard deviation up to 0.1)" in report.kept["norm.weight"]
    assert "SamplesPosterior.from_posterior" in report.kept["norm.weight"]


def test_one_map_is_applied_to_all_samples() -> None:
    spec = networks()[0].spec
    reference = fold(networks()[0].tensors, spec)
    samples = rc.fold(
        SamplesPosterior(stacked([one.tensors for one in networks()])), spec, shifts=True, center=True
    ).network
    undone = reference.undo(samples)
    for k, one in enumerate(networks()):
        expected = outputs(one.model, one.tensors, one.inputs)
        found = outputs(one.model, undone.member(k).mean, one.inputs)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_the_number_of_maps_must_fit() -> None:
    spec = networks()[0].spec
    two = rc.fold(SamplesPosterior(stacked([one.tensors for one in networks()[:2]])), spec)
    three = rc.fold(SamplesPosterior(stacked([one.tensors for one in networks()])), spec)
    with pytest.raises(InvalidInputError, match="one for each of the 3 networks, got 2"):
        two.undo(three.network)
