"""Damaged and hostile checkpoints of every format lead to one line of this package; no code in them is executed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.hostile.checkpoints import EXECUTED, formats, hostile_contents, mutated_copy, outcome

NUM_MUTATIONS = 12


def test_mutated_files_are_read_or_raise(tmp_path: Path) -> None:
    valid = tmp_path / "valid"
    valid.mkdir()
    for label, path in formats(valid).items():
        base = tmp_path / "base.safetensors" if label == "adapter" else None
        save_file({"0.weight": torch.ones(4, 3)}, tmp_path / "base.safetensors")
        assert outcome(path, base) == "read"
        found = {
            outcome(mutated_copy(path, tmp_path / f"{label} {seed}", random.Random(seed)), base)
            for seed in range(NUM_MUTATIONS)
        }
        assert found - {"read"}, label


def test_hostile_pickles_and_headers_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "case"
    for number, content in enumerate(hostile_contents(tmp_path)):
        path.write_bytes(content)
        assert outcome(path) in {"read", "FileFormatError", "InvalidInputError"}, number
    assert not (tmp_path / EXECUTED).exists()
    assert [each.name for each in tmp_path.iterdir()] == ["case"]
