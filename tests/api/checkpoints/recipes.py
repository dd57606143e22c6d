"""Recipes of an MLP and two permuted noisy copies, and the files that they write."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebasin_core.bilinear.coordinate_descent import CoordinateDescent
from rebasin_core.config.recipe import AlignRecipe, MergeRecipe
from rebasin_core.plugin.registry import default_registry
from tests.api.checkpoints.networks import MLP, Tensors, noisy, write


def write_networks(folder: Path) -> Path:
    """Write a network, and two permuted noisy copies."""
    write(folder / "a.safetensors", MLP.network())
    for number, name in enumerate("bc", start=1):
        write(folder / f"{name}.safetensors", MLP.permuted(copy(number), MLP.orders(number)))
    return folder


def copy(number: int) -> Tensors:
    return noisy(MLP.network(), 0.02, number)


def recipe(folder: Path, **options: object) -> AlignRecipe:
    entries = {
        "model": MLP.source,
        "reference": folder / "a.safetensors",
        "candidate": folder / "b.safetensors",
        "output": folder / "o.safetensors",
        **options,
    }
    return AlignRecipe.model_validate(entries, context={"lookup": default_registry().strategy_class})


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"a.safetensors", "b.safetensors", "c.safetensors"}


WRITTEN = {"o.safetensors", "o.permutation.safetensors"}


def interrupt(patch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    patch.setattr(CoordinateDescent, "initialize_greedily", interrupted)


def merged(folder: Path, **options: object) -> MergeRecipe:
    entries = {
        "model": MLP.source,
        "checkpoints": [folder / f"{name}.safetensors" for name in "abc"],
        "output": folder / "o.safetensors",
        **options,
    }
    return MergeRecipe.model_validate(entries, context={"lookup": default_registry().strategy_class})
