"""Matchers by coordinate descent."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

import rebasin_core as rc
from rebasin_core.bilinear.similarity import SimilarityMatrices


def test_similarity_matrices_are_freed_after_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[SimilarityMatrices] = weakref.WeakSet()
    construct = SimilarityMatrices.__init__

    def watched(self: SimilarityMatrices, *arguments: Any, **options: Any) -> None:
        construct(self, *arguments, **options)
        alive.add(self)

    monkeypatch.setattr(SimilarityMatrices, "__init__", watched)
    architecture = rc.architectures.MLPArchitecture(hidden=[6, 5])
    models = [architecture.build((4,), 3, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    gc.collect()
    gc.disable()
    try:
        found = rc.match(
            models[0],
            models[1],
            architecture.spec(models[0]),
            matcher="weight",
            checkpoint=tmp_path / "state.safetensors",
        )
        assert found.outcome is rc.matchers.MatchOutcome.CONVERGED
        assert not alive
    finally:
        gc.enable()
