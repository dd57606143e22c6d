"""Matching modulo flips of logistic units."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

import rebasin_core as rc
from rebasin_core.errors import NotClosedError
from rebasin_core.matchers import (
    ActivationMatcher,
    FrankWolfeMatcher,
    Matcher,
    RefinedMatcher,
    WassersteinMatcher,
    WeightMatcher,
)
from rebasin_core.posteriors import DiagonalGaussianPosterior, FullGaussianPosterior
from rebasin_core.symmetry import Kind, SymmetryElement

if TYPE_CHECKING:
    from collections.abc import Iterator

Arrays = dict[str, npt.NDArray[np.float64]]


def logistic(*widths: int, seed: int = 0) -> nn.Sequential:
    """Return an MLP with logistic units, from 3 inputs to 2 outputs."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise((3, *widths)):
        layers += [nn.Linear(before, after), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear((3, *widths)[-1], 2)).double()


def inputs(count: int = 20) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def planted(model: nn.Module, seed: int = 1) -> tuple[rc.PermutationSpec, SymmetryElement, dict[str, Tensor]]:
    spec = rc.trace_spec(model, inputs())
    element = SymmetryElement.random(spec.symmetry, generator=torch.Generator().manual_seed(seed))
    return spec, element, element.apply(parameters(model))


def expect_close(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "matcher", [WeightMatcher(symmetry="full"), FrankWolfeMatcher(symmetry="full"), WassersteinMatcher(symmetry="full")]
)
@pytest.mark.parametrize("widths", [(16,), (12, 10), (8, 9, 7)])
def test_planted_flips_and_permutations_are_found(matcher: Matcher, widths: tuple[int, ...]) -> None:
    model = logistic(*widths)
    spec, element, candidate = planted(model)
    result = rc.match(parameters(model), candidate, spec, matcher)
    assert result.group_element == element.inverse()
    expect_close(result.apply(candidate), parameters(model))
    permuted = rc.match(parameters(model), candidate, spec, "weight").apply(candidate)
    assert (permuted["0.weight"] - parameters(model)["0.weight"]).abs().max() > 0.1


def test_the_function_is_kept_also_for_networks_that_differ() -> None:
    a, b = logistic(12, 10, seed=0), logistic(12, 10, seed=1)
    spec = rc.trace_spec(a, inputs())
    result = rc.match(a, b, spec, matcher="weight", symmetry="full")
    assert result.element is not None
    assert any(bool((value < 0).any()) for value in result.element.maps if value is not None)
    torch.testing.assert_close(result.apply(b)(inputs()), b(inputs()), rtol=1e-9, atol=1e-9)


