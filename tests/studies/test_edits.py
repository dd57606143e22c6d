"""Which stages an edit changes: every stage that depends on the edited value, and no other one.

The tables below are written from the meaning of the stages, not from the code.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import rebasin_core as rc
from rebasin_core.architectures import MLPArchitecture
from rebasin_core.config.overrides import overridden
from rebasin_core.matchers.base import Matcher
from rebasin_core.plugin.registry import default_registry
from rebasin_core.specs import save_spec
from rebasin_core.strategy import Options
from rebasin_core.studies.planning import contents as contents_module
from rebasin_core.studies.planning.contents import Contents
from rebasin_core.studies.planning.run import RunPlan
from rebasin_core.tensors.files import write_json
from rebasin_core.tensors.modules import named_tensors

NUM_TRAIN = 40
NUM_TEST = 20


def write_data(folder: Path, row: int | None = None) -> None:
    """Write a regression problem, with another input in one row; the first rows are the training examples."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(NUM_TRAIN + NUM_TEST, 4)), generator.normal(size=NUM_TRAIN + NUM_TEST)
    if row is not None:
        x[row] += 1
    folder.mkdir(exist_ok=True)
    np.savez(folder / "toy.npz", x=x, y=y, test_index=np.arange(NUM_TRAIN, NUM_TRAIN + NUM_TEST)[None])


def write_network(path: Path, seed: int) -> None:
    model = MLPArchitecture(hidden=[5]).build((4,), 1, generator=torch.Generator().manual_seed(seed))
    save_file({name: tensor.detach() for name, tensor in named_tensors(model).items()}, path)


def write_spec(path: Path, *, other: bool = False) -> None:
    architecture = MLPArchitecture(hidden=[5])
    save_spec(architecture.spec(architecture.build((4,), 1)), path)
    if other:  # equal symmetries in another text: the content of the file counts
        write_json(path, {**json.loads(path.read_bytes()), "note": "another content"})


def write_files(folder: Path) -> None:
    write_data(folder / "data")
    write_network(folder / "candidate.safetensors", 3)
    write_spec(folder / "spec.json")


def document(folder: Path, state: dict[str, Any]) -> dict[str, Any]:
    """Return a run with the options of a state."""
    marginalized = {"name": "marginalized", "num_points": 3, "num_samples": 2}
    return {
        "data": {"name": "uci", "dataset": "toy", "root": str(folder / "data")},
        "architecture": {"name": "mlp", "hidden": [5]},
        "spec": {"name": "file", "path": str(folder / "spec.json")} if state["spec"] else None,
        "inference": {"name": "mean_field_vi", "epochs": 1},
        "reference": {"seed": 1},
        "candidate": {"path": str(folder / "candidate.safetensors")} if state["loaded"] else {"seed": 2},
        "matchers": ["weight", "activation"],
        "barrier": {"name": "repair", "estimator": marginalized} if state["calibrated"] else marginalized,
        "validation_fraction": 0.2 if state["validation"] else 0.0,
        **{name: state[name] for name in ("num_train", "num_test", "num_match", "num_calibration")},
    }


STATES = st.fixed_dictionaries({
    "loaded": st.booleans(),
    "calibrated": st.booleans(),
    "spec": st.booleans(),
    "validation": st.booleans(),
    "num_train": st.sampled_from([None, 30]),
    "num_test": st.sampled_from([None, 18]),
    "num_match": st.sampled_from([None, 10]),
    "num_calibration": st.sampled_from([None, 10, 5000]),
})

CURVES = {"curve/unaligned", "curve/weight", "curve/activation"}
MATCHES = {"match/weight", "match/activation"}
SCORES = {"scores/reference", "scores/candidate"}
SIMILARITIES = {"similarities/weight", "similarities/activation"}
POSTERIORS = {"reference", "candidate"}


