"""Interrupted matches resume from their checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import rebasin_core as rc
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
