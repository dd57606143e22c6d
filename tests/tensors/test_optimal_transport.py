"""Transport plans, compared with linear programs, closed forms, and other algorithms of POT."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import linprog

from rebasin_core.errors import ConvergenceWarning, InvalidInputError
from rebasin_core.tensors import entropic, optimal_transport
from rebasin_core.tensors.entropic import entropic_plan
from rebasin_core.tensors.optimal_transport import PlanMethod, TransportSolver, transport_cost

SHAPES = [(5, 5), (12, 9), (30, 30)]
METHODS: list[PlanMethod] = ["exact", "entropic", "unbalanced", "partial"]


def random_cost(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def least_cost(cost: torch.Tensor, mass: float = 1.0) -> float:
    """Return the optimal cost of transporting a share of the mass, from a linear program."""
    rows, columns = cost.shape
    sums = np.concatenate([np.kron(np.eye(rows), np.ones(columns)), np.kron(np.ones(rows), np.eye(columns))])
    bounds = np.concatenate([np.full(rows, 1 / rows), np.full(columns, 1 / columns)])
    found = linprog(cost.flatten().numpy(), sums, bounds, np.ones((1, cost.numel())), [mass])
    return float(found.fun)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 3.0, 1e-30, -1e30])
@pytest.mark.parametrize("shape", [(5, 5), (4, 6), (1, 1)])
def test_the_mass_of_plans_of_a_constant_cost(method: PlanMethod, value: float, shape: tuple[int, int]) -> None:
    for dtype in (torch.float32, torch.float64):
        plan = TransportSolver(method=method).plan(torch.full(shape, value, dtype=dtype))
        assert plan.dtype == dtype
        assert plan.sum().item() == pytest.approx(0.9 if method == "partial" else 1.0, rel=1e-6)
        if method in {"entropic", "unbalanced"}:
            torch.testing.assert_close(plan, torch.full(shape, 1 / plan.numel(), dtype=dtype))


@pytest.mark.parametrize("regularization", [1e-6, 1e-4, 1e-3, 0.05, 1.0, 100.0])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.filterwarnings("ignore::rebasin_core.errors.ConvergenceWarning")
def test_entropic_plans_have_their_marginals(regularization: float, shape: tuple[int, int]) -> None:
    cost = random_cost(*shape)
    plan = TransportSolver(method="entropic", regularization=regularization).plan(cost)
    assert plan.min() >= 0
    for dim, size in ((1, shape[0]), (0, shape[1])):
        torch.testing.assert_close(plan.sum(dim), plan.new_full((size,), 1 / size), rtol=1e-9, atol=0)
    excess = (plan * cost).sum().item() - least_cost(cost)
    # The regularized cost is at most that of the optimal plan plus its entropy term, which is at most log(mn).
    assert -1e-9 <= excess <= regularization * cost.std().item() * math.log(cost.numel()) + 1e-4


@pytest.mark.parametrize("regularization", [1e-4, 1e-2, 0.3])
def test_two_by_two_in_closed_form(regularization: float) -> None:
    cost = torch.tensor([[0.0, 0.3], [0.5, 0.1]], dtype=torch.float64)
    found = entropic_plan(cost, regularization)
    diagonal = 1 / (1 + math.exp(-(0.3 + 0.5 - 0.0 - 0.1) / (2 * regularization)))
    expected = torch.tensor([[diagonal, 1 - diagonal], [1 - diagonal, diagonal]], dtype=torch.float64) / 2
    torch.testing.assert_close(found.plan, expected, rtol=1e-5, atol=1e-7)
    assert found.converged


@pytest.mark.parametrize("regularization", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_entropic_plans_are_those_of_pot(regularization: float, shape: tuple[int, int]) -> None:
    cost = random_cost(*shape)
    weights = [np.full(size, 1 / size) for size in shape]
    expected = ot.sinkhorn(
        *weights, cost.numpy(), regularization, method="sinkhorn_log", numItermax=100_000, stopThr=1e-12
    )
    found = entropic_plan(cost, regularization)
    assert found.converged
    torch.testing.assert_close(found.plan, torch.from_numpy(expected), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("regularization", [1e-4, 1e-3, 0.05, 1.0])
@pytest.mark.parametrize("relaxation", [0.05, 1.0])
def test_unbalanced_plans_satisfy_their_optimality_conditions(regularization: float, relaxation: float) -> None:
    r"""C + eps log(mn T) + rho log(m a) + rho log(n b) = 0 wherever T > 0, with the marginals a and b of T."""
    cost = random_cost(6, 4)
    found = entropic_plan(cost, regularization, relaxation)
    plan = found.plan
    assert found.converged
    rows = (6 * plan.sum(1, keepdim=True)).log()
    columns = (4 * plan.sum(0, keepdim=True)).log()
    residual = cost + regularization * (24 * plan).log() + relaxation * (rows + columns)
    positive = plan > 1e-12
    assert residual[positive].abs().max().item() < 2e-4
    assert 0.1 < plan.sum().item() < 1


@pytest.mark.parametrize("regularization", [0.05, 0.5])
@pytest.mark.filterwarnings("ignore::DeprecationWarning:scipy.*")  # POT's options of SciPy's solver
@pytest.mark.filterwarnings("ignore:scipy.optimize")
def test_unbalanced_plans_are_those_of_pot_by_descent(regularization: float) -> None:
    cost = random_cost(6, 4)
    weights = [np.full(size, 1 / size) for size in cost.shape]
    expected = ot.unbalanced.lbfgsb_unbalanced(
        *weights, cost.numpy(), regularization, 1.0, reg_div="kl", numItermax=10_000, stopThr=1e-14
    )
    found = entropic_plan(cost, regularization, 1.0)
    torch.testing.assert_close(found.plan, torch.from_numpy(expected), rtol=1e-2, atol=1e-4)


def test_an_unbalanced_plan_of_one_pair_in_closed_form() -> None:
    plan = entropic_plan(torch.full((1, 1), 0.7, dtype=torch.float64), 0.1, 0.5).plan
    assert plan.item() == pytest.approx(math.exp(-0.7 / (0.1 + 2 * 0.5)), rel=1e-6)


@pytest.mark.parametrize("mass", [0.1, 0.5, 0.9, 1.0 - 1e-12, 1.0])
@pytest.mark.parametrize("shape", [(5, 5), (12, 9)])
def test_partial_plans_have_the_cost_of_a_linear_program(mass: float, shape: tuple[int, int]) -> None:
    cost = random_cost(*shape)
    plan = TransportSolver(method="partial", mass=mass).plan(cost)
    assert plan.sum().item() == pytest.approx(mass, abs=1e-8)
    assert (plan * cost).sum().item() == pytest.approx(least_cost(cost, mass), abs=1e-7)


def test_exact_plans_have_the_cost_of_a_linear_program() -> None:
    for shape in SHAPES:
        cost = random_cost(*shape)
        assert (TransportSolver().plan(cost) * cost).sum().item() == pytest.approx(least_cost(cost), abs=1e-9)


def test_plans_do_not_depend_on_the_unit_of_the_cost() -> None:
    cost = random_cost(4, 5)
    for method in METHODS:
        plans = [TransportSolver(method=method).plan(cost * unit + 7 * unit) for unit in (1.0, 1e200, 1e-200)]
        torch.testing.assert_close(plans[1], plans[0])
        torch.testing.assert_close(plans[2], plans[0])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinite_costs_are_errors(method: PlanMethod, bad: float) -> None:
    cost = torch.zeros(2, 3)
    cost[0, 0] = bad
    with pytest.raises(InvalidInputError, match="expected finite transport costs"):
        TransportSolver(method=method).plan(cost)


@pytest.mark.parametrize("method", ["entropic", "unbalanced"])
def test_unconverged_plans_give_a_warning(method: PlanMethod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entropic, "_MAX_ITERATIONS", 3)
    monkeypatch.setattr(entropic, "_SCALING_ITERATIONS", 1)
    solver = TransportSolver(method=method, regularization=1e-3)
    cost = random_cost(20, 20)
    found = solver.solve(cost)
    assert not found.converged
    assert found.error > 1e-3
    with pytest.warns(ConvergenceWarning, match=rf"the {method} transport plan of a 20x20 cost did not converge"):
        assert torch.equal(solver.plan(cost), found.plan)


def test_a_network_simplex_at_its_limit_gives_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimal_transport, "_MAX_PIVOTS", 2)
    cost = random_cost(9, 12)
    for method in ("exact", "partial"):
        with pytest.warns(ConvergenceWarning, match=f"the {method} transport plan of a 9x12 cost did not converge"):
            TransportSolver(method=method).plan(cost)
    rows = torch.full((9,), 1 / 9, dtype=torch.float64)
    columns = torch.full((12,), 1 / 12, dtype=torch.float64)
    with pytest.warns(ConvergenceWarning, match="between 9 and 12 points did not converge"):
        transport_cost(rows, columns, cost)