def with_dependents(changed: set[str]) -> set[str]:
    """Return roles and all that read them; `train` and `test` are data."""
    reads = {
        "match/weight": {"network", *POSTERIORS},
        "match/activation": {"network", *POSTERIORS, "matching data"},
        "curve/unaligned": {*POSTERIORS, "test", "calibration data"},
        "curve/weight": {*POSTERIORS, "test", "calibration data", "match/weight"},
        "curve/activation": {*POSTERIORS, "test", "calibration data", "match/activation"},
        "scores/reference": {"reference", "test"},
        "scores/candidate": {"candidate", "test"},
        "similarities/weight": {"network", *POSTERIORS, "match/weight"},
        "similarities/activation": {"network", *POSTERIORS, "match/activation"},
        "summary": {*MATCHES, *CURVES},
    }
    found = set(changed)
    for role, read in reads.items():  # in an order in which each follows those that it reads
        if read & found:
            found.add(role)
    return found - {"matching data", "calibration data"}


def expected(edit: str, state: dict[str, Any]) -> set[str]:
    """Return the roles whose stages must change, from the meaning of the edit."""
    trained = {"reference"} if state["loaded"] else set(POSTERIORS)
    network = {"network", *POSTERIORS, *MATCHES, *SIMILARITIES, *CURVES, *SCORES}
    used = NUM_TRAIN if state["num_train"] is None else state["num_train"]
    matched = used if state["num_match"] is None else min(used, state["num_match"])
    calibrated = used if state["num_calibration"] is None else min(used, state["num_calibration"])
    train = {"train", *trained, "matching data"} | ({"calibration data"} if state["calibrated"] else set())
    fewer = {"train", *trained}  # after the first 20 training examples
    fewer |= {"matching data"} if matched > 20 else set()
    fewer |= {"calibration data"} if state["calibrated"] and calibrated > 20 else set()
    direct: dict[str, set[str]] = {
        "architecture.hidden": network,
        "architecture.activation": network,
        "dtype": network,
        "device": network,
        "likelihood": {*trained, "match/activation", *CURVES, *SCORES},
        "noise_scale": {*trained, "match/activation", *CURVES, *SCORES},
        "inference.epochs": trained,
        "inference.prior_scale": trained,
        "inference": trained,
        "batch_size": trained,
        "compiled": trained,
        "validation_fraction": trained,
        "reference": {"reference"},
        "candidate": {"candidate"},
        "candidate.file": {"candidate"} if state["loaded"] else set(),
        "seed": {*MATCHES, *CURVES, *SCORES},
        "evaluation_batch_size": {"match/activation", *CURVES, *SCORES} | (trained if state["validation"] else set()),
        "num_score_samples": SCORES,
        "num_match": {"match/activation"} if matched != 15 else set(),
        "num_calibration": CURVES if state["calibrated"] and calibrated != 15 else set(),
        "num_train": fewer,
        "num_test": {"test"},
        "allow_untested": set(),
        "matchers.0": {"match/weight"},
        "barrier": CURVES,
        "spec": {"network"},
        "spec.file": {"network"} if state["spec"] else set(),
        "spec.path": set(),
        "data.root": set(),
        "candidate.path": set(),
        # The inputs are scaled by the training examples.
        "data.train": {*train, "test", "network"},
        "data.last_test": {"test"} if state["num_test"] is None else set(),
        "data.first_test": {"test", "network"},
        "core": {"train", "test", *network},
        "untouched": set(),
    }
    return with_dependents(direct[edit])


VALUES: dict[str, Any] = {
    "architecture.hidden": [6],
    "architecture.activation": "tanh",
    "dtype": "float64",
    "device": "cpu",
    "likelihood": {"name": "gaussian", "scale": 0.4},
    "noise_scale": 0.2,
    "inference.epochs": 2,
    "inference.prior_scale": 0.5,
    "inference": {"name": "map", "epochs": 1},
    "batch_size": 7,
    "compiled": True,
    "validation_fraction": 0.3,
    "reference": {"seed": 5},
    "candidate": {"seed": 6},
    "seed": 1,
    "evaluation_batch_size": 11,
    "num_score_samples": 4,
    "num_match": 15,
    "num_calibration": 15,
    "num_train": 20,
    "num_test": 10,
    "allow_untested": True,
    "matchers.0": {"name": "weight", "max_sweeps": 3},
    "barrier": {"name": "pointwise", "num_points": 5},
    "spec": "traced",
}


