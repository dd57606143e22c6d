"""The integrator, trajectories and adaptation, on energies with known properties."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from rebasin_core.inference.hamiltonian.adaptation import StepSizes, Variances, windows
from rebasin_core.inference.hamiltonian.dynamics import Dynamics, Energy, Phase, Transition, initial_step_size
from rebasin_core.inference.hamiltonian.no_u_turn import no_u_turn_transition
from rebasin_core.inference.hamiltonian.trajectories import fixed_transition


def quartic(position: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return (position**4 / 4 + position**2 / 2).sum(1), position**3 + position


def normal(position: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return position.square().sum(1) / 2, position


def dynamics(energy: Energy, step_size: float, chains: int, size: int, seed: int = 0) -> Dynamics:
    sizes = torch.full((chains,), step_size, dtype=torch.float64)
    variances = torch.ones(chains, size, dtype=torch.float64)
    return Dynamics(energy, sizes, variances, torch.Generator().manual_seed(seed))


def phase(energy: Energy, chains: int, size: int) -> Phase:
    generator = torch.Generator().manual_seed(1)
    position = torch.randn(chains, size, generator=generator, dtype=torch.float64)
    momentum = torch.randn(chains, size, generator=generator, dtype=torch.float64)
    return Phase(position, momentum, *energy(position))


def test_the_error_of_the_energy_is_of_second_order() -> None:
    start = phase(quartic, 20, 3)
    errors = []
    for steps in (50, 100):
        flow = dynamics(quartic, 1 / steps, 20, 3)
        final = start
        for _ in range(steps):
            final = flow.leapfrog(final, flow.step_size)
        errors.append((flow.hamiltonian(final) - flow.hamiltonian(start)).abs())
    assert (errors[0] / errors[1]).median().item() == pytest.approx(4, rel=0.03)


def test_leapfrog_is_reversible() -> None:
    flow = dynamics(quartic, 0.1, 5, 3)
    start = phase(quartic, 5, 3)
    final = start
    for _ in range(30):
        final = flow.leapfrog(final, flow.step_size)
    back = Phase(final.position, -final.momentum, final.potential, final.gradient)
    for _ in range(30):
        back = flow.leapfrog(back, flow.step_size)
    assert not torch.allclose(final.position, start.position, atol=0.1)
    torch.testing.assert_close(back.position, start.position, rtol=0, atol=1e-12)
    torch.testing.assert_close(back.momentum, -start.momentum, rtol=0, atol=1e-12)


def test_the_mass_matrix_scales_the_dynamics() -> None:
    scale = torch.tensor([[10.0, 0.1]], dtype=torch.float64)

    def scaled(position: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        potential, gradient = normal(position / scale)
        return potential, gradient / scale

    start = phase(normal, 1, 2)
    plain = dynamics(normal, 0.3, 1, 2).leapfrog(start, torch.tensor([0.3]))
    flow = Dynamics(scaled, torch.tensor([0.3]), scale**2, torch.Generator())
    other = Phase(start.position * scale, start.momentum / scale, *scaled(start.position * scale))
    final = flow.leapfrog(other, torch.tensor([0.3]))
    torch.testing.assert_close(final.position, plain.position * scale)
    torch.testing.assert_close(flow.hamiltonian(final), dynamics(normal, 0.3, 1, 2).hamiltonian(plain))


def hmc(flow: Dynamics, start: Phase) -> Transition:
    return fixed_transition(flow, start, torch.full((len(flow.step_size),), 4), limit=100)


def nuts(flow: Dynamics, start: Phase) -> Transition:
    return no_u_turn_transition(flow, start, max_depth=6)


@pytest.mark.statistics
@pytest.mark.parametrize("transition", [hmc, nuts])
def test_transitions_are_calibrated(transition: Callable[[Dynamics, Phase], Transition]) -> None:
    """Simulation-based calibration (Talts et al. 2018) of logistic regressions; false alarms: 1 in 1,000 per test."""
    chains, draws = 600, 19
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(chains, 12, 2, generator=generator, dtype=torch.float64)
    truth = torch.randn(chains, 2, generator=generator, dtype=torch.float64)
    logits = torch.einsum("knd,kd->kn", x, truth)
    y = torch.bernoulli(logits.sigmoid(), generator=generator)

    def energy(position: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = torch.einsum("knd,kd->kn", x, position)
        terms = torch.nn.functional.softplus(outputs) - y * outputs
        gradient = position + torch.einsum("knd,kn->kd", x, outputs.sigmoid() - y)
        return terms.sum(1) + position.square().sum(1) / 2, gradient

    flow = dynamics(energy, 0.5, chains, 2, seed=4)
    position = torch.zeros_like(truth)
    state = Phase(position, position, *energy(position))
    ranks = torch.zeros(chains, 2, dtype=torch.int64)
    for index in range(30 + 5 * draws):
        state = transition(flow, flow.refreshed(state)).phase
        if index >= 30 and (index - 29) % 5 == 0:
            ranks += state.position < truth
    for coordinate in range(2):
        counts = np.bincount(ranks[:, coordinate].numpy(), minlength=draws + 1).reshape(10, 2).sum(1)
        assert stats.chisquare(counts).pvalue > 1e-3


def test_trajectories_stop_at_a_u_turn() -> None:
    flow = dynamics(normal, 0.1, 200, 50)
    found = nuts(flow, flow.refreshed(phase(normal, 200, 50)))
    # Half a period is 31 steps of 0.1; in high dimension all trajectories turn there.
    assert set(found.steps.tolist()) <= {15, 31, 63}
    assert found.steps.double().mean().item() == pytest.approx(31, rel=0.35)
    assert not bool(found.saturated.any())
    shallow = no_u_turn_transition(flow, flow.refreshed(phase(normal, 200, 50)), max_depth=3)
    assert shallow.steps.tolist() == [7] * 200
    assert bool(shallow.saturated.all())


@pytest.mark.parametrize("transition", [hmc, nuts])
def test_a_divergent_chain_stays_and_leaves_the_others_alone(
    transition: Callable[[Dynamics, Phase], Transition],
) -> None:
    start = phase(quartic, 4, 3)
    flow = dynamics(quartic, 0.2, 4, 3, seed=5)
    sizes = torch.tensor([0.2, 1e8, 0.2, 0.2], dtype=torch.float64)
    mixed = dynamics(quartic, 0.2, 4, 3, seed=5)
    found = transition(Dynamics(mixed.energy, sizes, mixed.variances, mixed.generator), start)
    assert found.divergent.tolist() == [False, True, False, False]
    assert torch.equal(found.phase.position[1], start.position[1])
    assert found.acceptance[1] == 0
    assert bool(found.phase.position.isfinite().all())
    assert not bool(transition(flow, start).divergent.any())


def test_initial_step_sizes_cross_the_target() -> None:
    flow = dynamics(normal, 1.0, 6, 4)

    def narrow(position: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 1e4 * position.square().sum(1) / 2, 1e4 * position

    small = Dynamics(narrow, flow.step_size, flow.variances, flow.generator)
    ratio = initial_step_size(flow, phase(normal, 6, 4)) / initial_step_size(small, phase(narrow, 6, 4))
    assert ratio.log2().median().item() == pytest.approx(math.log2(100), abs=2)


@pytest.mark.parametrize(
    ("warmup", "bounds"),
    [(19, ()), (100, (15, 75)), (150, (75, 100)), (250, (75, 100, 200)), (1000, (75, 100, 150, 250, 450, 950))],
)
def test_windows_are_those_of_stan(warmup: int, bounds: tuple[int, ...]) -> None:
    assert windows(warmup) == bounds


def test_dual_averaging_reaches_the_target() -> None:
    sizes = StepSizes(torch.tensor([1e-3, 1.0, 50.0], dtype=torch.float64), 0.8)
    for _ in range(500):
        sizes.update(torch.exp(-sizes.state["size"]))  # acceptance as a function of the step size
    sizes.finish()
    assert sizes.state["size"].tolist() == pytest.approx([-math.log(0.8)] * 3, rel=0.1)


def test_variances_are_those_of_the_window() -> None:
    draws = torch.randn(40, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    variances = Variances(draws[0])
    for part in (draws[:10], draws[10:]):
        for draw in part:
            variances.add(draw)
        variances.close()
    expected = 30 / 35 * draws[10:].var(0) + 5 / 35 * 1e-3
    torch.testing.assert_close(variances.state["variances"], expected)
