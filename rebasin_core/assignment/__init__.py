"""Solvers of linear assignment problems, the combinatorial step of all permutation matchers."""

from rebasin_core.assignment.auction import AuctionAssignment
from rebasin_core.assignment.base import Assignment, AssignmentSolver
from rebasin_core.assignment.compiled import CompiledAssignment
from rebasin_core.assignment.default import AutoAssignment, SolverChoice, default_solver, solve_assignment, which_solver
from rebasin_core.assignment.scipy_solver import ScipyAssignment

__all__ = [
    "Assignment",
    "AssignmentSolver",
    "AuctionAssignment",
    "AutoAssignment",
    "CompiledAssignment",
    "ScipyAssignment",
    "SolverChoice",
    "default_solver",
    "solve_assignment",
    "which_solver",
]
