"""Recipes: outputs as by hand, the folder of unfinished work, and several processes on one output."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from rebasin_core.api.checkpoints import load_recipe, run_recipe
from rebasin_core.config.recipe import MergeRecipe
from rebasin_core.errors import ConfigError, InvalidInputError, StorageError
from rebasin_core.tensors.lock import LOCK, FolderLock
from tests.api.checkpoints.networks import MLP, write
from tests.api.checkpoints.recipes import WRITTEN, copy, files, interrupt, recipe, write_networks

MODEL = f"{{name: factory, factory: '{MLP.source['factory']}', inputs: ['5,8']}}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network, and two permuted noisy copies."""
    return write_networks(tmp_path)


def test_a_recipe_file_aligns_and_is_kept_in_the_output(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(
        f"command: align\nreference: a.safetensors\ncandidate: ./b.safetensors\noutput: o.safetensors\nmodel: {MODEL}\n"
        "seed: 3\nmatcher: {name: weight, max_sweeps: 7}\nmax_shard: 1MB\nchance: false\n"
    )
    found = load_recipe(folder / "recipe.yaml")
    assert found.output == folder / "o.safetensors"
    result = run_recipe(found)
    assert result.files == (folder / "o.safetensors", folder / "o.permutation.safetensors")
    output = load_file(folder / "o.safetensors")
    assert all(torch.equal(output[name], tensor) for name, tensor in copy(1).items())
    with safe_open(folder / "o.safetensors", framework="pt") as handle:
        record = json.loads(handle.metadata()["rebasin"])
    assert record["recipe"]["matcher"]["max_sweeps"] == 7
    assert record["recipe"]["seed"] == record["seed"] == 3
    assert record["recipe"]["max_shard"] == 10**6
    assert files(folder) == {"recipe.yaml", *WRITTEN}


def test_a_recipe_file_merges_with_weights_by_pattern(folder: Path) -> None:
    (folder / "recipe.json").write_text(
        json.dumps({
            "command": "merge",
            "checkpoints": ["a.safetensors", "b.safetensors", "c.safetensors"],
            "output": "o.safetensors",
            "model": MLP.source,
            "weights": {"4.*": [0, 0, 1], "*": [1, 1, 0]},
        })
    )
    found = load_recipe(folder / "recipe.json")
    assert isinstance(found, MergeRecipe)
    run_recipe(found)
    output = load_file(folder / "o.safetensors")
    torch.testing.assert_close(output["4.weight"], copy(2)["4.weight"])
    torch.testing.assert_close(output["0.weight"], (MLP.network()["0.weight"] + copy(1)["0.weight"]) / 2)
    assert not (folder / "o.safetensors.unfinished").exists()
    # The record in the output gives the same output: the first pattern applies, so their order is kept.
    with safe_open(folder / "o.safetensors", framework="pt") as handle:
        record = json.loads(handle.metadata()["rebasin"])
    assert list(record["recipe"]["weights"]) == list(record["weights"]) == ["4.*", "*"]
    (folder / "again.json").write_text(json.dumps({**record["recipe"], "output": "again.safetensors"}))
    run_recipe(load_recipe(folder / "again.json"))
    again = load_file(folder / "again.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in output.items())


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("command: align\nreference: a\n", ["candidate"]),
        ("command: align\nreference: a\ncandidate: b\nsede: 3\n", ["recipe.yaml:4: ", "did you mean 'seed'"]),
        ("command: align\nreference: a\ncandidate: b\nseed: -3\n", ["recipe.yaml:4: ", "greater than or equal to 0"]),
        ("command: align\nreference: a\ncandidate: b\nmemory: much\n", ["recipe.yaml:4: ", "expected a size"]),
        ("command: align\nreference: a\ncandidate: b\ndtype: int8\n", ["recipe.yaml:4: ", "float64"]),
        (
            "command: align\nreference: a\ncandidate: b\n\nmatcher: wieght\n",
            ["recipe.yaml:5: ", "did you mean 'weight'"],
        ),
        ("command: merge\ncheckpoints: [a]\n", ["recipe.yaml:2: "]),
        ("command: merge\ncheckpoints: [a, b]\nmethod: {name: ties, density: 3}\n", ["recipe.yaml:3: ", "density"]),
        (
            "checkpoints: [a, b]\ncommand: mrege\n",
            ["recipe.yaml:2: command: expected 'align' or 'merge'", "got 'mrege'"],
        ),
        ("command: [merge]\n", ["recipe.yaml:1: command: expected 'align' or 'merge'"]),
        ("- command\n", ["mapping"]),
        ("command: [align\n", ["recipe.yaml"]),
    ],
)
def test_problems_in_files_are_named_with_their_lines(tmp_path: Path, text: str, messages: list[str]) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        load_recipe(tmp_path / "recipe.yaml")
    assert all(message in str(error.value) for message in messages), error.value


def test_the_state_of_an_interrupted_search_is_kept_and_removed_on_completion(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe(folder))
    assert files(folder) == {"o.safetensors.unfinished"}
    run_recipe(recipe(folder))
    assert files(folder) == WRITTEN


def test_the_state_of_other_inputs_or_options_does_not_mislead(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch)
        for options in ({}, {"seed": 1}, {"freeze": ["4.*"]}, {"matcher": "wasserstein"}):
            with pytest.raises(KeyboardInterrupt):
                run_recipe(recipe(folder, **options))
    run_recipe(recipe(folder, candidate=folder / "c.safetensors"))
    output = load_file(folder / "o.safetensors")
    assert all(torch.equal(output[name], tensor) for name, tensor in copy(2).items())
    assert files(folder) == WRITTEN


