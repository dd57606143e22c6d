"""Interrupted matches resume from their checkpoint."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import rebasin_core as rc
from rebasin_core.api.resumption import FileRecord
from rebasin_core.errors import FileFormatError
from tests.matchers.test_interruption import interrupt_sweep

ARCHITECTURE = rc.architectures.MLPArchitecture(hidden=[20, 20, 20])
A, B = (ARCHITECTURE.build((6,), 3, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
SPEC = ARCHITECTURE.spec(A)
MATCHER = rc.matchers.WeightMatcher(start="identity")


def test_an_interrupted_match_saves_its_best_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "match.safetensors"
    whole = rc.match(A, B, SPEC, MATCHER, checkpoint=file)
    assert not file.exists()
    with monkeypatch.context() as patch:
        interrupt_sweep(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            rc.match(A, B, SPEC, MATCHER, checkpoint=file)
    assert not rc.Permutation.load(file, SPEC.layout).is_identity
    with monkeypatch.context() as patch:
        interrupt_sweep(patch, 1)
        stopped = rc.match(A, B, SPEC, MATCHER, checkpoint=file, on_interrupt="return")
    assert stopped.outcome is rc.MatchOutcome.INTERRUPTED
    # The second search was interrupted in its first sweep, and returns the result of the first search.
    assert stopped.identity_objective < stopped.objective < whole.objective
    assert stopped.permutation == rc.Permutation.load(file)
    resumed = rc.match(A, B, SPEC, MATCHER, checkpoint=file)
    assert resumed.outcome is rc.MatchOutcome.CONVERGED
    assert resumed.objective > stopped.objective
    assert not file.exists()


def test_a_learned_match_is_at_least_as_good_as_its_initial_permutation(tmp_path: Path) -> None:
    file = tmp_path / "match.safetensors"
    found = rc.match(A, B, SPEC, "weight")
    found.permutation.save(file)
    # The learning rate is too small to change the permutation.
    again = rc.match(A, B, SPEC, rc.matchers.SinkhornMatcher(epochs=1, learning_rate=1e-12), checkpoint=file)
    assert again.permutation == found.permutation


def test_a_checkpoint_of_another_network_is_an_error(tmp_path: Path) -> None:
    other = rc.architectures.MLPArchitecture(hidden=[7])
    spec = other.spec(other.build((6,), 3))
    spec.random_permutation(generator=torch.Generator().manual_seed(0)).save(tmp_path / "other.safetensors")
    with pytest.raises(FileFormatError, match="another specification"):
        rc.match(A, B, SPEC, "weight", checkpoint=tmp_path / "other.safetensors")


class Killed(BaseException):
    """The process was killed: no handler of the search can react."""


class MemoryRecord:
    """Keeps the last state, and stops the search after some states."""

    def __init__(self, stop: int) -> None:
        self.stop = stop
        self.state: tuple[rc.Permutation, dict[str, Any]] | None = None

    def saved(self) -> tuple[rc.Permutation, dict[str, Any]] | None:
        return self.state

    def save(self, state: Callable[[], tuple[rc.Permutation, Mapping[str, Any]]]) -> None:
        permutation, document = state()
        self.state = permutation, json.loads(json.dumps(dict(document)))
        self.stop -= 1
        if self.stop == 0:
            raise Killed


@pytest.mark.parametrize("start", ["greedy", "identity"])
@pytest.mark.parametrize("initial", [False, True])
def test_a_search_killed_after_any_step_has_the_result_of_the_whole_search(start: str, *, initial: bool) -> None:
    matcher = rc.matchers.WeightMatcher.model_validate({"start": start})
    first = SPEC.random_permutation(generator=torch.Generator().manual_seed(5)) if initial else None

    def search(record: MemoryRecord | None) -> rc.MatchResult:
        return matcher.match(rc.as_posterior(A), rc.as_posterior(B), SPEC, initial=first, record=record)

    whole = search(None)
    for stop in itertools.count(1):
        record = MemoryRecord(stop)
        try:
            found = search(record)
        except Killed:
            found = search(record)
        else:
            break
        assert found.permutation == whole.permutation
        assert found.objective == pytest.approx(whole.objective, rel=1e-6)
    assert stop > 6


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("start", ["greedy", "identity"])
def test_a_killed_match_continues_from_its_file_with_the_result_of_the_whole_search(
    start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, given: bool
) -> None:
    matcher = rc.matchers.WeightMatcher.model_validate({"start": start})
    initial = SPEC.random_permutation(generator=torch.Generator().manual_seed(5)) if given else None
    whole = rc.match(A, B, SPEC, matcher, initial=initial)
    flush = FileRecord.flush
    monkeypatch.setattr("rebasin_core.api.resumption._INTERVAL", 0.0)
    count = 0

    def killed(record: FileRecord) -> bool:
        nonlocal count
        flush(record)
        count += 1
        if count == stop:
            raise Killed
        return True

    monkeypatch.setattr(FileRecord, "flush", killed)
    for stop in itertools.count(1):
        count = 0
        file = tmp_path / f"{stop}.safetensors"
        try:
            rc.match(A, B, SPEC, matcher, checkpoint=file, initial=initial)
            break  # the search has fewer steps
        except Killed:
            pass
        found = rc.match(A, B, SPEC, matcher, checkpoint=file, initial=initial)
        assert found.permutation == whole.permutation, stop
        assert not file.exists()
    assert stop > 6


def test_damaged_states_are_errors(tmp_path: Path) -> None:
    file = tmp_path / "match.safetensors"
    identity = SPEC.identity()
    for state in ({"position": -1}, {"matched": ["other"]}, {"position": 99}, {"generator": "!", "position": 1}, "x"):
        identity.save(file, meta={"search": state})
        with pytest.raises(FileFormatError, match="delete the file to restart"):
            rc.match(A, B, SPEC, MATCHER, checkpoint=file)
