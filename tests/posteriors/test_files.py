from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rebasin_core import load_posterior
from rebasin_core.errors import FileFormatError, InvalidInputError
from rebasin_core.posteriors import DiagonalGaussianPosterior, PointPosterior
from rebasin_core.tensors.files import write_tensors


def test_load_finds_the_representation(tmp_path: Path) -> None:
    q = DiagonalGaussianPosterior({"w": torch.zeros(2)}, {"w": torch.ones(2)}, buffers={"n": torch.tensor(3)})
    q.save(tmp_path / "q")
    loaded = load_posterior(tmp_path / "q")
    assert isinstance(loaded, DiagonalGaussianPosterior)
    assert loaded.buffers["n"].item() == 3
    with pytest.raises(FileFormatError, match="expected a 'point' posterior, got 'diagonal_gaussian'"):
        PointPosterior.load(tmp_path / "q")


def test_a_checkpoint_is_a_point_mass(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2), "steps": torch.tensor(5)}, tmp_path / "c.safetensors")
    point = load_posterior(tmp_path / "c.safetensors")
    assert point.kind == "point"
    assert set(point.mean) == {"w"}
    assert set(point.buffers) == {"steps"}


def test_a_file_with_missing_fields_raises(tmp_path: Path) -> None:
    document = {"representation": "diagonal_gaussian", "meta": {}}
    write_tensors(tmp_path / "q", {"mean/w": torch.zeros(1)}, kind="posterior", document=document)
    with pytest.raises(FileFormatError, match="expected the fields of a 'diagonal_gaussian' posterior"):
        load_posterior(tmp_path / "q")


def test_nan_weights_raise() -> None:
    with pytest.raises(InvalidInputError, match=r"`w` has 1 of 2 entries that are NaN"):
        PointPosterior({"w": torch.tensor([1.0, float("nan")])})
