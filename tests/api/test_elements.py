"""Alignments by matchers that find linear maps, in every function with a matcher as its argument."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import rebasin_core as rc
from rebasin_core.matchers import ChainMatcher, PortfolioMatcher, WeightMatcher
from rebasin_core.posteriors import PointPosterior
from rebasin_core.symmetry import SymmetryElement

FULL = WeightMatcher(symmetry="full", tolerance=1e-12)
INPUTS = torch.randn(24, 5, generator=torch.Generator().manual_seed(3)).double()


class Network(nn.Sequential):
    """Signs and permutations of the hidden units; flips for logistic ones."""

    unit: ClassVar[type[nn.Module]] = nn.Tanh

    def __init__(self) -> None:
        super().__init__(nn.Linear(5, 12), self.unit(), nn.Linear(12, 4))


pytestmark = pytest.mark.usefixtures("_unit")


@pytest.fixture(params=[nn.Tanh, nn.Sigmoid])
def _unit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Network, "unit", request.param)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Network().double()


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in model.named_parameters()}


def copies(count: int = 3) -> tuple[nn.Module, rc.PermutationSpec, list[dict[str, Tensor]]]:
    """Return a network, its specification, and copies transformed by random elements; the first is not transformed."""
    model = network()
    spec = rc.trace_spec(model, INPUTS)
    base = tensors_of(model)
    elements = [
        SymmetryElement.random(spec.symmetry, generator=torch.Generator().manual_seed(seed)) for seed in range(1, count)
    ]
    return model, spec, [base, *(element.apply(base) for element in elements)]


def expect_equal(found: Any, wanted: Any) -> None:
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor)


def test_merged_copies_are_the_network() -> None:
    _, spec, networks = copies()
    merged = rc.merge(networks, spec, matcher=FULL)
    expect_equal(merged.posterior.mean, networks[0])
    assert [isinstance(element, SymmetryElement) for element in merged.permutations] == [False, True, True]
    expect_equal(merged.permutations[2].apply(networks[2]), networks[0])
    permuted = rc.merge(networks, spec, matcher="weight").posterior.mean
    assert not torch.allclose(permuted["0.weight"], networks[0]["0.weight"], atol=0.1)


def test_many_networks_and_samples_are_jointly_aligned() -> None:
    _, spec, networks = copies(4)
    found = rc.match_many(networks, spec, matcher=FULL, start="first")
    for own, element in zip(networks, found.permutations, strict=True):
        expect_equal(element.apply(own), networks[0])
    expect_equal(found.between(1, 2).apply(networks[1]), networks[2])
    cycle = found.between(0, 1).compose(found.between(1, 2)).compose(found.between(2, 0))
    assert cycle.is_identity
    for reference in (None, 1):
        aligned = rc.align_samples(networks, spec, matcher=FULL, reference=reference)
        assert aligned.mean_squared_distances[-1] < 1e-20 < aligned.mean_squared_distances[0]


def test_align_evaluates_and_returns_the_element() -> None:
    model, spec, networks = copies(2)
    task = rc.Task(model, [(INPUTS, model(INPUTS).argmax(1))])
    found = rc.align(networks[0], networks[1], task, spec=spec, matcher=FULL)
    expect_equal(found.aligned.mean, networks[0])
    assert isinstance(found.match.group_element, SymmetryElement)
    assert found.effect is not None
    assert found.effect.aligned == pytest.approx(found.effect.reference)
    rejected = found.match.at_identity(spec.layout)
    assert rejected.group_element.is_identity
    soup = rc.greedy_soup(networks, spec, task, matcher=FULL)
    assert soup.members == (0, 1)
    expect_equal(soup.posterior.mean, networks[0])


@pytest.mark.parametrize(
    "matcher", [PortfolioMatcher(matchers=["weight", FULL]), ChainMatcher(matchers=["weight", FULL])]
)
def test_wrappers_keep_the_element(matcher: rc.Matcher) -> None:
    model, spec, networks = copies(2)
    task = rc.Task(model, [(INPUTS, model(INPUTS).argmax(1))])
    found = rc.match(networks[0], networks[1], spec, matcher, task=task)
    expect_equal(found.apply(networks[1]), networks[0])
    assert found.moved == found.permutation.moved


def test_distances_are_those_of_the_transformed_candidate() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4)).double()
    spec = rc.trace_spec(model, INPUTS)
    reference = tensors_of(model)
    element = SymmetryElement.random(spec.symmetry, generator=torch.Generator().manual_seed(0), log_stddev=1.0)
    candidate = {name: tensor + 0.1 for name, tensor in element.inverse().apply(reference).items()}
    found = rc.analysis.network_distances(spec.layout, reference, candidate, element)
    aligned = element.apply(candidate)
    for name, tensor in reference.items():
        distance = found.tensors[name]
        assert distance.after == pytest.approx((tensor - aligned[name]).square().sum().item())
        assert distance.before == pytest.approx((tensor - candidate[name]).square().sum().item())
        cosine = torch.cosine_similarity(tensor.flatten(), aligned[name].flatten(), dim=0)
        assert distance.cosine_after == pytest.approx(cosine.item())
    first, second = (torch.cat([tensor.flatten() for tensor in of.values()]) for of in (reference, aligned))
    assert found.total.cosine_after == pytest.approx(torch.cosine_similarity(first, second, dim=0).item())


def test_files_are_aligned_and_merged_with_linear_maps(tmp_path: Path) -> None:
    _, _, networks = copies(2)
    paths = [tmp_path / f"{k}.safetensors" for k in range(2)]
    for path, tensors in zip(paths, networks, strict=True):
        save_file({name: tensor.float().contiguous() for name, tensor in tensors.items()}, path)
    source = {"name": "factory", "factory": f"{__name__}:Network", "inputs": ["3,5"]}
    found = rc.align_checkpoints(*paths, model=source, matcher=FULL)
    assert found.function is not None
    assert found.function.is_kept
    assert found.distances.total.aligned < 1e-5
    files = found.write(tmp_path / "aligned.safetensors")
    expect_equal(load_file(files[0]), load_file(paths[0]))
    element = rc.load_element(files[1])
    assert isinstance(element, SymmetryElement)
    assert rc.api.checkpoints.verify_output(files[0], *paths) == []
    merged = rc.merge_checkpoints(paths, model=source, matcher=FULL).write(tmp_path / "merged.safetensors")
    expect_equal(load_file(merged[0]), load_file(paths[0]))
    with pytest.raises(rc.RebasinError, match="belongs to another specification"):
        element.compose(
            SymmetryElement.identity(rc.symmetry.Symmetry(rc.table_spec({"w": "n"}, {"w": INPUTS[0]}).layout))
        )


def test_results_continue_after_a_completed_search(tmp_path: Path) -> None:
    """The file of a completed search keeps the linear maps."""
    _, _, networks = copies(2)
    paths = [tmp_path / f"{k}.safetensors" for k in range(2)]
    for path, tensors in zip(paths, networks, strict=True):
        save_file({name: tensor.float().contiguous() for name, tensor in tensors.items()}, path)
    source = {"name": "factory", "factory": f"{__name__}:Network", "inputs": ["3,5"]}
    (tmp_path / "work").mkdir()
    options: dict[str, Any] = {"model": source, "matcher": FULL, "chance": False, "work": tmp_path / "work"}
    first = rc.align_checkpoints(*paths, **options)
    second = rc.align_checkpoints(*paths, **options)
    assert isinstance(second.permutation, SymmetryElement)
    assert second.permutation == first.permutation
    assert second.result.seconds == first.result.seconds  # it was read, not computed again


def test_single_networks_remain_single_networks() -> None:
    _, spec, networks = copies(2)
    found = rc.match(networks[0], networks[1], spec, FULL)
    aligned = found.apply(PointPosterior(networks[1]))
    assert isinstance(aligned, PointPosterior)
    expect_equal(aligned.mean, networks[0])
