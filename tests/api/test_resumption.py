"""Interrupted matches resume from their checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


def test_a_run_resumes_its_interrupted_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    architecture = rc.architectures.MLPArchitecture(hidden=[12, 12])
    for seed, file in enumerate((first, second)):
        rc.save_checkpoint(architecture.build((64,), 10, generator=torch.Generator().manual_seed(seed)), file)
    (tmp_path / "run.yaml").write_text(
        "data: digits\narchitecture: {name: mlp, hidden: [12, 12]}\n"
        f"reference: {{path: {first}}}\ncandidate: {{path: {second}}}\n"
        "matchers: [{name: weight, start: identity}]\nbarrier: {name: pointwise, num_points: 3}\n"
    )
    config, output = rc.load_run(tmp_path / "run.yaml"), tmp_path / "out"
    with monkeypatch.context() as patch:
        interrupt_sweep(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            rc.run(config, output)
    kept = output / "permutations" / "weight.unfinished"
    begun = rc.Permutation.load(kept)
    assert not begun.is_identity
    seen: list[rc.Permutation | None] = []
    match = rc.matchers.WeightMatcher.match

    def watched(self: rc.matchers.WeightMatcher, *arguments: Any, **options: Any) -> rc.MatchResult:
        seen.append(options["initial"])
        return match(self, *arguments, **options)

    monkeypatch.setattr(rc.matchers.WeightMatcher, "match", watched)
    rc.run(config, output)
    assert seen == [begun]
    assert not kept.exists()
    assert (output / "summary.json").exists()
