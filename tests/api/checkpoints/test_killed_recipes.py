"""Recipes whose process was killed after it had placed the output."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from rebasin_core.api.checkpoints import RecipeResult, run_recipe
from rebasin_core.config.recipe import AlignRecipe, MergeRecipe
from rebasin_core.errors import StorageError
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.tensors.lock import LOCK
from tests.api.checkpoints.networks import write
from tests.api.checkpoints.recipes import WRITTEN, copy, files, merged, recipe, write_networks

Recipe: TypeAlias = AlignRecipe | MergeRecipe


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network, and two permuted noisy copies."""
    return write_networks(tmp_path)


def killed_after_the_output(given: Recipe, monkeypatch: pytest.MonkeyPatch) -> RecipeResult:
    """Run a recipe up to the removal of its work; return the result of an undisturbed run."""

    def interrupted(_: Path) -> None:
        raise KeyboardInterrupt

    assert given.output is not None
    undisturbed = run_recipe(given)
    if given.output.is_dir():
        shutil.rmtree(given.output)
    else:
        for path in undisturbed.files:
            path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("rebasin_core.api.checkpoints.recipes._remove", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(given)
    assert given.output.with_name(f"{given.output.name}.unfinished").is_dir()
    return undisturbed


def states(paths: Iterable[Path]) -> list[tuple[int, int]]:
    """Return the entries of the file system that change if a file is written again."""
    return [(path.stat().st_ino, path.stat().st_mtime_ns) for path in paths]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (recipe, {}),
        (merged, {}),
        (recipe, {"output": "o", "max_shard": 1000}),
        (merged, {"output": "o", "max_shard": 1000}),
        (recipe, {"dtype": "bfloat16", "chance": False}),
        (merged, {"align": False}),
    ],
)
def test_the_same_recipe_completes_a_run_that_was_killed_after_its_output(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: Callable[..., Recipe], options: dict[str, Any]
) -> None:
    given = kind(folder, **{key: folder / value if key == "output" else value for key, value in options.items()})
    undisturbed = killed_after_the_output(given, monkeypatch)
    written = states(undisturbed.files)
    result = run_recipe(given)
    assert result.files == undisturbed.files
    assert states(result.files) == written
    assert result.found.as_json() == undisturbed.found.as_json()
    assert not list(folder.glob("*.unfinished"))
    with pytest.raises(StorageError, match="exists; choose another output"):
        run_recipe(given)


@pytest.mark.parametrize("change", ["recipe", "input", "permutation", "no permutation", "provenance"])
def test_other_outputs_are_not_taken_for_that_of_a_killed_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    killed_after_the_output(recipe(folder), monkeypatch)
    options = {}
    if change == "recipe":
        options["seed"] = 1
    elif change == "input":
        (folder / "b.safetensors").write_bytes((folder / "c.safetensors").read_bytes())
    elif change == "permutation":
        Permutation.identity(Permutation.load(folder / "o.permutation.safetensors").layout).save(
            folder / "o.permutation.safetensors"
        )
    elif change == "no permutation":
        (folder / "o.permutation.safetensors").unlink()
    else:
        write(folder / "o.safetensors", copy(1))
    before = (folder / "o.safetensors").read_bytes()
    with pytest.raises(StorageError, match="exists; choose another output"):
        run_recipe(recipe(folder, **options))
    assert (folder / "o.safetensors").read_bytes() == before
    run_recipe(recipe(folder, force=True, **options))
    assert files(folder) == WRITTEN


def test_a_damaged_output_of_a_killed_run_is_not_reported_as_complete(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after_the_output(recipe(folder), monkeypatch)
    content = bytearray((folder / "o.safetensors").read_bytes())
    content[-1] ^= 1  # of the last tensor
    (folder / "o.safetensors").write_bytes(content)
    with pytest.raises(StorageError, match="differs from this result; replace it with `force`"):
        run_recipe(recipe(folder))
    assert (folder / "o.safetensors").read_bytes() == content


def test_the_lock_is_removed_last(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_after_the_output(recipe(folder), monkeypatch)
    unlink: Callable[..., None] = Path.unlink

    def interrupted(path: Path, *, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=missing_ok)
        if path.parent.name == "o.safetensors.unfinished":
            raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", interrupted)
            with pytest.raises(KeyboardInterrupt):
                run_recipe(recipe(folder))
        assert (folder / "o.safetensors.unfinished" / LOCK).exists()
    run_recipe(recipe(folder))
    assert files(folder) == WRITTEN
