"""The option `symmetry` of the channel matchers: subgroups, posteriors, and errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.errors import ConfigError, NotClosedError
from rebasin_core.matchers import WassersteinMatcher, WeightMatcher
from rebasin_core.posteriors import DiagonalGaussianPosterior, SamplesPosterior
from rebasin_core.symmetry import Kind, SymmetryElement


def pair(activation: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], rc.PermutationSpec]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 6), activation, nn.Linear(6, 9)).double()
    spec = rc.trace_spec(model, torch.randn(2, 9).double())
    reference = {name: tensor.detach() for name, tensor in model.named_parameters()}
    element = SymmetryElement.random(spec.symmetry, generator=torch.Generator().manual_seed(1))
    return reference, element.apply(reference), spec


def posterior(mean: dict[str, torch.Tensor], stddev: dict[str, torch.Tensor]) -> DiagonalGaussianPosterior:
    return DiagonalGaussianPosterior(mean, stddev)


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU()])
def test_diagonal_gaussians_are_aligned_modulo_signs_and_scales(activation: nn.Module) -> None:
    mean, _, spec = pair(activation)
    generator = torch.Generator().manual_seed(2)
    stddev = {n: torch.rand(t.shape, generator=generator, dtype=torch.float64) for n, t in mean.items()}
    reference = posterior(mean, stddev)
    element = SymmetryElement.random(spec.symmetry, generator=generator)
    candidate = reference.transform(element)
    result = rc.match(reference, candidate, spec, WassersteinMatcher(symmetry="full"))
    aligned = result.apply(candidate)
    for name in mean:
        assert torch.allclose(aligned.mean[name], mean[name], atol=1e-6)
        assert torch.allclose(aligned.stddev[name], stddev[name], atol=1e-6)
    permuted = rc.match(reference, candidate, spec, "wasserstein").apply(candidate)
    assert any(not torch.allclose(permuted.mean[name], mean[name], atol=0.1) for name in mean)


def test_invertible_maps_of_single_networks_and_samples_only() -> None:
    mean, moved, spec = pair(nn.Identity())
    stddev = {name: torch.full_like(tensor, 0.1) for name, tensor in mean.items()}
    first, second = posterior(mean, stddev), posterior(moved, stddev)
    found = rc.match(first, second, spec, WassersteinMatcher(symmetry="full"))
    assert found.element is not None
    assert {linear.kind for linear in found.element.symmetry.linear} == {Kind.NONZERO}
    with pytest.raises(NotClosedError, match="standard deviations of entries"):
        rc.match(first, second, spec, WassersteinMatcher(symmetry=("invertible",)))
    one, two = [SamplesPosterior({n: torch.stack([t, t]) for n, t in side.items()}) for side in (mean, moved)]
    aligned = rc.match(one, two, spec, WeightMatcher(symmetry="full", tolerance=1e-12)).apply(two)
    assert torch.allclose(aligned.mean["0.weight"], mean["0.weight"], atol=1e-5)


def test_a_tuple_of_kinds_selects_a_subgroup() -> None:
    mean, moved, spec = pair(nn.Identity())
    for kind, expected in (("orthogonal", Kind.ORTHOGONAL), ("sign", Kind.SIGN)):
        found = rc.match(mean, moved, spec, {"name": "weight", "symmetry": [kind]})
        assert found.element is not None
        assert [linear.kind for linear in found.element.symmetry.linear] == [expected]
    rotation = rc.match(mean, moved, spec, {"name": "weight", "symmetry": ["rotation"]})
    assert rotation.element is None
    with pytest.raises(ConfigError, match="symmetry"):
        WeightMatcher(symmetry=("reflection",))


def test_the_option_is_part_of_the_identity_of_a_strategy() -> None:
    plain, full = WeightMatcher(), WeightMatcher(symmetry="full")
    assert plain.canonical_json() == '{"name":"weight"}' or "permutation" in plain.canonical_json()
    assert plain.canonical_json() != full.canonical_json()
    assert rc.build("matcher", name="weight", symmetry=["sign", "positive"]).symmetry == (Kind.SIGN, Kind.POSITIVE)
