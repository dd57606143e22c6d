from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest
import torch

import rebasin_core as rc
from rebasin_core.assignment import Assignment, AssignmentSolver
from rebasin_core.bilinear.coordinate_descent import CoordinateDescent

ARCHITECTURE = rc.architectures.MLPArchitecture(hidden=[20, 20, 20])
A, B = (ARCHITECTURE.build((6,), 3, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
SPEC = ARCHITECTURE.spec(A)
DATA = [(torch.randn(30, 6, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3)]


def interrupt_sweep(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Raise KeyboardInterrupt at the step of this number, in the middle of a sweep."""
    solve, calls = CoordinateDescent._step, [0]

    def interrupted(self: CoordinateDescent, name: str) -> bool:
        calls[0] += 1
        if calls[0] == number:
            raise KeyboardInterrupt
        return solve(self, name)

    monkeypatch.setattr(CoordinateDescent, "_step", interrupted)


def test_an_interrupted_descent_returns_its_best_result_and_can_be_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    matcher = rc.matchers.WeightMatcher(start="identity")
    whole = rc.match(A, B, SPEC, matcher)
    with monkeypatch.context() as patch:
        interrupt_sweep(patch, 2)
        stopped = rc.match(A, B, SPEC, matcher, on_interrupt="return")
    assert stopped.outcome is rc.MatchOutcome.INTERRUPTED
    assert stopped.identity_objective < stopped.objective < whole.objective
    resumed = rc.match(A, B, SPEC, matcher, initial=stopped.permutation)
    assert resumed.outcome is rc.MatchOutcome.CONVERGED
    assert resumed.objective > stopped.objective
    assert resumed.identity_objective == whole.identity_objective


def interrupted_step(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Raise KeyboardInterrupt at the assignment of this number."""
    solve, calls = AssignmentSolver.solve, [0]

    def interrupted(self: AssignmentSolver, similarity: torch.Tensor, **options: Any) -> Assignment:
        calls[0] += 1
        if calls[0] == number:
            raise KeyboardInterrupt
        return solve(self, similarity, **options)

    monkeypatch.setattr(AssignmentSolver, "solve", interrupted)


def test_an_interrupted_initialization_is_not_worse_than_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    objectives = []
    for number in (1, 2, 3):
        with monkeypatch.context() as patch:
            interrupted_step(patch, number)
            stopped = rc.match(A, B, SPEC, "weight", on_interrupt="return")
        assert stopped.outcome is rc.MatchOutcome.INTERRUPTED
        assert stopped.objective >= stopped.identity_objective
        objectives.append(stopped.objective)
    assert objectives[0] < objectives[-1] < rc.match(A, B, SPEC, "weight").objective


def test_an_interruption_is_raised_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_sweep(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        rc.match(A, B, SPEC, "weight")


@pytest.mark.parametrize(
    "matcher",
    [
        rc.matchers.AnnealingMatcher(steps=10**7),
        rc.matchers.StraightThroughMatcher(epochs=10**6),
        rc.matchers.SinkhornMatcher(loss="midpoint", epochs=10**6),
        rc.matchers.RestartsMatcher(matcher=rc.matchers.WeightMatcher(), restarts=10**6),
        rc.matchers.PortfolioMatcher(matchers=[rc.matchers.AnnealingMatcher(steps=10**7), rc.matchers.WeightMatcher()]),
        rc.matchers.ChainMatcher(matchers=[rc.matchers.AnnealingMatcher(steps=10**7), rc.matchers.WeightMatcher()]),
    ],
    ids=lambda m: type(m).__name__,
)
def test_a_real_signal_ends_every_long_search(matcher: rc.Matcher) -> None:
    # Modules that are imported on first use are imported now, so that the signal arrives during the search.
    rc.match(A, B, SPEC, rc.matchers.StraightThroughMatcher(epochs=1), task=rc.Task(A, DATA))
    # Background jobs of a shell ignore SIGINT unless a handler is installed.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        result = rc.match(A, B, SPEC, matcher, task=rc.Task(A, DATA), on_interrupt="return")
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
    assert result.outcome is rc.MatchOutcome.INTERRUPTED
    assert result.objective >= result.identity_objective


def test_gaps_and_numbers_of_permuted_units() -> None:
    result = rc.match(A, B, SPEC, "weight")
    assert result.gap is not None
    assert result.gap > 0
    assert sum(result.moved.values()) > 0
    by_activations = rc.match(A, B, SPEC, "activation", task=rc.Task(A, DATA))
    assert by_activations.gap == pytest.approx(0.0, abs=1e-9)  # its groups are independent: the optimum is proven
    itself = rc.match(A, A, SPEC, "weight")
    assert itself.gap == pytest.approx(0.0, abs=1e-4)
    assert not any(itself.moved.values())
