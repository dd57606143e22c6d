"""Matchers that maximize a sum of bilinear assignment problems between channels, by coordinate descent."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, final

import torch
from pydantic import BeforeValidator, NonNegativeInt, PositiveInt
from tqdm import tqdm
from typing_extensions import override

from rebasin_core.assignment import AssignmentSolver, AutoAssignment
from rebasin_core.bilinear.coordinate_descent import CoordinateDescent, no_observer
from rebasin_core.bilinear.descent_state import DescentState
from rebasin_core.errors import InvalidInputError
from rebasin_core.matchers.base import Matcher, MatchOutcome, MatchProblem, MatchResult
from rebasin_core.matchers.search import interruptible
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.tensors.checks import require_finite, shorten

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rebasin_core.bilinear.terms import Channels
    from rebasin_core.posteriors.base import Posterior

Start: TypeAlias = Literal["best", "greedy", "identity"]


def _current(start: object) -> object:
    """Return the current name of a start; accepts the name that earlier run files used."""
    return "greedy" if start == "outward" else start


class AbstractChannelMatcher(Matcher):
    r"""Maximizes a sum of bilinear assignment problems between channels, by coordinate descent over the groups.

    $$ \max_P \sum_l \langle \phi_l, P_l \, \psi_l \, P_{l-1}^\top \rangle $$

    where $\phi$ are channels of the reference and $\psi$ channels of the candidate, of shape ``[C, *s]`` for a
    parameter of shape ``s``. A subclass defines the channels. They must be *equivariant*: permuting a posterior must
    permute its channels, which holds if they are computed elementwise from tensors of the parameters' shapes.

    Raises:
        ConfigError: If an option is invalid.

    References:
        S. Ainsworth, J. Hayase, S. Srinivasa (2023), "Git Re-Basin", ICLR, arXiv 2209.04836, algorithm 1.
    """

    max_sweeps: PositiveInt = 100
    """Maximum number of sweeps over all groups."""

    assignment: AssignmentSolver = AutoAssignment()
    """Solver of the linear assignment problems."""

    start: Annotated[Start, BeforeValidator(_current)] = "greedy"
    """Initialization if no initial permutation is passed. ``greedy``: match each group once, using only weights shared
    with groups that are already matched, starting next to inputs and outputs; the identity if that has the larger
    objective. ``identity``: the identity permutation. ``best``: one descent from each of these two, of which the better
    result is returned."""

    memory: NonNegativeInt | None = None
    """Maximum number of bytes for similarity matrices that are kept between steps; matrices beyond it are recomputed,
    at the cost of time and different rounding. Unlimited if None: up to two matrices for each group, and the products
    of all pairs of units of nested groups."""

    @property
    @override
    def uses_task(self) -> bool:
        return False

    @property
    @override
    def uses_slices(self) -> bool:
        return True

    @abstractmethod
    def _channels(self, reference: Posterior, candidate: Posterior) -> tuple[Channels, Channels]:
        """Return the tensors whose inner product the matcher maximizes.

        Args:
            reference: Posterior to align to.
            candidate: Posterior to permute.

        Returns:
            Channels of the reference and of the candidate: ``[C, *s]`` for every parameter of shape ``s``.
        """

    def _require_channels(self, problem: MatchProblem, channels: Channels, role: str) -> None:
        """Raise if a subclass returns channels whose shapes do not fit the parameters."""
        shapes = {name: tuple(tensor.shape) for name, tensor in problem.reference.shared_mean().items()}
        found = {name: tuple(tensor.shape) for name, tensor in channels.items()}
        wrong = sorted(name for name, shape in found.items() if shape[1:] != shapes.get(name))
        missing = sorted(shapes.keys() - found.keys())
        if wrong or missing:
            problems = [f"a channel of shape {found[n]} for `{n}`, expected ('C', *{shapes.get(n)})" for n in wrong[:4]]
            problems += [f"none for {shorten(missing)}"] if missing else []
            qualified = f"{type(self).__module__}.{type(self).__qualname__}"
            message = (
                f"the matcher {self.name!r} ({qualified}) returned channels of the {role} that do not fit its "
                f"parameters: {'; '.join(problems)}; please report this to its author"
            )
            raise InvalidInputError(message)
        require_finite(channels, f"the {role}'s channels")

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        return self._match_permutations(problem)

    @final
    def _match_permutations(self, problem: MatchProblem) -> MatchResult:
        """Return the permutation between two posteriors."""
        reference, candidate = self._channels(problem.reference, problem.candidate)
        self._require_channels(problem, reference, "reference")
        self._require_channels(problem, candidate, "candidate")
        return self._match_channels(problem, reference, candidate)

    @final
    def _match_channels(self, problem: MatchProblem, reference: Channels, candidate: Channels) -> MatchResult:
        """Return the permutation between two sets of channels."""
        start = perf_counter()
        solver = CoordinateDescent(
            problem.layout,
            reference,
            candidate,
            solver=self.assignment,
            memory=self.memory,
            device=problem.device,
        )
        try:
            return self._descended(problem, solver, start)
        finally:
            # The observer refers to the descent. Without it, the memory of all matrices is free now; otherwise, when
            # the garbage collector finds the cycle.
            solver.on_step = no_observer

    @final
    def _descended(self, problem: MatchProblem, solver: CoordinateDescent, start: float) -> MatchResult:
        """Return the result of descents from one or two starting points."""
        identity_objective = solver.objective()

        def descend(max_sweeps: int = self.max_sweeps) -> MatchResult:
            return run_descent(
                problem, solver, max_sweeps=max_sweeps, start=start, identity_objective=identity_objective
            )

        if problem.initial is not None:
            solver.start_at(problem.initial.indices)
        if self.start != "best":
            keep_state(problem, solver)
        if problem.initial is not None:
            return descend()
        state = problem.generator.get_state()
        greedy = False
        with interruptible(problem) as initialization:
            if self.start != "identity" and not solver.state.is_initialized:
                greedy = solver.initialize_greedily()
        if initialization.happened:
            if solver.objective() < identity_objective:
                solver.start_at(None)
            return replace(descend(max_sweeps=0), outcome=MatchOutcome.INTERRUPTED)
        result = descend()
        if not (greedy and self.start == "best") or result.outcome is MatchOutcome.INTERRUPTED:
            return result
        # Both descents visit the groups in the same random orders as either would alone.
        problem.generator.set_state(state)
        solver.start_at(None)
        return best_result(result, descend())


def keep_state(problem: MatchProblem, solver: CoordinateDescent) -> None:
    """Continue from the state in the problem's record, and save the state there after each step.

    Args:
        problem: The matching problem, with or without a record.
        solver: Coordinate descent at its starting point.

    Raises:
        FileFormatError: If the record is not the state of a descent over these groups.
    """
    record = problem.record
    if record is None:
        return
    saved = record.saved()
    if saved is not None:
        permutation, document = saved
        solver.continue_from(DescentState.of_document(document, problem.layout.groups), permutation.indices)

    layout = problem.layout  # the record keeps the function, which must not refer to the problem with the record

    def state() -> tuple[Permutation, dict[str, object]]:
        return Permutation(layout, solver.indices), solver.state.model_dump()

    solver.on_step = lambda: record.save(state)


def run_descent(
    problem: MatchProblem,
    solver: CoordinateDescent,
    *,
    max_sweeps: int,
    start: float,
    identity_objective: float | None = None,
    seconds: Mapping[str, float] | None = None,
) -> MatchResult:
    """Sweep over the groups until no index changes, and return the result.

    Args:
        problem: The matching problem.
        solver: Coordinate descent at its starting point.
        max_sweeps: Maximum number of sweeps.
        start: The `time.perf_counter` when the matcher started.
        identity_objective: The objective at the identity; if None, the solver must be at the identity.
        seconds: Run time of other parts of the matcher, in seconds.

    Returns:
        The result.
    """
    trace = [solver.objective()]
    outcome = MatchOutcome.MAX_SWEEPS
    previous = solver.total_increase
    sweeps = solver.sweeps(problem.generator, max_sweeps)
    bar = tqdm(sweeps, desc="match", unit="sweep", total=max_sweeps, leave=False, disable=not problem.progress)
    with interruptible(problem) as interruption:
        for changed in bar:
            trace.append(trace[0] + solver.total_increase - previous)
            if not changed:
                outcome = MatchOutcome.CONVERGED
    # A recomputed objective may be lower by rounding only.
    objective = max(solver.objective(), trace[0])
    bound = max(objective, solver.upper_bound())
    return MatchResult(
        permutation=Permutation(problem.layout, solver.indices),
        objective=objective,
        identity_objective=trace[0] if identity_objective is None else identity_objective,
        outcome=interruption.outcome(outcome),
        trace=(*(min(value, objective) for value in trace[:-1]), objective),
        seconds={"total": perf_counter() - start, **(seconds or {}), **solver.seconds},
        upper_bound=bound,
    )


def best_result(first: MatchResult, second: MatchResult) -> MatchResult:
    """Return the result with the larger objective, with the total run time of both.

    Args:
        first: A result.
        second: Another result of the same problem.

    Returns:
        The better result, marked as interrupted if either was.
    """
    best = second if second.objective > first.objective else first
    parts = first.seconds.keys() - {"total"}
    seconds = {"total": second.seconds["total"], **{p: first.seconds[p] + second.seconds[p] for p in sorted(parts)}}
    stopped = MatchOutcome.INTERRUPTED in {first.outcome, second.outcome}
    return replace(best, seconds=seconds, outcome=MatchOutcome.INTERRUPTED if stopped else best.outcome)


def mean_channels(posterior: Posterior) -> Channels:
    """Return the mean as one channel.

    Args:
        posterior: The posterior.

    Returns:
        ``[1, *s]`` for every parameter.
    """
    return {name: tensor.unsqueeze(0) for name, tensor in posterior.shared_mean().items()}


def moment_channels(posterior: Posterior) -> Channels:
    """Return the mean and the standard deviation as two channels.

    Args:
        posterior: The posterior.

    Returns:
        ``[2, *s]`` for every parameter.
    """
    stddev = posterior.stddev
    return {name: torch.stack([mean, stddev[name]]) for name, mean in posterior.shared_mean().items()}


def require_positive_stddev(posterior: Posterior, role: str) -> None:
    """Raise if any standard deviation is zero, since its precision would be infinite.

    Args:
        posterior: The posterior.
        role: Its role, for the message: ``reference`` or ``candidate``.

    Raises:
        InvalidInputError: If a standard deviation is zero; names the tensor.
    """
    for name, stddev in posterior.stddev.items():
        if stddev.numel() and not bool((stddev > 0).all()):
            message = (
                f"`{name}` of the {role} has zero standard deviations (infinite precision); use the matcher "
                "`wasserstein`, or `weight` for single networks"
            )
            raise InvalidInputError(message)
