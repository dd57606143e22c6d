"""Stein variational gradient descent, compared with its formula, exact posteriors and MAP estimates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.errors import ConfigError, InvalidInputError
from rebasin_core.inference import SVGD, MAPInference, OptimizerSpec, ScheduleSpec
from rebasin_core.inference.ordering import StackedOrdering, optimizer_states, permute_member
from rebasin_core.inference.stein import squared_median_bandwidth, squared_particle_distances, stein_direction
from rebasin_core.posteriors import SamplesPosterior

Batches = list[tuple[torch.Tensor, torch.Tensor]]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def classes(*, sizes: tuple[int, ...] = (16, 16, 16)) -> Batches:
    targets = torch.arange(sum(sizes)) % 3
    inputs = 2 * torch.eye(3)[targets] + torch.randn(sum(sizes), 3, generator=seeded(1))
    return list(zip(inputs.double().split(list(sizes)), targets.split(list(sizes)), strict=True))


def network(*, norm: bool = False) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        middle = [nn.BatchNorm1d(6)] if norm else []
        return nn.Sequential(nn.Linear(3, 6), *middle, nn.Tanh(), nn.Linear(6, 3)).double()


def spec_of(model: nn.Module) -> rc.PermutationSpec:
    return rc.trace_spec(model, torch.zeros(4, 3).double())


def samples_of(result: rc.inference.FitResult) -> SamplesPosterior:
    assert isinstance(result.posterior, SamplesPosterior)
    return result.posterior


def outputs(model: nn.Module, posterior: SamplesPosterior, inputs: torch.Tensor) -> torch.Tensor:
    model = model.eval()
    each = [
        torch.func.functional_call(model, {**posterior.member(k).mean, **posterior.member(k).buffers}, (inputs,))
        for k in range(posterior.num_samples)
    ]
    return torch.stack(each).detach()


@pytest.mark.parametrize("bandwidth", [None, 0.7])
def test_the_direction_is_that_of_the_formula(bandwidth: float | None) -> None:
    """The kernel's gradient is taken by automatic differentiation, one pair of particles after the other."""
    particles = {
        "w": torch.randn(5, 2, 3, generator=seeded(0)).double(),
        "b": torch.randn(5, generator=seeded(1)).double(),
    }
    gradients = {name: torch.randn(t.shape, generator=seeded(2)).double() for name, t in particles.items()}
    found = stein_direction(particles, gradients, repulsion=0.3, bandwidth=bandwidth)

    flat = torch.cat([particles["w"].flatten(1), particles["b"][:, None]], 1)
    own = torch.cat([gradients["w"].flatten(1), gradients["b"][:, None]], 1)
    distances = sorted(math.dist(flat[i].tolist(), flat[j].tolist()) for i in range(5) for j in range(i))
    squared = (0.5 * (distances[4] + distances[5])) ** 2 / math.log(5) if bandwidth is None else bandwidth**2
    expected = torch.zeros_like(flat)
    for i in range(5):
        for j in range(5):
            moving = flat[j].clone().requires_grad_()
            kernel = torch.exp(-(moving - flat[i]).square().sum() / squared)
            (slope,) = torch.autograd.grad(kernel, moving)
            expected[i] += (kernel.detach() * own[j] - 0.3 * slope) / 5
    torch.testing.assert_close(found["w"].flatten(1), expected[:, :6], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found["b"], expected[:, 6], rtol=1e-9, atol=1e-12)


def test_the_median_is_over_pairs_of_different_particles() -> None:
    points = {"w": torch.tensor([[0.0], [1.0], [4.0]])}
    distances = squared_particle_distances(points)
    torch.testing.assert_close(distances, torch.tensor([[0.0, 1, 16], [1, 0, 9], [16, 9, 0]]), rtol=1e-5, atol=1e-5)
    assert squared_median_bandwidth(distances).item() == pytest.approx(9 / math.log(3), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equal_particles_share_their_gradients_and_do_not_repel(dtype: torch.dtype) -> None:
    point = torch.randn(40, generator=seeded(0)).to(dtype)
    gradients = torch.randn(3, 40, generator=seeded(1)).to(dtype)
    found = stein_direction({"w": point.expand(3, 40)}, {"w": gradients}, repulsion=1e-3)["w"]
    assert found.dtype == dtype
    expected = gradients.float().mean(0).expand(3, 40)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=4e-3 if dtype == torch.bfloat16 else 1e-4)