def identities(run: dict[str, Any]) -> dict[str, str]:
    """Return the identity of each role; a new plan reads all files again."""
    plan = RunPlan(rc.RunConfig(**run), Contents(default_registry()))
    found = {name.removeprefix("posterior/").replace("/test", ""): stage.id for name, stage in plan.roles.items()}
    found = {name: identity for name, identity in found.items() if not name.startswith("means/")}
    return found | {
        "network": plan.cell.network.id,
        "train": plan.cell.data("train").id,
        "test": plan.cell.data("test").id,
    }


def moved(folder: Path, name: str) -> str:
    """Rename a file or folder, and return its new path."""
    return str((folder / name).rename(folder / f"moved-{name}"))


FILES: dict[str, Callable[[Path], object]] = {
    "candidate.file": lambda folder: write_network(folder / "candidate.safetensors", 4),
    "spec.file": lambda folder: write_spec(folder / "spec.json", other=True),
    "data.train": lambda folder: write_data(folder / "data", 0),
    "data.first_test": lambda folder: write_data(folder / "data", NUM_TRAIN),
    "data.last_test": lambda folder: write_data(folder / "data", NUM_TRAIN + NUM_TEST - 1),
    "untouched": lambda _: None,
}
MOVES = {"spec.path": "spec.json", "candidate.path": "candidate.safetensors", "data.root": "data"}


