"""The option `symmetry` of activation and Frank-Wolfe matching: planted elements, subgroups, and errors."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from typing_extensions import override

import rebasin_core as rc
from rebasin_core import Task
from rebasin_core.errors import ConfigError, InvalidInputError, NotClosedError, UnreadWeightWarning
from rebasin_core.matchers import ActivationMatcher, ChainMatcher, FrankWolfeMatcher, WeightMatcher
from rebasin_core.posteriors import DiagonalGaussianPosterior
from rebasin_core.symmetry import Kind, SymmetryElement
from tests.bilinear.maps.networks import network, planted, relative_distance, tensors_of, traced

if TYPE_CHECKING:
    from pathlib import Path

NETWORKS = ("relu", "tanh", "linear", "swiglu", "batch norm", "rms", "layer norm", "grouped queries")


def data_like(inputs: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return three batches of random inputs of the same shape but for the first axis."""
    generator = torch.Generator().manual_seed(3)
    shape = (40, *inputs.shape[1:])
    if inputs.is_floating_point():
        batches = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    else:
        batches = [torch.randint(0, 11, shape, generator=generator) for _ in range(3)]
    return [(batch, torch.zeros(40, dtype=torch.long)) for batch in batches]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("matcher", [ActivationMatcher(symmetry="full"), FrankWolfeMatcher(symmetry="full")])
def test_a_planted_element_is_recovered(name: str, matcher: rc.Matcher) -> None:
    module, inputs = network(name)
    spec, reference = traced(module, inputs), tensors_of(module)
    candidate, _ = planted(spec.symmetry_of(reference), reference)
    assert relative_distance(reference, candidate) > 0.3
    task = Task(module, data_like(inputs))
    result = rc.match(reference, candidate, spec, matcher, task=task)
    assert relative_distance(reference, result.apply(candidate)) < 1e-4
    assert result.objective >= result.identity_objective


class UsedTwice(nn.Module):
    """An MLP with two hidden layers; the weight of the second is used twice: its units are not compared."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(5, 8), nn.Linear(8, 7), nn.Linear(7, 3)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs).tanh()
        output: Tensor = self.last((self.second(hidden) + self.second(2 * hidden)).tanh())
        return output


def test_units_that_are_not_measured_are_not_transformed() -> None:
    torch.manual_seed(0)
    module = UsedTwice().double()
    inputs = torch.randn(4, 5, dtype=torch.float64)
    spec, reference = traced(module, inputs), tensors_of(module)
    candidate, _ = planted(spec.symmetry_of(reference), reference)
    task = Task(module, data_like(inputs))
    with pytest.warns(UnreadWeightWarning, match="not compared"):
        result = rc.match(reference, candidate, spec, ActivationMatcher(symmetry="full"), task=task)
    aligned = result.apply(candidate)
    assert torch.allclose(aligned["first.weight"], reference["first.weight"], atol=1e-6)
    assert torch.equal(aligned["last.weight"], candidate["last.weight"])


def test_a_matcher_over_permutations_continues_an_element() -> None:
    module, inputs = network("layer norm")
    spec, reference = traced(module, inputs), tensors_of(module)
    symmetry = spec.symmetry_of(reference)
    candidate, element = planted(symmetry, reference, noise=0.05)
    shuffle = SymmetryElement.identity(symmetry).compose(spec.random_permutation(generator=torch.Generator()))
    initial = element.inverse().compose(shuffle)  # correct up to a permutation
    result = rc.match(reference, candidate, spec, "weight", initial=initial)
    expected = relative_distance(reference, element.inverse().apply(candidate))
    assert relative_distance(reference, result.apply(candidate)) <= expected * (1 + 1e-9)
    assert relative_distance(reference, initial.apply(candidate)) > 2 * expected
    other = rc.trace_spec(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)), torch.randn(2, 2))
    with pytest.raises(InvalidInputError, match="another specification"):
        rc.match(reference, candidate, spec, "weight", initial=SymmetryElement.identity(other.symmetry))
    mean = DiagonalGaussianPosterior(candidate, {name: tensor.abs() + 1 for name, tensor in candidate.items()})
    with pytest.raises(NotClosedError):
        rc.match(mean, mean, spec, "weight", initial=initial)


def test_a_chain_and_a_file_pass_on_the_whole_element(tmp_path: Path) -> None:
    module, inputs = network("rms")
    spec, reference = traced(module, inputs), tensors_of(module)
    candidate, element = planted(spec.symmetry_of(reference), reference)
    chain = ChainMatcher(matchers=[WeightMatcher(symmetry="full", tolerance=1e-12), WeightMatcher()])
    result = rc.match(reference, candidate, spec, chain)
    assert relative_distance(reference, result.apply(candidate)) < 1e-7
    assert chain.kinds == frozenset(Kind)
    element.inverse().save(tmp_path / "search.safetensors")
    resumed = rc.match(reference, candidate, spec, "weight", checkpoint=tmp_path / "search.safetensors")
    assert relative_distance(reference, resumed.apply(candidate)) < 1e-12
    assert not (tmp_path / "search.safetensors").exists()


def test_the_function_is_kept_and_rotations_help_with_noise() -> None:
    module, inputs = network("layer norm")
    spec, reference = traced(module, inputs), tensors_of(module)
    candidate, _ = planted(spec.symmetry_of(reference), reference, noise=0.1)
    task = Task(module, data_like(inputs))
    permuted = rc.match(reference, candidate, spec, "activation", task=task).apply(candidate)
    aligned = rc.match(reference, candidate, spec, ActivationMatcher(symmetry="full"), task=task).apply(candidate)
    assert relative_distance(reference, aligned) < 0.5 * relative_distance(reference, permuted)
    before, after = (functional_call(module, tensors, (inputs,)) for tensors in (candidate, aligned))
    assert torch.allclose(before, after, rtol=1e-7, atol=1e-9)


def test_diagonal_gaussians_admit_signs_and_scales_only() -> None:
    module, inputs = network("linear")
    spec, mean = traced(module, inputs), tensors_of(module)
    stddev = {name: torch.full_like(tensor, 0.01) for name, tensor in mean.items()}
    first = DiagonalGaussianPosterior(mean, stddev)
    task = Task(module, data_like(inputs))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = rc.match(first, first, spec, ActivationMatcher(symmetry="full"), task=task)
    assert found.element is not None
    assert {linear.kind for linear in found.element.symmetry.linear} == {Kind.NONZERO}
    with pytest.raises(NotClosedError):
        rc.match(first, first, spec, ActivationMatcher(symmetry=("invertible",)), task=task)
    moments = FrankWolfeMatcher(channels="moments", symmetry=("invertible",))
    with pytest.raises(NotClosedError, match="standard deviations of entries"):
        rc.match(first, first, spec, moments)
    scaled = rc.match(first, first, spec, FrankWolfeMatcher(channels="moments", symmetry="full"))
    assert scaled.element is not None
    assert {linear.kind for linear in scaled.element.symmetry.linear} == {Kind.NONZERO}


def test_a_kind_that_the_model_does_not_have_leaves_permutations() -> None:
    module, inputs = network("relu")
    spec, reference = traced(module, inputs), tensors_of(module)
    task = Task(module, data_like(inputs))
    for matcher in (ActivationMatcher(symmetry=("rotation",)), FrankWolfeMatcher(symmetry=("rotation",))):
        assert rc.match(reference, reference, spec, matcher, task=task).element is None
    with pytest.raises(ConfigError, match="symmetry"):
        ActivationMatcher(symmetry=("reflection",))
