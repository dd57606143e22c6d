"""`align` modulo rotations: both networks are folded, and the result has the coordinates of the reference."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import pytest
import torch

import rebasin_core as rc
from rebasin_core.errors import AlignmentWarning, ConfigError
from rebasin_core.matchers import ActivationMatcher, ChainMatcher, RefinedMatcher, RestartsMatcher, WeightMatcher
from rebasin_core.posteriors import DiagonalGaussianPosterior, PointPosterior, SamplesPosterior
from rebasin_core.symmetry import Kind, SymmetryElement
from tests.analysis.folding.networks import example, fold, outputs

if TYPE_CHECKING:
    from torch import Tensor

GIVEN, OTHER = example("vision"), example("vision", seed=1)
INPUTS = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
TASK = rc.Task(GIVEN.model, [(INPUTS, outputs(GIVEN.model, GIVEN.tensors, INPUTS).argmax(-1))])
FULL = WeightMatcher(symmetry="full")
# PyTorch warns that attention of a batch of networks is slow.
VMAP = pytest.mark.filterwarnings("ignore:There is a performance drop")


def planted() -> dict[str, Tensor]:
    """Return the reference after a random element of its folded symmetry, with the scales of another network."""
    reference = rc.fold(GIVEN.tensors, GIVEN.spec).network
    element = SymmetryElement.random(GIVEN.spec.folded_symmetry, generator=torch.Generator().manual_seed(2))
    found: dict[str, Tensor] = rc.fold(OTHER.tensors, GIVEN.spec).undo(element.apply(reference))
    return found


def aligned(candidate: object, **options: object) -> rc.api.AlignResult:
    return rc.align(GIVEN.tensors, candidate, TASK, spec=GIVEN.spec, allow_untested=True, **options)  # type: ignore[arg-type]  # options of `align`


def test_planted_maps_and_scales_are_found() -> None:
    candidate = planted()
    assert (candidate["norm.weight"] - GIVEN.tensors["norm.weight"]).abs().max() > 0.1
    result = aligned(candidate, matcher=FULL)
    assert result.folded is not None
    assert result.helped
    for name, tensor in GIVEN.tensors.items():
        torch.testing.assert_close(result.aligned.mean[name], tensor, rtol=1e-6, atol=1e-6)
    assert result.effect is not None
    assert result.effect.aligned == pytest.approx(result.effect.reference, rel=1e-6)


def test_the_function_is_that_of_the_candidate() -> None:
    result = aligned(OTHER.tensors, matcher="weight", symmetry="full", keep="aligned")
    expected = outputs(GIVEN.model, OTHER.tensors, INPUTS)
    found = outputs(GIVEN.model, result.aligned.mean, INPUTS)
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()
    for name in ("norm1.weight", "norm2.weight", "norm.weight", "layer_scale"):
        torch.testing.assert_close(result.aligned.mean[name], GIVEN.tensors[name])


def test_the_stated_loss_is_that_of_the_midpoint_with_the_given_reference() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AlignmentWarning)
        result = aligned(OTHER.tensors, matcher=FULL, keep="aligned")
    middle = {name: (tensor + result.aligned.mean[name]) / 2 for name, tensor in GIVEN.tensors.items()}
    loss = torch.nn.functional.cross_entropy(outputs(GIVEN.model, middle, INPUTS), TASK.held().data[0][1])  # type: ignore[index]  # a list
    assert result.effect is not None
    assert result.effect.aligned == pytest.approx(loss.item(), rel=1e-9)
    assert result.folded is not None
    folded = result.match.apply(result.folded.candidate.posterior).mean
    torch.testing.assert_close(folded["norm.weight"], torch.ones_like(folded["norm.weight"]))


@pytest.mark.parametrize("matcher", ["weight", WeightMatcher(symmetry=(Kind.SIGN, Kind.NONZERO))])
def test_networks_are_not_folded_without_need(matcher: object) -> None:
    assert aligned(planted(), matcher=matcher, keep="aligned").folded is None


def test_folded_networks_are_not_folded_again() -> None:
    first = fold(GIVEN.tensors, GIVEN.spec).network
    second = fold(OTHER.tensors, GIVEN.spec).network
    result = rc.align(first, second, TASK, spec=GIVEN.spec, matcher=FULL, allow_untested=True, keep="aligned")
    assert result.folded is None
    assert result.match.element is not None


@VMAP
def test_independent_gaussians_are_not_folded() -> None:
    stddev = {name: torch.full_like(tensor, 0.01) for name, tensor in GIVEN.tensors.items()}
    gaussian = DiagonalGaussianPosterior(GIVEN.tensors, stddev)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AlignmentWarning)
        result = aligned(gaussian, matcher="wasserstein", symmetry="full", keep="aligned")
    assert result.folded is None


@VMAP
def test_samples_are_folded_as_candidate_but_not_as_reference() -> None:
    samples = SamplesPosterior.from_points([PointPosterior(planted()), PointPosterior(planted())])
    result = aligned(samples, matcher=FULL)
    assert result.folded is not None
    torch.testing.assert_close(result.aligned.mean["head.weight"], GIVEN.tensors["head.weight"], rtol=1e-6, atol=1e-6)
    with pytest.warns(AlignmentWarning, match="each network of the reference has scales of its own"):
        reverse = rc.align(samples, GIVEN.tensors, TASK, spec=GIVEN.spec, matcher=FULL, allow_untested=True)
    assert reverse.folded is None


def test_scales_that_cannot_be_folded_give_a_warning() -> None:
    given, other = example("tied gpt"), example("tied gpt", seed=1)
    task = rc.Task(given.model, [(given.inputs, given.model(given.inputs).argmax(-1))])
    with pytest.warns(AlignmentWarning, match=r"without rotations.*(?s:.)*kept norm\.weight"):
        result = rc.align(
            given.tensors, other.tensors, task, spec=given.spec, matcher=FULL, allow_untested=True, keep="aligned"
        )
    assert result.folded is None


def test_the_option_symmetry_needs_a_matcher_that_has_it() -> None:
    with pytest.raises(ConfigError, match="option of the matchers `weight`, `wasserstein`"):
        aligned(GIVEN.tensors, matcher="sinkhorn", symmetry="full")


def test_the_kinds_of_wrapped_matchers() -> None:
    assert not WeightMatcher().kinds
    assert FULL.kinds == frozenset(Kind)
    assert WeightMatcher(symmetry=(Kind.SIGN,)).kinds == {Kind.SIGN}
    assert RestartsMatcher(matcher=FULL).kinds == frozenset(Kind)
    assert ChainMatcher(matchers=(ActivationMatcher(), FULL)).kinds == frozenset(Kind)
    assert not ChainMatcher(matchers=(ActivationMatcher(), WeightMatcher())).kinds
    assert RefinedMatcher().kinds == frozenset(Kind)
