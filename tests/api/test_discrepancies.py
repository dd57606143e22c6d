"""Discrepancies between posteriors modulo symmetries and in function space."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.errors import ConfigError, InvalidInputError


def tanh_network() -> tuple[nn.Module, rc.PermutationSpec, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    inputs = torch.randn(8, 3, dtype=torch.float64)
    return model, rc.trace_spec(model, inputs), inputs


def copies(count: int, seed: int, *, shift: float = 0.0, planted: str = "element") -> list[dict[str, torch.Tensor]]:
    """Return noisy copies of a network, each transformed by its own random element."""
    model, spec, _ = tanh_network()
    generator = torch.Generator().manual_seed(seed)
    found: list[dict[str, torch.Tensor]] = []
    for _ in range(count):
        noisy = {
            name: t.detach() + shift + 0.1 * torch.randn(t.shape, generator=generator, dtype=t.dtype)
            for name, t in model.named_parameters()
        }
        element: rc.GroupElement = rc.SymmetryElement.random(spec.symmetry, generator=generator)
        found.append((element if planted == "element" else element.permutation).apply(noisy))
    return found


def test_symmetries_are_removed_before_the_comparison() -> None:
    _, spec, _ = tanh_network()
    first, second = copies(12, 1), copies(12, 2)
    scrambled, full = rc.discrepancy(first, second), rc.discrepancy(first, second, spec, symmetry="full")
    assert full.p_value > 0.1
    assert full.bandwidths[0] < 0.5 * scrambled.bandwidths[0], "aligned draws are closer to each other"
    assert full.num_samples in {(11, 12), (12, 11)}


def test_a_difference_that_random_symmetries_hide_is_found_modulo_the_whole_group() -> None:
    _, spec, _ = tanh_network()
    first, second = copies(20, 1), copies(20, 2, shift=0.08)
    found = {
        symmetry: rc.discrepancy(first, second, spec, symmetry=symmetry, generator=torch.Generator().manual_seed(0))
        for symmetry in ("permutation", "full")
    }
    assert found["full"].p_value == 0.001
    assert found["permutation"].p_value > 0.01
    assert rc.discrepancy(first, second).p_value > 0.01


def test_a_posterior_and_its_transformed_copy_agree_modulo_symmetries() -> None:
    model, spec, _ = tanh_network()
    mean = {name: p.detach() for name, p in model.named_parameters()}
    q = rc.posteriors.DiagonalGaussianPosterior(mean, {n: torch.full_like(t, 0.05) for n, t in mean.items()})
    element = rc.SymmetryElement.random(spec.symmetry, generator=torch.Generator().manual_seed(3))
    other = element.apply(q)
    assert rc.discrepancy(q, other, num_samples=30).p_value == 0.001
    for reference in (None, model):
        found = rc.discrepancy(q, other, spec, symmetry="full", num_samples=30, reference=reference)
        assert found.p_value > 0.05
        assert sum(found.num_samples) == (59 if reference is None else 60)


def test_canonical_forms_are_compared_without_a_reference() -> None:
    _, spec, _ = tanh_network()
    first, second = copies(12, 1), copies(12, 1)
    generator = torch.Generator().manual_seed(7)
    moved = [rc.SymmetryElement.random(spec.symmetry, generator=generator).apply(network) for network in second]
    found = rc.discrepancy(first, moved, spec, method="canonical", symmetry="full")
    assert found.num_samples == (12, 12)
    same = rc.discrepancy(first, first, spec, method="canonical", symmetry=(rc.symmetry.Kind.SIGN,))
    assert found.squared == pytest.approx(same.squared, abs=1e-12)
    assert found.bandwidths[0] == pytest.approx(same.bandwidths[0])
    permuted = rc.discrepancy(first, moved, spec, method="canonical")
    assert permuted.bandwidths[0] > 1.05 * found.bandwidths[0]


def test_functions_do_not_depend_on_symmetries() -> None:
    model, spec, inputs = tanh_network()
    generator = torch.Generator().manual_seed(5)
    first, second = copies(15, 1, planted="none"), copies(15, 2, shift=0.1)
    moved = [rc.SymmetryElement.random(spec.symmetry, generator=generator).apply(network) for network in first]
    base = rc.function_discrepancy(first, second, model, inputs)
    again = rc.function_discrepancy(moved, second, model, inputs)
    assert again.squared == pytest.approx(base.squared, abs=1e-9)
    assert again.p_value == base.p_value == 0.001
    outputs = [
        {"outputs": torch.stack([torch.func.functional_call(model, n, (inputs,)).detach() for n in networks])}
        for networks in (first, second)
    ]
    direct = rc.analysis.maximum_mean_discrepancy(*outputs)
    assert base.squared == pytest.approx(direct.squared)


def test_functions_are_compared_after_a_transformation() -> None:
    model, _, inputs = tanh_network()
    first = copies(10, 1)
    shifted = [{**network, "2.bias": network["2.bias"] + 3} for network in first]
    logits = rc.function_discrepancy(first, shifted, model, inputs)
    probabilities = rc.function_discrepancy(
        first, shifted, model, inputs, transform=lambda outputs: outputs.log_softmax(-1)
    )
    assert logits.p_value == 0.001
    assert probabilities.p_value > 0.9


def test_chains_of_samples_are_blocks() -> None:
    _, spec, _ = tanh_network()
    networks = copies(40, 1)
    chains = torch.arange(20) // 5

    def stuck(start: int) -> rc.posteriors.SamplesPosterior:
        draws = [networks[start + int(chain)] for chain in chains]
        return rc.posteriors.SamplesPosterior({n: torch.stack([d[n] for d in draws]) for n in draws[0]}, chains=chains)

    found = rc.discrepancy(stuck(0), stuck(20))
    assert found.num_blocks == (4, 4)
    assert found.num_samples == (20, 20)
    aligned = rc.discrepancy(stuck(0), stuck(20), spec, symmetry="full", block_length=1)
    assert aligned.num_blocks in {(19, 20), (20, 19)}


def test_weighted_samples_are_resampled() -> None:
    networks = copies(4, 1)
    weights = torch.tensor([1.0, 0.0, 0.0, 0.0])
    stacked = {n: torch.stack([network[n] for network in networks]) for n in networks[0]}
    weighted = rc.posteriors.SamplesPosterior(stacked, weights=weights)
    found = rc.discrepancy(weighted, weighted, num_samples=7)
    assert found.num_samples == (7, 7)
    assert found.squared == pytest.approx(0)


def test_bad_posteriors_are_errors() -> None:
    model, spec, inputs = tanh_network()
    networks = copies(4, 1)
    cases: list[tuple[Any, Any, dict[str, Any], type[Exception], str]] = [
        (model, networks, {}, InvalidInputError, "got a single network; give several"),
        (networks, [], {}, InvalidInputError, "got none"),
        (networks[:1], networks, {}, InvalidInputError, "at least two blocks of draws in each sample, got 1 and 4"),
        (networks, networks, {"num_samples": 2}, InvalidInputError, "`num_samples` of at least 3"),
        (networks, networks, {"spec": spec, "matcher": "gradient", "symmetry": "full"}, ConfigError, "`symmetry` is"),
        (networks, networks, {"method": "sort"}, InvalidInputError, "expected `method` among"),
        (networks, networks, {"spec": "spec"}, InvalidInputError, "PermutationSpec"),
    ]
    for first, second, options, error, message in cases:
        with pytest.raises(error, match=message):
            rc.discrepancy(first, second, **options)
    with pytest.raises(InvalidInputError, match="a draw, compared with the model"):
        rc.function_discrepancy(networks, [{"w": torch.zeros(1)}] * 2, model, inputs)
