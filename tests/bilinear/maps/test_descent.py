"""Descent over permutations and linear maps: planted elements, exhaustive search, and the gauge."""

from __future__ import annotations

from itertools import permutations, product

import pytest
import torch
from torch import nn
from torch.func import functional_call

import rebasin_core as rc
from rebasin_core.bilinear.maps.gauge import balanced
from rebasin_core.matchers import WeightMatcher
from rebasin_core.symmetry import SymmetryElement
from tests.bilinear.maps.networks import network, planted, relative_distance, tensors_of, traced

NETWORKS = ("relu", "tanh", "linear", "swiglu", "batch norm", "rms", "layer norm", "grouped queries")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_planted_element_is_recovered(name: str) -> None:
    module, inputs = network(name)
    spec = traced(module, inputs)
    reference = tensors_of(module)
    symmetry = spec.symmetry_of(reference)
    candidate, _ = planted(symmetry, reference)
    before, after = (functional_call(module, tensors, (inputs,)) for tensors in (reference, candidate))
    assert torch.allclose(before, after, rtol=1e-9, atol=1e-11)
    names = [name for name, _ in module.named_parameters()]
    assert relative_distance(reference, candidate, names) > 0.3
    result = rc.match(reference, candidate, spec, matcher=WeightMatcher(symmetry="full", tolerance=1e-12))
    aligned = result.apply(candidate)
    assert relative_distance(reference, aligned, names) < 1e-7
    assert torch.allclose(functional_call(module, aligned, (inputs,)), before, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["tanh", "rms", "grouped queries"])
def test_noise_remains_and_the_function_of_the_candidate_is_kept(name: str) -> None:
    module, inputs = network(name)
    spec = traced(module, inputs)
    reference = tensors_of(module)
    candidate, _ = planted(spec.symmetry_of(reference), reference, noise=0.1)
    names = [name for name, _ in module.named_parameters()]
    permuted = rc.match(reference, candidate, spec, matcher="weight")
    result = rc.match(reference, candidate, spec, matcher=WeightMatcher(symmetry="full"))
    aligned = result.apply(candidate)
    assert relative_distance(reference, aligned, names) < 0.2
    assert relative_distance(reference, aligned, names) < relative_distance(reference, permuted.apply(candidate), names)
    before, after = (functional_call(module, tensors, (inputs,)) for tensors in (candidate, aligned))
    assert torch.allclose(before, after, rtol=1e-8, atol=1e-10)
    assert result.objective >= result.identity_objective
    assert list(result.trace) == sorted(result.trace)


@pytest.mark.parametrize("seed", range(5))
def test_signs_and_permutations_of_a_small_network_are_optimal(seed: int) -> None:
    torch.manual_seed(seed)
    module, other = (nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double() for _ in range(2))
    spec = rc.trace_spec(module, torch.randn(2, 2).double())
    reference, candidate = tensors_of(module), tensors_of(other)
    best = -float("inf")
    for order in permutations(range(4)):
        for signs in product((-1.0, 1.0), repeat=4):
            factors = torch.tensor(signs, dtype=torch.float64)
            element = SymmetryElement(
                spec.symmetry, rc.Permutation(spec.layout, {"units.0": torch.tensor(order)}), [factors]
            )
            aligned = element.apply(candidate)
            best = max(best, sum(float((reference[name] * aligned[name]).sum()) for name in reference))
    result = rc.match(reference, candidate, spec, matcher=WeightMatcher(symmetry="full"))
    assert result.objective == pytest.approx(best, rel=1e-12)


def test_the_full_group_is_never_worse_than_permutations_in_the_same_gauge() -> None:
    for name in NETWORKS:
        module, inputs = network(name)
        spec = traced(module, inputs)
        reference = tensors_of(module)
        candidate = {
            n: t + 0.5 * t.std() * torch.randn(t.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
            if t.dim() > 1
            else t
            for n, t in reference.items()
        }
        symmetry = spec.symmetry_of(reference)
        names = [n for n, _ in module.named_parameters()]
        sides = [balanced(symmetry, {n: t[n].unsqueeze(0) for n in names})[0] for t in (reference, candidate)]
        inside = [{**reference, **{n: t.squeeze(0) for n, t in side.items()}} for side in sides]
        permuted = rc.match(inside[0], inside[1], spec, matcher="weight")
        full = rc.match(reference, candidate, spec, matcher=WeightMatcher(symmetry="full"))
        assert full.objective >= permuted.objective - 1e-9 * abs(permuted.objective), name