def test_a_step_on_a_minibatch_is_that_of_the_formula() -> None:
    """With batches of different sizes: the prior, the repulsion and the likelihood have the same weight."""
    data = classes(sizes=(8, 40))
    model = network()
    method = SVGD(particles=4, epochs=1, prior_scale=0.5, temperature=0.7, optimizer=OptimizerSpec(name="SGD", lr=0.1))
    found = samples_of(method.fit(model, data)).samples
    start = samples_of(method.replace(optimizer=OptimizerSpec(name="SGD", lr=0.0)).fit(model, data)).samples
    current = {name: tensor.double() for name, tensor in start.items()}
    for inputs, targets in data:
        gradients = {name: torch.zeros_like(tensor) for name, tensor in current.items()}
        for k in range(4):
            leaves = {name: tensor[k].clone().requires_grad_() for name, tensor in current.items()}
            loss = nn.functional.cross_entropy(torch.func.functional_call(model, leaves, (inputs,)), targets)
            squares = sum((leaf.square().sum() for leaf in leaves.values()), torch.zeros(()))
            (loss + squares / (2 * 0.5**2 * 48)).backward()
            for name, leaf in leaves.items():
                assert leaf.grad is not None
                gradients[name][k] = leaf.grad
        direction = stein_direction(current, gradients, repulsion=0.7 / 48)
        weight = len(targets) / 24
        current = {name: tensor - 0.1 * weight * direction[name] for name, tensor in current.items()}
    for name, tensor in current.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("align_every", [0, 1])
def test_one_particle_is_the_map_estimate(align_every: int) -> None:
    model = network(norm=True)
    options = {"epochs": 5, "prior_scale": 0.5, "max_grad_norm": 0.1}
    found = SVGD(particles=1, align_every=align_every, **options).fit(model, classes(), spec=spec_of(model))
    expected = MAPInference(**options).fit(model, classes())
    for name, tensor in expected.posterior.mean.items():
        assert torch.equal(samples_of(found).samples[name][0], tensor)
    assert found.history == expected.history


@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_many_particles_have_the_moments_of_a_gaussian_posterior(temperature: float) -> None:
    generator = seeded(0)
    x = torch.randn(32, 2, generator=generator).double() @ torch.tensor([[1.0, 0.6], [0.0, 0.8]]).double()
    y = x @ torch.tensor([[0.7], [-0.4]]).double() + 0.5 * torch.randn(32, 1, generator=generator).double()
    covariance = torch.linalg.inv(x.T @ x / 0.5**2 + torch.eye(2).double() / 0.8**2)
    mean = (covariance @ x.T @ y / 0.5**2).squeeze(1)
    model = nn.Linear(2, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    method = SVGD(
        particles=80, epochs=800, prior_scale=0.8, temperature=temperature, optimizer=OptimizerSpec(lr=0.02),
        schedule=ScheduleSpec(name="CosineAnnealingLR", T_max=800),
    )  # fmt: skip
    posterior = samples_of(method.fit(model, [(x, y)], likelihood=rc.evaluation.GaussianLikelihood(scale=0.5)))
    found = posterior.samples["weight"][:, 0]
    torch.testing.assert_close(found.mean(0), mean, rtol=0, atol=0.05 * covariance.diag().min().sqrt().item())
    expected = temperature * covariance
    torch.testing.assert_close(torch.cov(found.T), expected, rtol=0.15, atol=0.1 * expected.diag().mean().item())


@pytest.mark.parametrize(
    "optimizer",
    [OptimizerSpec(name="Adam", lr=0.02), OptimizerSpec(name="SGD", lr=0.1, momentum=0.9)],
    ids=["adam", "momentum"],
)
@pytest.mark.parametrize("norm", [False, True])
def test_alignment_changes_the_kernel_only(*, norm: bool, optimizer: OptimizerSpec) -> None:
    """Without interaction of the particles it has no effect on their functions: moments and buffers are permuted."""
    model = network(norm=norm)
    method = SVGD(particles=4, epochs=6, bandwidth=1e-3, temperature=0, optimizer=optimizer)
    plain = samples_of(method.fit(model, classes(), spec=spec_of(model)))
    aligned = samples_of(method.replace(align_every=2).fit(model, classes(), spec=spec_of(model)))
    assert not torch.allclose(plain.samples["0.weight"], aligned.samples["0.weight"])
    inputs = torch.randn(9, 3, generator=seeded(3)).double()
    torch.testing.assert_close(outputs(model, aligned, inputs), outputs(model, plain, inputs), rtol=1e-7, atol=1e-9)
    for name in plain.samples:
        squares = [q.samples[name].square().flatten(1).sum(1) for q in (plain, aligned)]
        torch.testing.assert_close(*squares, rtol=1e-7, atol=1e-9)


class PermutedAtReset(nn.Module):
    """A network whose initialization is the same up to an order of its hidden units."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(3, 6)
        self.out = nn.Linear(6, 3)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        order = torch.randperm(6)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            hidden = nn.Linear(3, 6).state_dict()
            out = nn.Linear(6, 3).state_dict()
        self.hidden.load_state_dict({name: tensor[order] for name, tensor in hidden.items()})
        self.out.load_state_dict({"weight": out["weight"][:, order], "bias": out["bias"]})

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(torch.tanh(self.hidden(x)))
        return out


# `nn.Linear` has `reset_parameters`, too: the children are reset after their parent otherwise.
class Fixed(nn.Linear):
    @override
    def reset_parameters(self) -> None:
        pass


def test_particles_that_are_permuted_copies_count_as_one() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = PermutedAtReset().double()
    model.hidden.__class__ = Fixed
    model.out.__class__ = Fixed
    method = SVGD(particles=3, epochs=8, bandwidth=1.0, optimizer=OptimizerSpec(lr=0.02))
    plain = samples_of(method.fit(model, classes(), spec=spec_of(model)))
    assert (plain.samples["hidden.weight"][0] - plain.samples["hidden.weight"][1]).abs().max() > 0.1
    aligned = samples_of(method.replace(align_every=1).fit(model, classes(), spec=spec_of(model)))
    alone = MAPInference(epochs=8, optimizer=OptimizerSpec(lr=0.02)).fit(model, classes()).posterior
    for name, tensor in aligned.samples.items():
        torch.testing.assert_close(tensor, alone.mean[name].expand_as(tensor), rtol=1e-6, atol=1e-8)


def test_an_alignment_preserves_functions_and_decreases_distances() -> None:
    model = network()
    spec = spec_of(model)
    stacked = {n: torch.randn(5, *t.shape, generator=seeded(7)).double() for n, t in model.named_parameters()}
    given = {name: tensor.clone() for name, tensor in stacked.items()}
    before = squared_particle_distances(stacked).sum()
    inputs = torch.randn(9, 3, generator=seeded(3)).double()
    functions = outputs(model, SamplesPosterior(given), inputs)
    found = StackedOrdering(spec.layout, seeded(0)).find(stacked)
    assert all(torch.equal(given[name], tensor) for name, tensor in stacked.items())
    assert found[0].is_identity
    for member, permutation in enumerate(found):
        permute_member(permutation, member, stacked)
    assert squared_particle_distances(stacked).sum() < 0.9 * before
    torch.testing.assert_close(outputs(model, SamplesPosterior(stacked), inputs), functions, rtol=1e-9, atol=1e-12)


def test_states_of_optimizers_are_those_of_every_entry() -> None:
    parameters = {"w": torch.ones(2, 3, requires_grad=True), "s": torch.ones(2, requires_grad=True)}
    optimizer = torch.optim.Adam(parameters.values())
    assert list(optimizer_states(optimizer, parameters)) == []
    sum((tensor.sum() for tensor in parameters.values()), torch.zeros(())).backward()
    optimizer.step()
    found = optimizer_states(optimizer, parameters)
    assert [{name: tuple(t.shape) for name, t in state.items()} for state in found] == [{"w": (2, 3), "s": (2,)}] * 2


class Interrupted(list[tuple[torch.Tensor, torch.Tensor]]):  # ruff: ignore[subclass-builtin] - the order of lists is known
    """Batches that are read a few times, then interrupt training."""

    passes = 0

    @override
    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        self.passes += 1
        if self.passes > 5:
            raise KeyboardInterrupt
        return super().__iter__()


def test_a_resumed_run_has_the_result_of_an_uninterrupted_one(tmp_path: Path) -> None:
    model = network()
    method = SVGD(particles=3, epochs=6, align_every=2)
    whole = samples_of(method.fit(model, classes(), spec=spec_of(model)))

    file = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        method.fit(model, Interrupted(classes()), spec=spec_of(model), checkpoint=file)
    resumed = method.fit(model, classes(), spec=spec_of(model), checkpoint=file)
    assert 0 < resumed.resumed_at < 6
    assert all(torch.equal(t, samples_of(resumed).samples[n]) for n, t in whole.samples.items())


class Experts(nn.Module):
    """Two exchangeable layers whose outputs are summed."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(3, 3) for _ in range(2))

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.tanh(expert(x)) for expert in self.experts]).sum(0)


