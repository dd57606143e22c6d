"""The laws of datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from rebasin_core.errors import DataError
from rebasin_core.testing.law import expect, law

if TYPE_CHECKING:
    from pathlib import Path

    from rebasin_core.data.base import DataSource


@law("dataset")
def determinism(source: object, folder: Path) -> None:
    """Every call of `load` returns the same examples in the same order."""
    del folder
    first = cast("DataSource", source).load()
    second = cast("DataSource", source).load()
    for one, other in ((first.train, second.train), (first.test, second.test)):
        expect(torch.equal(one.inputs, other.inputs) and torch.equal(one.targets, other.targets), "two loads differ")


@law("dataset")
def valid_examples(source: object, folder: Path) -> None:
    """Inputs are floating-point numbers of moderate size, and targets are valid for the task, in both splits."""
    del folder
    splits = cast("DataSource", source).load()
    expect(splits.target.output_size >= 1, f"the target has {splits.target.output_size} outputs")
    for name, part in (("train", splits.train), ("test", splits.test)):
        expect(part.inputs.is_floating_point(), f"{name}: expected floating-point inputs, got {part.inputs.dtype}")
        shape = tuple(part.inputs.shape[1:])
        expect(shape == splits.input_shape, f"{name}: expected inputs of shape {splits.input_shape}, got {shape}")
        expect(
            part.inputs.abs().max().item() < 100,
            f"{name}: expected inputs below 100, got {part.inputs.abs().max().item():.3g}",
        )
        if splits.target.kind == "classification":
            low = int(part.targets.min())
            high = int(part.targets.max())
            expect(0 <= low <= high < splits.target.output_size, f"{name}: invalid class labels from {low} to {high}")
        else:
            width = part.targets.shape[1:]
            expect(
                tuple(width) == (splits.target.output_size,), f"{name}: targets have shape {tuple(part.targets.shape)}"
            )


@law("dataset")
def damaged_files(source: object, folder: Path) -> None:
    """A damaged or missing file raises a DataError that names the file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        content = path.read_bytes()
        for damage, damaged in (("truncated", content[: len(content) // 2]), ("missing", None)):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            try:
                cast("DataSource", source).load()
            except DataError as error:
                expect(path.name in str(error), f"{path.name} is {damage}, but the error does not name it: {error}")
            except Exception as error:  # ruff: ignore[blind-except] - any other type is a violation
                expect(condition=False, message=f"{path.name} is {damage}: expected a DataError, got {error!r}")
            else:
                expect(condition=False, message=f"{path.name} is {damage}: expected a DataError, got none")
            path.write_bytes(content)