def to_tanh(of: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the network with tanh units that has the same function: s(u) = 1/2 + tanh(u / 2) / 2."""
    found: dict[str, Tensor] = {}
    last = max(int(name.split(".")[0]) for name in of)
    for layer in range(0, last + 1, 2):
        weight, bias = of[f"{layer}.weight"], of[f"{layer}.bias"]
        if layer:
            weight, bias = weight / 2, bias + weight.sum(1) / 2
        factor = 1 if layer == last else 0.5
        found |= {f"{layer}.weight": factor * weight, f"{layer}.bias": factor * bias}
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_alignment_is_that_of_the_equivalent_tanh_networks(seed: int) -> None:
    a, b = logistic(12, 10, seed=0), logistic(12, 10, seed=seed)
    tanh = nn.Sequential(*[nn.Tanh() if isinstance(layer, nn.Sigmoid) else layer for layer in a])
    first = to_tanh(parameters(a))
    second = to_tanh(parameters(b))
    torch.testing.assert_close(torch.func.functional_call(tanh, second, inputs()), b(inputs()))
    spec, spec_of_tanh = rc.trace_spec(a, inputs()), rc.trace_spec(tanh, inputs())
    found = rc.match(a, b, spec, matcher="weight", symmetry="full")
    expected = rc.match(first, second, spec_of_tanh, matcher="weight", symmetry="full")
    expect_close(to_tanh(found.apply(parameters(b))), expected.apply(second))
    assert found.objective == pytest.approx(expected.objective)
    assert found.objective > rc.match(first, second, spec_of_tanh, matcher="weight").objective


def every_copy(of: Arrays, widths: tuple[int, ...]) -> Iterator[Arrays]:
    """Yield all flipped and permuted copies, by s(-u) = 1 - s(u)."""
    flips = [itertools.product((1, -1), repeat=width) for width in widths]
    for signs in itertools.product(*map(list, flips)):
        for orders in itertools.product(*(list(itertools.permutations(range(width))) for width in widths)):
            found = {name: array.copy() for name, array in of.items()}
            for number, (sign, order) in enumerate(zip(signs, orders, strict=True)):
                at, after, index = 2 * number, 2 * number + 2, list(order)
                factor = np.array(sign, dtype=np.float64)
                found[f"{at}.weight"] = (found[f"{at}.weight"] * factor[:, None])[index]
                found[f"{at}.bias"] = (found[f"{at}.bias"] * factor)[index]
                found[f"{after}.bias"] += found[f"{after}.weight"] @ (factor < 0)
                found[f"{after}.weight"] = (found[f"{after}.weight"] * factor)[:, index]
            yield found


def distance(a: Arrays, b: Arrays) -> float:
    """Return the squared distance of the equivalent tanh networks."""
    one = to_tanh({name: torch.from_numpy(array) for name, array in a.items()})
    other = to_tanh({name: torch.from_numpy(array) for name, array in b.items()})
    return sum(float((one[name] - other[name]).square().sum()) for name in one)


@pytest.mark.parametrize(("widths", "seed"), [((4,), 1), ((4,), 2), ((3, 2), 3), ((3, 2), 4)])
def test_brute_force(widths: tuple[int, ...], seed: int) -> None:
    """The distance of the equivalent tanh networks is minimal over all flips and permutations."""
    a, b = logistic(*widths, seed=0), logistic(*widths, seed=seed)
    one = {n: p.numpy() for n, p in parameters(a).items()}
    other = {n: p.numpy() for n, p in parameters(b).items()}
    lowest = min(distance(one, copy) for copy in every_copy(other, widths))
    spec = rc.trace_spec(a, inputs())
    matcher = rc.matchers.WeightMatcher(symmetry="full", start="best")
    aligned = rc.match(parameters(a), parameters(b), spec, matcher).apply(parameters(b))
    found = distance(one, {name: tensor.numpy() for name, tensor in aligned.items()})
    assert found == pytest.approx(lowest, rel=1e-9)


def test_noise_on_the_copy() -> None:
    model = logistic(16, 12)
    spec, element, candidate = planted(model)
    g = torch.Generator().manual_seed(0)
    noisy = {n: t + 0.02 * torch.randn(t.shape, generator=g, dtype=t.dtype) for n, t in candidate.items()}
    assert rc.match(parameters(model), noisy, spec, WeightMatcher(symmetry="full")).group_element == element.inverse()


def test_kinds_of_maps_are_selected() -> None:
    model = logistic(8)
    spec, element, candidate = planted(model)
    found = rc.match(parameters(model), candidate, spec, WeightMatcher(symmetry=(Kind.FLIP,)))
    assert found.group_element == element.inverse()
    assert rc.match(parameters(model), candidate, spec, WeightMatcher(symmetry=(Kind.SIGN,))).element is None


def test_activations_show_flips() -> None:
    """The correlation of a unit and its flipped copy is -1."""
    model = logistic(8, 7)
    spec, element, candidate = planted(model)
    task = rc.Task(model, [(inputs(200), torch.zeros(200, dtype=torch.int64))])
    for metric in ("correlation", "covariance"):
        matcher = ActivationMatcher(symmetry="full", metric=metric)
        assert rc.match(parameters(model), candidate, spec, matcher, task=task).group_element == element.inverse()


def test_an_initial_element_and_a_refinement() -> None:
    model = logistic(8, 7)
    spec, element, candidate = planted(model)
    half = SymmetryElement.random(spec.symmetry, generator=torch.Generator().manual_seed(5))
    found = rc.match(parameters(model), candidate, spec, WeightMatcher(symmetry="full"), initial=half)
    assert found.group_element == element.inverse()
    task = rc.Task(model, [(inputs(), torch.zeros(20, dtype=torch.int64))])
    refined = rc.match(parameters(model), candidate, spec, RefinedMatcher(epochs=1), task=task)
    assert refined.group_element == element.inverse()


def test_posteriors_that_are_not_closed_are_only_permuted() -> None:
    model = logistic(8)
    spec, element, candidate = planted(model)
    stddev = {name: torch.full_like(tensor, 0.1) for name, tensor in candidate.items()}
    a, b = DiagonalGaussianPosterior(parameters(model), stddev), DiagonalGaussianPosterior(candidate, stddev)
    assert rc.match(a, b, spec, WeightMatcher(symmetry="full")).element is None
    with pytest.raises(NotClosedError, match=r"expected signs and scales, since the matcher 'wasserstein'.*'flip'"):
        rc.match(a, b, spec, WassersteinMatcher(symmetry=(Kind.FLIP,)))
    dense = FullGaussianPosterior.from_gaussian(b)
    found = rc.match(FullGaussianPosterior.from_gaussian(a), dense, spec, WeightMatcher(symmetry="full"))
    assert found.group_element == element.inverse()
    expect_close(found.apply(dense).mean, parameters(model))


def test_align() -> None:
    model = logistic(8, 7)
    _, element, candidate = planted(model)
    other = logistic(8, 7)
    other.load_state_dict(candidate)
    data = [(inputs(), torch.zeros(20, dtype=torch.int64))]
    result = rc.align(model, other, rc.Task(model, data), matcher="weight", symmetry="full")
    assert result.match.group_element == element.inverse()
    expect_close(result.aligned.mean, parameters(model))
