"""Matchers on experts in a module list: the same model with stacked weights, brute force, and planted exchanges."""

from __future__ import annotations

from itertools import permutations, product

import pytest
import torch
from torch import Tensor

import rebasin_core as rc
from rebasin_core.analysis import canonical_form, network_distances
from rebasin_core.bilinear import unit_similarities
from rebasin_core.evaluation import Task
from rebasin_core.matchers import (
    ActivationMatcher,
    FrankWolfeMatcher,
    KLMatcher,
    SinkhornMatcher,
    StraightThroughMatcher,
    TransportMatcher,
    WassersteinMatcher,
    WeightMatcher,
)
from rebasin_core.posteriors import DiagonalGaussianPosterior, PointPosterior
from tests.symmetry.experts import (
    EXPERTS,
    HIDDEN,
    STACKS,
    TABLE,
    Mixture,
    element,
    run,
    spec,
    stacked,
    stacked_spec,
    tensors_of,
)


def gaussian(seed: int) -> DiagonalGaussianPosterior:
    mean = tensors_of(Mixture(seed))
    g = torch.Generator().manual_seed(seed)
    stddev = {name: torch.rand(tensor.shape, generator=g, dtype=tensor.dtype) for name, tensor in mean.items()}
    return DiagonalGaussianPosterior(mean, stddev)


def data(rows: int = 64) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(3)
    return [(torch.randn(rows, 3, generator=g, dtype=torch.float64), torch.arange(rows) % 2)]


@pytest.mark.parametrize("matcher", [WeightMatcher(), WassersteinMatcher(), KLMatcher(), FrankWolfeMatcher()])
def test_results_are_those_of_the_model_with_stacked_weights(matcher: rc.Matcher) -> None:
    q, r = gaussian(0), gaussian(1)
    own = DiagonalGaussianPosterior(stacked(q.mean), stacked(q.stddev))
    other = DiagonalGaussianPosterior(stacked(r.mean), stacked(r.stddev))
    found, expected = matcher.match(q, r, spec()), matcher.match(own, other, stacked_spec())
    assert found.objective == pytest.approx(expected.objective, rel=1e-12)
    assert found.identity_objective == pytest.approx(expected.identity_objective, rel=1e-12)
    assert found.permutation.indices.keys() == expected.permutation.indices.keys()
    for name, index in expected.permutation.indices.items():
        assert torch.equal(found.permutation.indices[name], index)


@pytest.mark.parametrize(
    "matcher",
    [WeightMatcher(), WassersteinMatcher(), FrankWolfeMatcher(), SinkhornMatcher(), TransportMatcher()],
)
def test_planted_exchanges_are_recovered(matcher: rc.Matcher) -> None:
    reference, p = PointPosterior(tensors_of(Mixture())), element()
    found = matcher.match(reference, p.apply(reference), spec())
    assert found.permutation == p.inverse()


@pytest.mark.parametrize("matcher", [ActivationMatcher(), TransportMatcher(cost="activations")])
def test_planted_exchanges_are_recovered_with_data(matcher: rc.Matcher) -> None:
    model, p = Mixture(), element()
    reference = PointPosterior.from_module(model)
    found = matcher.match(reference, p.apply(reference), spec(), task=Task(model, data()))
    assert found.permutation == p.inverse()


def test_straight_through_preserves_the_function() -> None:
    model, p = Mixture(), element()
    reference = PointPosterior.from_module(model)
    candidate = p.apply(reference)
    found = StraightThroughMatcher(epochs=1).match(reference, candidate, spec(), task=Task(model, data()))
    x = data()[0][0]
    outputs = [run(model, q.mean, x) for q in (candidate, found.apply(candidate))]
    assert torch.allclose(outputs[0], outputs[1], atol=1e-12)
    assert found.objective >= found.identity_objective


