"""Numbers of modes and of chains, compared with enumeration, simulation and published values."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.analysis import chains_for_modes, count_modes
from rebasin_core.errors import InvalidInputError
from rebasin_core.symmetry import Kind, LinearSymmetry, Slot, Symmetry


def mlp(activation: type[nn.Module], *widths: int) -> rc.PermutationSpec:
    layers: list[nn.Module] = []
    for into, out in zip((2, *widths), (*widths, 1), strict=True):
        layers += [nn.Linear(into, out), activation()]
    return rc.trace_spec(nn.Sequential(*layers[:-1]), torch.randn(3, 2))


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid])
def test_modes_of_networks_with_signs_or_flips(activation: type[nn.Module]) -> None:
    found = count_modes(mlp(activation, 3, 4))
    assert 10**found.log10_total == pytest.approx(2**3 * 6 * 2**4 * 24)
    assert 10**found.log10_signs == pytest.approx(2**7)
    assert found.dimension == 0


def test_scales_join_copies_to_components() -> None:
    found = count_modes(mlp(nn.ReLU, 3, 4))
    assert 10**found.log10_total == pytest.approx(6 * 24)
    assert found.dimension == 7


@pytest.mark.parametrize(
    ("kind", "components"),
    [(Kind.ORTHOGONAL, 2), (Kind.INVERTIBLE, 2), (Kind.ORTHOGONAL_FIXING_ONES, 2), (Kind.SIGN, 8 * 6)],
)
def test_permutations_that_maps_contain_are_not_counted(kind: Kind, components: int) -> None:
    tensors = {"in": torch.zeros(3, 2), "out": torch.zeros(2, 3)}
    spec = rc.table_spec({"in": "units, -", "out": "-, units"}, tensors)
    linear = LinearSymmetry("units", kind, {Slot("in", 0): 1, Slot("out", 1): -1})
    found = count_modes(spec, Symmetry(spec.layout, (linear,)))
    assert 10**found.log10_total == pytest.approx(components)
    assert found.dimension == kind.dimension(3)


def test_matrices_on_some_axes_only_are_counted_with_the_permutations() -> None:
    tensors = {"in": torch.zeros(3, 2), "out": torch.zeros(2, 3), "bias": torch.zeros(3)}
    spec = rc.table_spec({"in": "units, -", "out": "-, units", "bias": "units"}, tensors)
    linear = LinearSymmetry("units", Kind.INVERTIBLE, {Slot("in", 0): 1, Slot("out", 1): -1})
    found = count_modes(spec, Symmetry(spec.layout, (linear,)))
    assert 10**found.log10_total == pytest.approx(6 * 2)


@pytest.mark.parametrize("shares", [[1.0], [0.5, 0.5], [0.7, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1]])
def test_the_expected_number_of_chains_equals_inclusion_and_exclusion(shares: list[float]) -> None:
    exact = 0.0
    for chosen in product((False, True), repeat=len(shares)):
        if any(chosen):
            part = sum(share for share, is_chosen in zip(shares, chosen, strict=True) if is_chosen)
            exact += -((-1) ** sum(chosen)) / part
    assert chains_for_modes(shares).expected == pytest.approx(exact, rel=1e-9)


def test_the_published_numbers_of_chains() -> None:
    """Outputs of the notebooks of Wiese et al. (2023): 48 copies, and three half-normal modes."""
    uniform = chains_for_modes(48)
    assert uniform.expected == pytest.approx(214.02228, abs=1e-3)
    assert uniform.markov == math.ceil(21402.229)
    density = [math.exp(-(x**2) / 2) for x in (0.0, 0.98, 1.96)]
    found = chains_for_modes([value / sum(density) for value in density])
    assert found.markov == 1274


@pytest.mark.parametrize("probability", [0.5, 0.9, 0.99])
def test_the_bounds_hold_in_a_simulation_and_the_union_bound_is_tight(probability: float) -> None:
    shares = [0.6, 0.25, 0.15]
    found = chains_for_modes(shares, probability=probability)
    modes = np.random.default_rng(0).choice(3, size=(20_000, 400), p=shares)
    first = np.stack([(modes == mode).argmax(1) for mode in range(3)]).max(0) + 1
    assert first.mean() == pytest.approx(found.expected, rel=0.03)
    for number in (found.markov, found.union):
        assert (first <= number).mean() >= probability - 0.003
    assert (first <= found.union - 1).mean() <= probability + 0.06
    assert found.union <= found.markov


def test_numbers_of_modes_of_any_size() -> None:
    assert chains_for_modes(1).markov == 1
    large = chains_for_modes(10**30)
    assert large.expected == pytest.approx(1e30 * (30 * math.log(10) + 0.5772156649), rel=1e-9)
    rare = chains_for_modes([0.5, 0.499999, 0.000001])
    assert rare.expected == pytest.approx(1e6, rel=1e-6)


def test_bad_numbers_of_modes_are_errors() -> None:
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (0, {}, "from 1 to 1e300 modes, got 0"),
        (10**301, {}, "from 1 to 1e300 modes, got more"),
        ([], {}, "with sum 1, got"),
        ([0.5, 0.6], {}, "with sum 1, got"),
        ([1.5, -0.5], {}, "positive probabilities"),
        (2.5, {}, "a number of modes as an integer"),
        (2, {"probability": 1.0}, r"`probability` in \(0, 1\), got 1.0"),
    ]
    for modes, options, message in cases:
        with pytest.raises(InvalidInputError, match=message):
            chains_for_modes(modes, **options)
