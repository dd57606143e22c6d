"""Merging of networks, and the loss landscape between them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import rebasin_core as rc
from rebasin_core.errors import InvalidInputError, UnknownNameError

INPUTS = 6


def examples(rows: int = 240) -> list[tuple[torch.Tensor, torch.Tensor]]:
    g = torch.Generator().manual_seed(0)
    centers = 2 * torch.randn(3, INPUTS, generator=g)
    y = torch.arange(rows) % 3
    return list(zip((centers[y] + torch.randn(rows, INPUTS, generator=g)).split(60), y.split(60), strict=True))


ARCHITECTURE = rc.architectures.MLPArchitecture(hidden=[12])


def trained(seed: int, epochs: int = 60) -> nn.Module:
    model = ARCHITECTURE.build((INPUTS,), 3, generator=torch.Generator().manual_seed(seed))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(epochs):
        for x, y in examples():
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model


@pytest.fixture(scope="module")
def networks() -> list[nn.Module]:
    return [trained(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def spec(networks: list[nn.Module]) -> rc.PermutationSpec:
    return ARCHITECTURE.spec(networks[0])


def test_permuted_copies_merge_into_the_original(networks: list[nn.Module], spec: rc.PermutationSpec) -> None:
    g = torch.Generator().manual_seed(1)
    copies = [networks[0], *(spec.random_permutation(generator=g).apply(networks[0]) for _ in range(3))]
    merged = rc.merge(copies, spec)
    for name, parameter in networks[0].named_parameters():
        torch.testing.assert_close(merged.posterior.mean[name], parameter.detach())
    assert merged.permutations[0].is_identity
    plain = rc.merge(copies, spec, matcher=None)
    assert rc.score(plain.posterior, rc.Task(networks[0], examples())).nll > (
        rc.score(merged.posterior, rc.Task(networks[0], examples())).nll + 0.1
    )


def test_repaired_activations_are_the_mean_of_the_networks(networks: list[nn.Module], spec: rc.PermutationSpec) -> None:
    merged = rc.merge(networks, spec, task=rc.Task(networks[0], examples()), repair="repair")
    x = torch.cat([x for x, _ in examples()])

    def stddev(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        return (x @ tensors["layers.0.weight"].T + tensors["layers.0.bias"]).std(0, correction=0)

    permuted = [p.apply(dict(n.named_parameters())) for p, n in zip(merged.permutations, networks, strict=True)]
    expected = torch.stack([stddev({n: t.detach() for n, t in m.items()}) for m in permuted]).mean(0)
    torch.testing.assert_close(stddev(merged.posterior.mean), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(InvalidInputError, match=r"a `task`; got 'reset' for a .* and no task"):
        rc.merge(networks, spec, repair="reset")


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare", "model_stock"])
def test_networks_are_aligned_with_their_base(method: str, networks: list[nn.Module], spec: rc.PermutationSpec) -> None:
    base = {name: parameter.detach() for name, parameter in networks[0].named_parameters()}
    g = torch.Generator().manual_seed(1)
    tuned = [{n: t + 0.01 * torch.randn(t.shape, generator=g) for n, t in base.items()} for _ in range(2)]
    expected = rc.merge(tuned, spec, method=method, base=base, matcher=None)
    permuted = [spec.random_permutation(generator=g).apply(network) for network in tuned]
    found = rc.merge(permuted, spec, method=method, base=base)
    assert not any(p.is_identity for p in found.permutations)
    assert not found.is_barycenter
    for name, start in base.items():
        torch.testing.assert_close(found.posterior.mean[name], expected.posterior.mean[name])
        assert not torch.equal(found.posterior.mean[name], start)


def test_options_weights_and_seed_of_a_method(networks: list[nn.Module], spec: rc.PermutationSpec) -> None:
    base, first, second = ({n: p.detach() for n, p in network.named_parameters()} for network in networks)
    options = {"name": "task_arithmetic", "scale": 0.5}
    found = rc.merge(
        [first, second], spec, method=options, base=base, matcher=None, weights={"layers.0.*": [0.2, -0.4]}
    )
    for name, start in base.items():
        w = (0.1, -0.2) if name.startswith("layers.0.") else (0.5, 0.5)
        wanted = start + w[0] * (first[name] - start) + w[1] * (second[name] - start)
        torch.testing.assert_close(found.posterior.mean[name], wanted)
    drawn = [rc.merge([first], spec, method="dare", base=base, matcher=None, seed=s).posterior.mean for s in (1, 1, 2)]
    assert torch.equal(drawn[0]["layers.0.weight"], drawn[1]["layers.0.weight"])
    assert not torch.equal(drawn[0]["layers.0.weight"], drawn[2]["layers.0.weight"])


def test_the_mean_method_is_the_barycenter(networks: list[nn.Module], spec: rc.PermutationSpec) -> None:
    tensors = [dict(network.named_parameters()) for network in networks]
    found = rc.merge(networks, spec, method=rc.merging.MeanMerge(), matcher=None, weights=[1, 2, 3])
    assert found.is_barycenter
    for name, mean in found.posterior.mean.items():
        merged = rc.merging.MeanMerge().merge(name, [own[name] for own in tensors], [1, 2, 3])
        torch.testing.assert_close(mean, merged)


def test_repair_of_a_merge_with_coefficients(networks: list[nn.Module], spec: rc.PermutationSpec) -> None:
    task = rc.Task(networks[0], examples())
    found = rc.merge(
        networks[1:],
        spec,
        method={"name": "task_arithmetic", "scale": 0.5},
        base=networks[0],
        weights=[0.5, -0.1],
        task=task,
        repair="repair",
        keep="aligned",
    )
    x = torch.cat([x for x, _ in examples()])

    def stddev(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return (x @ tensors["layers.0.weight"].T + tensors["layers.0.bias"]).std(0, correction=0)

    aligned = [p.apply(dict(n.named_parameters())) for p, n in zip(found.permutations, networks[1:], strict=True)]
    wanted = torch.stack([stddev({n: t.detach() for n, t in own.items()}) for own in aligned]).mean(0)
    torch.testing.assert_close(stddev(found.posterior.mean), wanted, rtol=1e-4, atol=1e-5)


def test_wrong_methods_and_bases(networks: list[nn.Module], spec: rc.PermutationSpec) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'ties'"):
        rc.merge(networks, spec, method="tie")
    with pytest.raises(InvalidInputError, match="expected a base network for the merge method 'ties', got none"):
        rc.merge(networks, spec, method="ties")
    with pytest.raises(InvalidInputError, match="expected no base network for the merge method 'mean', got one"):
        rc.merge(networks, spec, base=networks[0])
    with pytest.raises(InvalidInputError, match="`reference` \\(0 with a base\\); got 3 networks, a base and 1"):
        rc.merge(networks, spec, method="ties", base=networks[0], reference=1)
    mean = {name: parameter.detach() for name, parameter in networks[0].named_parameters()}
    gaussian = rc.posteriors.DiagonalGaussianPosterior(mean, {n: torch.ones_like(t) for n, t in mean.items()})
    with pytest.raises(
        InvalidInputError, match=r"expected single networks .* 'slerp', got a 'diagonal_gaussian' posterior"
    ):
        rc.merge([gaussian, networks[0]], spec, method="slerp")
    other = {**mean, "layers.1.bias": torch.zeros(5)}
    with pytest.raises(InvalidInputError, match=r"layers\.1\.bias"):
        rc.merge([mean, other], spec, method="slerp", matcher=None)


def test_a_soup_excludes_a_bad_network(networks: list[nn.Module], spec: rc.PermutationSpec) -> None:
    bad = trained(9, epochs=0)
    with torch.no_grad():
        for parameter in bad.parameters():
            parameter.mul_(8)
    found = rc.greedy_soup([bad, *networks], spec, rc.Task(networks[0], examples()))
    assert 0 not in found.members
    best = min(rc.score(n, rc.Task(n, examples())).nll for n in networks)
    assert rc.score(found.posterior, rc.Task(networks[0], examples())).nll <= best + 1e-6


def test_checkpoints_can_be_loaded_by_safetensors(networks: list[nn.Module], tmp_path: Path) -> None:
    rc.save_checkpoint(networks[0], tmp_path / "merged.safetensors")
    other = ARCHITECTURE.build((INPUTS,), 3)
    other.load_state_dict(load_file(tmp_path / "merged.safetensors"))
    x = examples()[0][0]
    torch.testing.assert_close(other(x), networks[0](x))
    assert rc.load_posterior(tmp_path / "merged.safetensors").kind == "point"


def test_barrier_matrix(networks: list[nn.Module], spec: rc.PermutationSpec) -> None:
    found = rc.barrier_matrix(networks, rc.Task(networks[0], examples()), spec=spec, num_points=5)
    assert found.aligned is not None
    torch.testing.assert_close(found.unaligned, found.unaligned.T)
    assert found.unaligned.diagonal().tolist() == [0.0, 0.0, 0.0]
    direct = rc.barrier(networks[0], networks[1], rc.Task(networks[0], examples()), num_points=5)
    assert found.unaligned[0, 1].item() == pytest.approx(direct.height)
    assert found.aligned.sum() < found.unaligned.sum()
    assert rc.barrier_matrix(networks[:2], rc.Task(networks[0], examples()), num_points=3).aligned is None
    with pytest.raises(InvalidInputError, match="at least two networks"):
        rc.barrier_matrix(networks[:1], rc.Task(networks[0], examples()))


def test_star_starts_at_the_center(networks: list[nn.Module]) -> None:
    found = rc.star(networks, rc.Task(networks[0], examples()), num_points=3)
    center = rc.score(found.center, rc.Task(networks[0], examples())).nll
    assert [curve.loss[0] for curve in found.curves] == pytest.approx([center] * 3, rel=1e-5)
    assert found.curves[1].loss[-1] == pytest.approx(
        rc.score(networks[1], rc.Task(networks[0], examples())).nll, rel=1e-5
    )


def test_plane_contains_the_three_networks(networks: list[nn.Module]) -> None:
    found = rc.loss_plane(
        networks[0], networks[1], networks[2], rc.Task(networks[0], examples()), num_points=3, margin=0.0
    )
    losses = [rc.score(n, rc.Task(networks[0], examples())).nll for n in networks]
    # Without a margin the second network is the last point of the first row, unless the third extends beyond it.
    assert found.loss[0, -1].item() == pytest.approx(losses[1], rel=1e-4) or found.points[2, 0] > found.points[1, 0]
    distance = sum(
        (a - b).square().sum().item() for a, b in zip(networks[0].parameters(), networks[2].parameters(), strict=True)
    )
    assert (found.points[2] - found.points[0]).square().sum().item() == pytest.approx(distance, rel=1e-5)
    with pytest.raises(InvalidInputError, match="not collinear"):
        rc.loss_plane(networks[0], networks[1], networks[1], rc.Task(networks[0], examples()))


def test_the_first_points_of_a_hull_are_its_vertices(networks: list[nn.Module]) -> None:
    found = rc.hull_losses(networks, rc.Task(networks[0], examples()), num_points=6)
    losses = [rc.score(n, rc.Task(networks[0], examples())).nll for n in networks]
    assert found.loss[:3].tolist() == pytest.approx(losses, rel=1e-5)
    torch.testing.assert_close(found.weights.sum(1), torch.ones(9, dtype=torch.float64))
    assert found.excess[:3].abs().max() < 1e-9


@pytest.mark.parametrize("kind", ["bezier", "polygon"])
def test_a_trained_bend_lowers_the_barrier(networks: list[nn.Module], kind: str) -> None:
    options: dict[str, Any] = {"task": rc.Task(networks[0], examples())}
    straight = rc.barrier(networks[0], networks[1], **options, num_points=11)
    bent = rc.barrier(
        networks[0],
        networks[1],
        **options,
        estimator={"name": "curved", "kind": kind, "epochs": 60, "learning_rate": 0.02},
        num_points=11,
    )
    assert bent.height < 0.3 * straight.height
    assert (bent.loss[0], bent.loss[-1]) == pytest.approx((straight.loss[0], straight.loss[-1]), rel=1e-5)