def edited(edit: str, run: dict[str, Any], folder: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Apply an edit to the options, the files or the code."""
    if edit in FILES:
        FILES[edit](folder)
        return run
    if edit in MOVES:
        path = moved(folder, MOVES[edit])
        section, option = edit.split(".")
        return overridden(run, {edit: path}) if option in (run[section] or {}) else run
    if edit == "core":
        patch.setattr(contents_module, "code_of_package", lambda _, number: f"{number}+another")
        return run
    return overridden(run, {edit: copy.deepcopy(VALUES[edit])})


EDITS = [*VALUES, *FILES, *MOVES, "core"]


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(state=STATES, edit=st.sampled_from(EDITS))
def test_an_edit_changes_exactly_the_stages_that_depend_on_it(
    state: dict[str, Any], edit: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("edit")
    write_files(folder)
    run = document(folder, state)
    before = identities(run)
    with pytest.MonkeyPatch.context() as patch:
        after = identities(edited(edit, run, folder, patch))
    assert set(after) == set(before)
    assert {role for role in before if after[role] != before[role]} == expected(edit, state)


STATE = {
    "loaded": True, "calibrated": True, "spec": True, "validation": False,
    "num_train": None, "num_test": None, "num_match": None, "num_calibration": None,
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_each_edit_of_a_run_with_a_loaded_posterior(edit: str, tmp_path: Path) -> None:
    write_files(tmp_path)
    run = document(tmp_path, STATE)
    before = identities(run)
    with pytest.MonkeyPatch.context() as patch:
        after = identities(edited(edit, run, tmp_path, patch))
    assert {role for role in before if after[role] != before[role]} == expected(edit, STATE)


MEANS: list[tuple[dict[str, Any], set[str]]] = [
    ({"barrier.num_samples": 3}, set()),
    ({"num_score_samples": 4}, set()),
    ({"barrier.num_points": 5}, {"unaligned", "weight", "activation"}),
    ({"inference.epochs": 2}, {"unaligned", "weight", "activation"}),
    ({"num_test": 10}, {"unaligned", "weight", "activation"}),
    ({"matchers.0": {"name": "weight", "max_sweeps": 3}}, {"weight"}),
    ({"num_match": 15}, {"activation"}),
]


@pytest.mark.parametrize(("edits", "changed"), MEANS, ids=[next(iter(edits)) for edits, _ in MEANS])
def test_curves_between_means_do_not_depend_on_posterior_samples(
    edits: dict[str, Any], changed: set[str], tmp_path: Path
) -> None:
    write_files(tmp_path)
    run = document(tmp_path, {**STATE, "calibrated": False})
    plans = [
        RunPlan(rc.RunConfig(**options), Contents(default_registry())) for options in (run, overridden(run, edits))
    ]
    before, after = [
        {role.rpartition("/")[2]: stage.id for role, stage in plan.roles.items() if role.startswith("means/")}
        for plan in plans
    ]
    assert {label for label in before if after[label] != before[label]} == changed


def test_relative_and_absolute_paths_and_the_folder_of_the_process_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path)
    run = document(tmp_path, STATE)
    monkeypatch.chdir(tmp_path)
    assert identities(document(Path(), STATE)) == identities(run)


def test_a_path_that_equals_a_name_is_replaced_only_where_it_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("spec.json").rename("mlp")
    plan = RunPlan(
        rc.RunConfig(**{**document(tmp_path, STATE), "spec": {"name": "file", "path": "mlp"}}),
        Contents(default_registry()),
    )
    work = json.loads(plan.cell.network.work)
    assert work["spec"]["path"] == str(tmp_path / "mlp")
    assert work["network"]["architecture"]["name"] == "mlp"


def test_equal_options_in_other_notations_have_equal_identities(tmp_path: Path) -> None:
    write_files(tmp_path)
    run = document(tmp_path, STATE)
    other = {
        **run,
        "architecture": rc.architectures.MLPArchitecture(hidden=[5]),
        "matchers": [{"name": "weight"}, rc.matchers.ActivationMatcher()],
        "inference": {"name": "mean_field_vi", "epochs": 1.0, "prior_scale": 1},
    }
    given_run = {**run, "inference": {**run["inference"], "prior_scale": 1.0}}
    assert identities(other) == identities(given_run)


def test_the_default_likelihood_and_the_same_one_given_by_name_have_equal_identities(tmp_path: Path) -> None:
    write_files(tmp_path)
    run = document(tmp_path, STATE)
    scale = rc.RunConfig(**run).noise_scale
    assert identities({**run, "likelihood": {"name": "gaussian", "scale": scale}}) == identities(run)


class OtherWeightMatcher(rc.matchers.WeightMatcher):  # type: ignore[misc] # final, to detect classes of one name
    """A class that is not registered and has the name of one that is."""


class Holder(Options):
    matcher: Matcher


def test_a_class_with_the_name_of_a_registered_one_has_its_own_code() -> None:
    contents = Contents(default_registry())
    assert set(contents.code(Holder(matcher=OtherWeightMatcher()))) == {"rebasin-core", __name__}
    assert set(contents.code(Holder(matcher=rc.matchers.WeightMatcher()))) == {"rebasin-core"}


def test_the_content_of_a_folder_counts_and_its_path_does_not(tmp_path: Path) -> None:
    contents = Contents(default_registry())
    folders = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        write_network(tmp_path / name / "network.safetensors", seed)
        folders.append(contents.path(tmp_path / name))
    assert folders[0] == folders[1] != folders[2]


def test_identities_are_equal_in_a_process_with_another_seed_of_hashes(tmp_path: Path) -> None:
    write_files(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(document(tmp_path, STATE)))
    script = (
        "import sys, json; from tests.studies.test_edits import identities; from pathlib import Path; "
        "print(json.dumps(identities(json.loads(Path(sys.argv[1]).read_text()))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run.json")],
        check=True,
        capture_output=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"},
    )
    assert json.loads(done.stdout) == identities(document(tmp_path, STATE))