def test_order_of_experts_is_optimal_given_the_other_groups() -> None:
    reference, candidate = tensors_of(Mixture(0)), tensors_of(Mixture(1))
    found = WeightMatcher().match(PointPosterior(reference), PointPosterior(candidate), spec())
    best = -float("inf")
    inside = [*permutations(range(HIDDEN))]

    def inner(new: int, old: int, d: Tensor) -> float:
        """Return the largest inner product of an expert of the reference and one of the candidate."""
        up, bias, down = "experts.{}.up.weight", "experts.{}.up.bias", "experts.{}.down.weight"
        own = torch.cat([reference[up.format(new)], reference[bias.format(new)][:, None]], 1)
        own = torch.cat([own, reference[down.format(new)].T], 1)
        other = torch.cat([candidate[up.format(old)][:, d], candidate[bias.format(old)][:, None]], 1)
        other = torch.cat([other, candidate[down.format(old)][d].T], 1)
        similarity = own @ other.T
        return max(sum(similarity[i, j].item() for i, j in enumerate(order)) for order in inside)

    d = found.permutation.indices["d"]
    values = {(new, old): inner(new, old, d) for new, old in product(range(EXPERTS), repeat=2)}
    gate = [torch.cat([one["gate.weight"], one["gate.bias"][:, None]], 1) for one in (reference, candidate)]
    columns = torch.cat([d, torch.tensor([len(d)])])
    for order in permutations(range(EXPERTS)):
        value = (gate[0] * gate[1][[*order]][:, columns]).sum().item()
        best = max(best, value + sum(values[new, old] for new, old in enumerate(order)))
    fixed = ((reference[n] * candidate[n][d]).sum().item() for n in ("embed.weight", "embed.bias"))
    rest = (reference["out.weight"] * candidate["out.weight"][:, d]).sum()
    rest += reference["out.bias"] @ candidate["out.bias"]
    assert found.objective == pytest.approx(best + sum(fixed) + rest.item(), rel=1e-12)


def test_many_networks_are_aligned_like_those_with_stacked_weights() -> None:
    networks = [tensors_of(Mixture(seed)) for seed in range(3)]
    networks[1] = element(1).apply(networks[0])
    found = rc.match_many(networks, spec(), matcher="weight", start="best")
    expected = rc.match_many([stacked(one) for one in networks], stacked_spec(), matcher="weight", start="best")
    assert found.trace == pytest.approx(expected.trace, rel=1e-9)


def test_full_group_undoes_signs_and_exchanges() -> None:
    reference = tensors_of(Mixture())
    signed = rc.table_spec(TABLE, reference, kinds={"hidden": "sign"})
    planted = rc.SymmetryElement.random(signed.symmetry, generator=torch.Generator().manual_seed(4))
    candidate = planted.apply(reference)
    found = rc.match(reference, candidate, signed, WeightMatcher(symmetry="full"))
    aligned = found.apply(candidate)
    assert all(torch.allclose(aligned[name], tensor, atol=1e-9) for name, tensor in reference.items())


def test_distances_and_similarities_are_those_of_stacked_weights() -> None:
    reference, candidate, p = tensors_of(Mixture(0)), tensors_of(Mixture(1)), element()
    found = network_distances(p.layout, reference, candidate, p)
    permuted = p.apply(candidate)
    for name in (*STACKS.values(), "gate.weight"):
        members = [*p.layout.stacks[name].members] if name in p.layout.stacks else [name]
        expected = sum((reference[m] - permuted[m]).square().sum().item() for m in members)
        assert found.tensors[name].after == pytest.approx(expected, rel=1e-9)
    similarities = unit_similarities(p.layout, reference, candidate)
    expected_similarities = unit_similarities(stacked_spec().layout, stacked(reference), stacked(candidate))
    assert similarities.keys() == expected_similarities.keys()
    for name, value in expected_similarities.items():
        assert torch.allclose(similarities[name].cosines, value.cosines)


def test_canonical_forms_of_equivalent_networks_are_equal() -> None:
    model = Mixture()
    reference = tensors_of(model)
    forms = [canonical_form(one, spec(), ()).tensors for one in (reference, element().apply(reference))]
    assert all(torch.allclose(forms[0][name], forms[1][name]) for name in reference)
    x = data()[0][0]
    assert torch.allclose(run(model, reference, x), run(model, forms[0], x))


def test_barrier_between_exchanged_networks_is_zero() -> None:
    model = Mixture()
    reference = tensors_of(model)
    candidate = element().apply(reference)
    aligned = rc.match(reference, candidate, spec(), "weight").apply(candidate)
    curve = rc.barrier(reference, aligned, Task(model, data()))
    assert curve.height == pytest.approx(0, abs=1e-9)
