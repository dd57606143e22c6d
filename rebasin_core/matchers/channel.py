"""Matchers that compare tensors of the parameters' shapes: one solver, different channels."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Literal, TypeAlias, final, get_args

import torch
from typing_extensions import override

from rebasin_core.bilinear.coordinate_descent import CoordinateDescent
from rebasin_core.errors import InvalidInputError
from rebasin_core.matchers.base import Matcher, MatchProblem
from rebasin_core.matchers.result import MatchOutcome
from rebasin_core.matchers.search import better, descended, interruptible
from rebasin_core.tensors.checks import require_finite

if TYPE_CHECKING:
    from rebasin_core.assignment import AssignmentSolver
    from rebasin_core.bilinear.terms import Channels
    from rebasin_core.matchers.result import MatchResult
    from rebasin_core.posteriors.base import Posterior

Start: TypeAlias = Literal["best", "outward", "identity"]


class AbstractChannelMatcher(Matcher):
    r"""Maximises a sum of bilinear assignments between channels, by coordinate descent over the groups.

    $$ \max_P \sum_l \langle \phi_l, P_l \, \psi_l \, P_{l-1}^\top \rangle $$

    with channels $\phi$ of the reference and $\psi$ of the candidate, each of shape ``[C, *s]`` for a parameter of
    shape ``s``. A subclass says what the channels are; they must be *equivariant*: computed entry by entry from tensors
    attached to the parameters.

    Args:
        max_sweeps: The most sweeps over all groups, at least 1.
        assignment: Solves the assignments; the fastest exact solver if not given.
        start: Where descents begin if no initial permutation is given. ``outward``: every group is first solved once by
            what is known already, from the data on (the identity where that is worse); ``identity``; ``best``: both
            are tried, and the better end is taken.

    Raises:
        InvalidInputError: If an option is out of range.

    References:
        S. Ainsworth, J. Hayase, S. Srinivasa (2023), "Git Re-Basin", ICLR, arXiv 2209.04836, algorithm 1.
    """

    def __init__(
        self, *, max_sweeps: int = 100, assignment: AssignmentSolver | None = None, start: Start = "outward"
    ) -> None:
        if max_sweeps < 1:
            message = f"expected `max_sweeps` of at least 1, got {max_sweeps!r}"
            raise InvalidInputError(message)
        if start not in get_args(Start):
            message = f"expected a start among {get_args(Start)}, got {start!r}"
            raise InvalidInputError(message)
        self._max_sweeps, self._assignment, self._start = max_sweeps, assignment, start

    @abstractmethod
    def _channels(self, reference: Posterior, candidate: Posterior) -> tuple[Channels, Channels]:
        """Return the channels of both, ``[C, *s]`` for every parameter."""

    @final
    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        start = perf_counter()
        reference, candidate = self._channels(problem.reference, problem.candidate)
        require_finite(reference, "the reference's channels")
        require_finite(candidate, "the candidate's channels")
        solver = CoordinateDescent(problem.layout, reference, candidate, solver=self._assignment)
        identity_objective = solver.objective()

        def descend(max_sweeps: int = self._max_sweeps) -> MatchResult:
            return descended(problem, solver, max_sweeps=max_sweeps, start=start, identity_objective=identity_objective)

        if problem.initial is not None:
            solver.start_at(problem.initial.indices)
            return descend()
        orders = problem.generator.get_state()
        outward = False
        with interruptible(problem) as beginning:
            outward = self._start != "identity" and solver.initialize_greedily()
        if beginning.happened:
            if solver.objective() < identity_objective:
                solver.start_at(None)
            return replace(descend(max_sweeps=0), outcome=MatchOutcome.INTERRUPTED)
        result = descend()
        if not (outward and self._start == "best") or result.outcome is MatchOutcome.INTERRUPTED:
            return result
        # In the orders in which a descent from the identity alone would go, so that no better one is missed.
        problem.generator.set_state(orders)
        solver.start_at(None)
        return better(result, descend())


def mean_channels(posterior: Posterior) -> Channels:
    """Return the means as one channel.

    Args:
        posterior: The posterior.

    Returns:
        ``[1, *s]`` for every parameter.
    """
    return {name: tensor.unsqueeze(0) for name, tensor in posterior.shared_mean().items()}


def moment_channels(posterior: Posterior) -> Channels:
    """Return means and standard deviations as two channels.

    Args:
        posterior: The posterior.

    Returns:
        ``[2, *s]`` for every parameter.
    """
    stddev = posterior.stddev
    return {name: torch.stack([mean, stddev[name]]) for name, mean in posterior.shared_mean().items()}


def require_positive_stddev(posterior: Posterior, what: str) -> None:
    """Refuse posteriors that are sure of an entry, for channels with precisions.

    Args:
        posterior: The posterior.
        what: What it is, for the message.

    Raises:
        InvalidInputError: If a standard deviation is zero; names the tensor.
    """
    for name, stddev in posterior.stddev.items():
        if stddev.numel() and not bool((stddev > 0).all()):
            message = (
                f"the {what}'s `{name}` has entries with zero standard deviation, so that their precision is infinite; "
                "use the matcher `wasserstein`, or `weight` for points"
            )
            raise InvalidInputError(message)