def test_changed_inputs_start_a_new_search(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe(folder))
    (folder / "b.safetensors").write_bytes((folder / "c.safetensors").read_bytes())
    run_recipe(recipe(folder))
    output = load_file(folder / "o.safetensors")
    assert all(torch.equal(output[name], tensor) for name, tensor in copy(2).items())


def test_completed_searches_are_not_repeated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = run_recipe(recipe(folder))
    expected = {path.name: path.read_bytes() for path in undisturbed.files}

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rebasin_core.api.checkpoints.output.write_checkpoint", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe(folder, force=True))
    with monkeypatch.context() as patch:
        interrupt(patch)  # a search would be interrupted
        again = run_recipe(recipe(folder, force=True))
    changed = {path.name: path.read_bytes() for path in again.files}
    assert changed["o.permutation.safetensors"] == expected["o.permutation.safetensors"]
    assert load_file(folder / "o.safetensors").keys() == MLP.network().keys()
    assert again.found.as_json() == undisturbed.found.as_json()


def interrupted_between_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the recipe, and interrupt it after the permutation was written and before the output."""
    replace: Callable[[Path, Path], Path] = Path.replace

    def interrupted(path: Path, target: Path) -> Path:
        if Path(target) == folder / "o.safetensors":
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe(folder))
    assert files(folder) == {"o.permutation.safetensors", "o.safetensors.unfinished"}


def test_a_permutation_that_was_placed_before_an_interruption_is_no_obstacle(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_between_files(folder, monkeypatch)
    run_recipe(recipe(folder))
    assert files(folder) == WRITTEN


def test_another_file_at_its_path_is_an_obstacle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted_between_files(folder, monkeypatch)
    (folder / "o.permutation.safetensors").write_text("mine")
    with pytest.raises(StorageError, match=r"o\.permutation\.safetensors exists"):
        run_recipe(recipe(folder))
    assert (folder / "o.permutation.safetensors").read_text() == "mine"


@pytest.mark.parametrize("options", [{"memory": 1000}, {"freeze": ["none"]}, {"spec": "no.json"}])
def test_failures_leave_no_files(folder: Path, options: dict[str, Any]) -> None:
    with pytest.raises((InvalidInputError, Exception)):
        run_recipe(recipe(folder, **options))
    assert files(folder) == set()


def test_a_folder_of_others_with_the_name_of_unfinished_work_is_kept(folder: Path) -> None:
    (folder / "o.safetensors.unfinished").mkdir()
    (folder / "o.safetensors.unfinished" / "thesis.tex").write_text("mine")
    with pytest.raises(StorageError, match="is not the folder of unfinished work"):
        run_recipe(recipe(folder))
    assert (folder / "o.safetensors.unfinished" / "thesis.tex").read_text() == "mine"
    (folder / "o.safetensors.unfinished" / "thesis.tex").unlink()
    run_recipe(recipe(folder))
    assert files(folder) == WRITTEN


def test_an_input_in_the_folder_of_unfinished_work_is_kept(folder: Path) -> None:
    work = folder / "o.safetensors.unfinished"
    work.mkdir()
    (work / LOCK).touch()
    (folder / "b.safetensors").rename(work / "b.safetensors")
    with pytest.raises(StorageError, match="is also an input"):
        run_recipe(recipe(folder, candidate=work / "b.safetensors", force=True))
    assert (work / "b.safetensors").exists()


def test_the_specification_is_an_input(folder: Path) -> None:
    (folder / "c").mkdir()
    write(folder / "c" / "model.safetensors", {"a": torch.ones(1)})
    (folder / "c" / "spec.json").write_text("{}")
    with pytest.raises(StorageError, match="is also an input"):
        run_recipe(recipe(folder, output=folder / "c", spec=folder / "c" / "spec.json", force=True))
    assert (folder / "c" / "spec.json").read_text() == "{}"


def test_a_second_process_on_one_output_gets_an_error(folder: Path) -> None:
    with FolderLock(folder / "o.safetensors.unfinished"):
        with pytest.raises(StorageError, match=r"is in use by process \d+"):
            run_recipe(recipe(folder))
        assert files(folder) == {"o.safetensors.unfinished"}
    run_recipe(recipe(folder))
    assert files(folder) == WRITTEN


def test_an_output_that_another_process_has_written_meanwhile_is_not_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = FolderLock.__enter__

    def late(self: FolderLock) -> FolderLock:
        (folder / "o.safetensors").write_text("another")
        return entered(self)

    monkeypatch.setattr(FolderLock, "__enter__", late)
    with pytest.raises(StorageError, match="exists"):
        run_recipe(recipe(folder))
    assert (folder / "o.safetensors").read_text() == "another"
    assert not (folder / "o.safetensors.unfinished").exists()


def test_an_entry_is_chosen_in_the_files_that_have_it(folder: Path) -> None:
    candidate = load_file(folder / "b.safetensors")
    torch.save({"model": load_file(folder / "c.safetensors"), "ema": candidate}, folder / "b.ckpt")
    with pytest.raises(InvalidInputError, match=r"'model', 'ema'; choose one with the option `entry`"):
        run_recipe(recipe(folder, candidate=folder / "b.ckpt"))
    with pytest.raises(InvalidInputError, match="did you mean 'ema'"):
        run_recipe(recipe(folder, candidate=folder / "b.ckpt", reference=folder / "b.ckpt", entry="emas"))
    run_recipe(recipe(folder, candidate=folder / "b.ckpt", entry="ema"))
    output = load_file(folder / "o.safetensors")
    assert all(torch.equal(output[name], tensor) for name, tensor in copy(1).items())


def test_without_an_output_no_file_is_written(folder: Path) -> None:
    result = run_recipe(recipe(folder, output=None))
    assert result.files == ()
    assert files(folder) == set()
