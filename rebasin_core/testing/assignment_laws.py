"""The laws of assignment solvers."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from scipy.optimize import linear_sum_assignment

from rebasin_core.assignment.duals import bound_gap
from rebasin_core.testing.law import device_under_test, expect, law, seeded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from rebasin_core.assignment import Assignment, AssignmentSolver

_SIZES = (1, 2, 3, 8, 40, 150)


def _matrices(size: int, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Yield named square matrices, including types that are difficult for solvers."""
    generator = seeded(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    dead = normal(size, size)
    dead[: size // 4], dead[:, : size // 4] = 0.0, 0.0
    features = normal(size, 2 * size)
    yield "generic", normal(size, size)
    yield "products of weights", features @ normal(size, 2 * size).T
    yield "a permuted copy", features @ features[torch.randperm(size, generator=generator)].T
    yield "ties", torch.randint(0, 3, (size, size), generator=generator).double()
    yield "constant", torch.full((size, size), 2.5, dtype=torch.float64)
    yield "equal rows", normal(1, size).expand(size, size).clone()
    yield "rank one", normal(size, 1) * normal(1, size)
    yield (
        "rows and columns of very different scales",
        normal(size, size) * normal(size, 1).exp() * normal(1, size).exp(),
    )
    yield "dead rows and columns", dead


def _total(matrix: Tensor, found: Assignment) -> float:
    index = found.index
    expect(index.sort().values.unique().numel() == len(matrix), f"{index.tolist()} assigns a column twice")
    return matrix.double().gather(1, index.unsqueeze(1)).sum().item()


def _best(matrix: Tensor) -> float:
    exact = matrix.double().cpu().numpy()
    rows, columns = linear_sum_assignment(exact, maximize=True)
    return float(exact[rows, columns].sum())


@law("assignment")
def optimality(config: object, folder: Path) -> None:
    """The total is that of the best assignment, up to the stated gap."""
    del folder
    solver = cast("AssignmentSolver", config)
    for size in _SIZES:
        for dtype in (torch.float32, torch.float64):
            for description, matrix in _matrices(size, seed=size):
                given = matrix.to(device_under_test(), dtype)
                found = solver.solve(given)
                short = _best(given) - _total(given, found)
                allowed = 1e-9 * given.abs().double().sum().item() + (
                    found.gap.item() if found.gap is not None else 0.0
                )
                expect(short <= allowed, f"{description}, {size} rows, {dtype}: the total is too small by {short:.3e}")


@law("assignment")
def certificate(config: object, folder: Path) -> None:
    """Potentials, if returned, prove the stated gap."""
    del folder
    solver = cast("AssignmentSolver", config)
    for description, cpu_matrix in _matrices(40, seed=1):
        matrix = cpu_matrix.to(device_under_test())
        found = solver.solve(matrix)
        if found.potentials is not None and found.gap is not None:
            proven = bound_gap(matrix, found.index, found.potentials).item()
            expect(
                abs(proven - found.gap.item()) <= 1e-9 * matrix.abs().sum(),
                f"{description}: proven gap {proven}, stated {found.gap}",
            )


@law("assignment")
def independence_of_the_start(config: object, folder: Path) -> None:
    """The total does not depend on ``start``, be it the result for a similar or a very different matrix."""
    del folder
    solver = cast("AssignmentSolver", config)
    for description, cpu_matrix in _matrices(150, seed=2):
        matrix = cpu_matrix.to(device_under_test())
        noise = torch.randn(matrix.shape, generator=seeded(3), dtype=torch.float64).to(matrix.device)
        for scale in (0.0, 0.01, 10.0):
            changed = matrix + scale * noise
            found = solver.solve(changed, start=solver.solve(matrix))
            short = _best(changed) - _total(changed, found)
            expect(
                short <= 1e-9 * changed.abs().sum().item(),
                f"{description}, noise {scale}: total too small by {short:.3e}",
            )


@law("assignment")
def batches(config: object, folder: Path) -> None:
    """The result of a batch is that of its matrices solved separately."""
    del folder
    solver = cast("AssignmentSolver", config)
    matrices = torch.randn(2, 3, 20, 20, generator=seeded(4), dtype=torch.float64).to(device_under_test())
    found = solver.solve(matrices)
    expect(found.index.shape == (2, 3, 20), f"the indices of a batch have shape {tuple(found.index.shape)}")
    for i in range(2):
        for j in range(3):
            expect(torch.equal(found.index[i, j], solver.solve(matrices[i, j]).index), f"matrix {i}, {j} differs")


@law("assignment")
def rectangular_matrices(config: object, folder: Path) -> None:
    """With fewer rows than columns, the total is that of the best assignment, and the stated gap is zero."""
    del folder
    solver = cast("AssignmentSolver", config)
    for rows, columns in ((1, 5), (3, 4), (20, 60)):
        matrix = torch.randn(rows, columns, generator=seeded(rows), dtype=torch.float64).to(device_under_test()) - 1
        found = solver.solve(matrix)
        short = _best(matrix) - _total(matrix, found)
        expect(short <= 1e-9, f"{rows} of {columns}: the total is too small by {short:.3e}")
        expect(found.gap is None or found.gap.item() <= 1e-9, f"{rows} of {columns}: the gap is {found.gap}")