def test_a_prior_that_differs_between_exchanged_layers_is_rejected() -> None:
    model = Experts().double()
    scales = {"experts.0.*": 1.0, "*": float("inf")}
    with pytest.raises(InvalidInputError, match="a `prior_scale` that is the same for all units"):
        SVGD(align_every=1, prior_scale=scales).fit(model, classes(), spec=spec_of(model))
    accepted = SVGD(align_every=1, particles=3, epochs=1, prior_scale={"*.weight": 1.0, "*.bias": float("inf")})
    assert samples_of(accepted.fit(model, classes(), spec=spec_of(model))).num_samples == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SVGD(particles=0), "particles: expected a value greater than 0, got 0"),
        (lambda: SVGD(bandwidth=0), "bandwidth: expected a value greater than 0, got 0"),
        (lambda: SVGD(temperature=-1), "temperature: expected a value greater than or equal to 0, got -1"),
        (lambda: SVGD(optimizer=OptimizerSpec(name="Adafactor")), "a coordinate-wise optimizer to train 10 networks"),
        (lambda: SVGD(align_every=2).fit(network(), classes()), "`align_every=2` requires the symmetries"),
        (lambda: SVGD(align_every=2).check(network(), classes()), "`align_every=2` requires the symmetries"),
        (
            lambda: SVGD(align_every=1).fit(network(), classes(), spec=spec_of(network(norm=True))),
            "the model does not match the specification; missing",
        ),
    ],
)
def test_wrong_use_is_explained(call: Callable[[], object], message: str) -> None:
    with pytest.raises((ConfigError, InvalidInputError), match=message.replace("(", "\\(")):
        call()
