from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rebasin_core.assignment import (
    Assignment,
    AssignmentSolver,
    AuctionAssignment,
    CompiledAssignment,
    ScipyAssignment,
    default_solver,
    solve_assignment,
)
from rebasin_core.assignment.duals import bound_gap, potentials_of
from rebasin_core.errors import ConfigError, InvalidInputError

SOLVERS = [ScipyAssignment(certify=True), CompiledAssignment(), AuctionAssignment(), default_solver()]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
@given(st.integers(1, 5), st.integers(0, 2**31), st.sampled_from(["normal", "ties", "constant", "rank one", "far"]))
@settings(max_examples=60, deadline=None)
def test_equals_brute_force(solver: AssignmentSolver, n: int, seed: int, kind: str) -> None:
    g = torch.Generator().manual_seed(seed)
    a = {
        "normal": torch.randn(n, n, generator=g, dtype=torch.float64),
        "ties": torch.randint(0, 3, (n, n), generator=g).double(),
        "constant": torch.ones(n, n, dtype=torch.float64),
        "rank one": torch.outer(*torch.randn(2, n, generator=g, dtype=torch.float64)),
        "far": 1e6 + torch.randn(n, n, generator=g, dtype=torch.float64),
    }[kind]
    found = solver.solve(a)
    best = max(sum(a[i, p[i]].item() for i in range(n)) for p in permutations(range(n)))
    assert sorted(found.index.tolist()) == list(range(n))
    assert a.gather(1, found.index[:, None]).sum().item() == pytest.approx(best, rel=1e-12, abs=1e-12)
    if found.gap is not None:
        assert found.gap.item() <= 1e-9 * a.abs().sum().item()


@pytest.mark.parametrize("n", [128, 300])
def test_large_matrices_equal_scipy(n: int) -> None:
    g = torch.Generator().manual_seed(n)
    for a in (torch.randn(n, n, generator=g), torch.randn(n, 1, generator=g) * torch.randn(1, n, generator=g)):
        best = ScipyAssignment().solve(a).index
        for solver in (
            CompiledAssignment(),
            AuctionAssignment(max_unassigned=0.1),
            AuctionAssignment(max_unassigned=0.0),
        ):
            found = solver.solve(a)
            totals = [a.double().gather(1, index[:, None]).sum().item() for index in (found.index, best)]
            assert totals[0] == pytest.approx(totals[1], rel=1e-12)
            assert found.gap is not None
            assert found.gap.item() < 1e-9


def test_a_converged_matrix_keeps_its_assignment() -> None:
    a = torch.randn(200, 200, generator=torch.Generator().manual_seed(0))
    first = CompiledAssignment().solve(a)
    again = CompiledAssignment().solve(a, start=first)
    assert torch.equal(first.index, again.index)
    assert first.potentials is not None
    assert again.potentials is not None
    assert torch.equal(first.potentials, again.potentials)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_forbidden_pairs_are_never_assigned(solver: AssignmentSolver) -> None:
    a = torch.tensor([[5.0, 1.0, 0.0], [4.0, -torch.inf, 0.0], [-torch.inf, 2.0, -torch.inf]])
    assert solver.solve(a).index.tolist() == [0, 2, 1]
    with pytest.raises(InvalidInputError, match="has a forbidden pair"):
        solver.solve(torch.tensor([[1.0, -torch.inf], [1.0, -torch.inf]]))


@pytest.mark.parametrize(
    "bad",
    [torch.zeros(3, 2), torch.zeros(3), torch.tensor([[float("nan")]]), torch.tensor([[torch.inf]])],
    ids=["more rows", "no matrix", "nan", "infinity"],
)
def test_bad_matrices(bad: torch.Tensor) -> None:
    with pytest.raises(InvalidInputError, match="similarity"):
        solve_assignment(bad)


@pytest.mark.parametrize("index", [[0, 0], [0, 2], [0, 1, 2], [-2, 0]])
def test_invalid_starts_are_errors(index: list[int]) -> None:
    start = Assignment(torch.tensor(index), torch.zeros(2, dtype=torch.float64))
    with pytest.raises(InvalidInputError, match="the start is no assignment"):
        default_solver().solve(torch.zeros(2, 2), start=start)


def test_empty_batches_and_matrices() -> None:
    assert solve_assignment(torch.zeros(0, 3, 3)).shape == (0, 3)
    assert solve_assignment(torch.zeros(2, 0, 0)).shape == (2, 0)


def test_the_gap_of_a_suboptimal_assignment_is_its_distance_to_the_optimum() -> None:
    a = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    duals = potentials_of(a, torch.tensor([0, 1]))
    assert bound_gap(a, torch.tensor([0, 1]), duals).item() == 0
    assert bound_gap(a, torch.tensor([1, 0]), duals).item() == pytest.approx(3.0)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_matrices_on_any_device(solver: AssignmentSolver, device: torch.device) -> None:
    a = torch.randn(3, 150, 150, generator=torch.Generator().manual_seed(0))
    found = solver.solve(a.to(device))
    assert found.index.device.type == device.type
    assert torch.equal(found.index.cpu(), solver.solve(a).index)


def test_the_result_of_a_batch_does_not_depend_on_the_number_of_threads() -> None:
    similarity = torch.randn(33, 128, 128, generator=torch.Generator().manual_seed(0))
    sequential = CompiledAssignment().solve(similarity)
    torch.set_num_threads(3)
    try:
        parallel = CompiledAssignment().solve(similarity)
        warm = CompiledAssignment().solve(similarity, start=parallel)
    finally:
        torch.set_num_threads(1)
    for found in (parallel, warm):
        assert torch.equal(found.index, sequential.index)
        assert found.gap is not None
        assert found.gap.max().item() <= 1e-6


def test_bad_options() -> None:
    with pytest.raises(ConfigError, match=r"max_unassigned: expected a value less than or equal to 1, got 2.0"):
        AuctionAssignment(max_unassigned=2.0)
