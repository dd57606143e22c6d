"""Random edits of options and inputs: a result is reused if and only if it depends on none of the edits.

The oracle is `signatures`: for each stage, the values on which its result depends, written by hand.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import rebasin_core as rc
from rebasin_core.architectures import MLPArchitecture
from rebasin_core.studies.planning import contents as contents_module
from rebasin_core.studies.planning.contents import Contents
from rebasin_core.studies.planning.run import RunPlan
from rebasin_core.tensors.modules import named_tensors

CHOICES: dict[str, tuple[Any, ...]] = {
    "data": (1, 2),
    "num_train": (20, 25),
    "num_test": (6, 8),
    "hidden": (4, 6),
    "epochs": (1, 2),
    "method": ("map", "mean_field_vi"),
    "start": (None, {"name": "map", "epochs": 1}, {"name": "map", "epochs": 2}),
    "reference": (1, 2),
    "candidate": (3, 4, "checkpoint 1", "checkpoint 2"),
    "max_sweeps": (50, 100),
    "num_match": (None, 10),
    "num_points": (3, 5),
    "repair": (False, True),
    "num_calibration": (10, 15),
    "seed": (0, 1),
    "batch_size": (8, 16),
    "evaluation_batch_size": (5, 10),
    "validation_fraction": (0.0, 0.2),
    "dtype": ("float32", "float64"),
    "spec": (None, "free", "fixed"),
    "version": ("1.0", "1.1"),
    "folder": ("a", "b"),
}


@dataclass(frozen=True)
class World:
    """Options, contents of files, and the version of the package."""

    values: tuple[Any, ...]

    def __getattr__(self, name: str) -> Any:
        return self.values[list(CHOICES).index(name)]

    def edited(self, name: str, value: object) -> World:
        values = list(self.values)
        values[list(CHOICES).index(name)] = value
        return replace(self, values=tuple(values))


WORLDS = st.tuples(*(st.sampled_from(choices) for choices in CHOICES.values())).map(World)
EDITS = st.lists(st.sampled_from([(name, value) for name, found in CHOICES.items() for value in found]), max_size=3)


def signatures(world: World) -> dict[str, object]:
    """Return the values on which each stage of the run depends. The folder is not among them."""
    network = (world.hidden, world.dtype, world.version, world.data > 0)
    train = (world.data, world.num_train)
    test = (world.data, world.num_test)
    training: tuple[object, ...] = (
        network,
        train,
        world.method,
        str(world.start),
        world.epochs,
        world.batch_size,
        world.validation_fraction,
    )
    if world.validation_fraction:
        training = (*training, world.evaluation_batch_size)
    reference = (training, world.reference)
    is_loaded = isinstance(world.candidate, str)
    candidate = (network, world.candidate) if is_loaded else (training, world.candidate)
    # Symmetries are checked on the first test examples.
    symmetries = (network, world.data, world.spec)
    pair = (symmetries, reference, candidate, world.seed)
    weight = (pair, world.max_sweeps)
    activation = (pair, train, world.num_match, world.evaluation_batch_size)
    curve: tuple[object, ...] = (
        network,
        reference,
        candidate,
        test,
        world.num_points,
        world.repair,
        world.seed,
        world.evaluation_batch_size,
    )
    if world.repair:
        curve = (*curve, train, world.num_calibration)
    scores = (network, test, world.seed, world.evaluation_batch_size)
    found: dict[str, object] = {
        "posterior/reference": reference,
        "posterior/candidate": candidate,
        "match/weight": weight,
        "match/activation": activation,
        "similarities/weight": weight,
        "similarities/activation": activation,
        "curve/test/unaligned": curve,
        "curve/test/weight": (curve, weight),
        "curve/test/activation": (curve, activation),
        "scores/test/reference": (scores, reference),
        "scores/test/candidate": (scores, candidate),
    }
    return {**found, "summary": (curve, weight, activation)}


def build(hidden: int) -> torch.nn.Module:
    return MLPArchitecture(hidden=[hidden]).build((3,), 1, generator=torch.Generator().manual_seed(0))


def write(world: World, root: Path) -> rc.RunConfig:
    """Write the files of a world, and return the configuration that reads them."""
    folder = root / world.folder
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(world.data)
    x = generator.normal(size=(50, 3))
    np.savez(folder / "toy.npz", x=x, y=world.data + x @ [1.0, -1.0, 0.5], test_index=np.arange(10)[None])
    candidate: dict[str, Any] = {"seed": world.candidate}
    model = build(world.hidden)
    if isinstance(world.candidate, str):
        number = int(world.candidate[-1])
        save_file({n: (t * number).detach() for n, t in named_tensors(model).items()}, folder / "c.safetensors")
        candidate = {"path": folder / "c.safetensors"}
    options: dict[str, Any] = {}
    if world.spec is not None:
        spec = MLPArchitecture(hidden=[world.hidden]).spec(model)
        document = {"kind": "specification", "version": 1, **spec.layout.as_json()}
        if world.spec == "fixed":
            document["groups"] = {}
            document["axes"] = {n: ", ".join(map(str, spec.layout.shape(n))) for n in spec.layout.axes}
        (folder / "spec.json").write_text(json.dumps(document), encoding="utf-8")
        options["spec"] = {"name": "file", "path": folder / "spec.json"}
    barrier: dict[str, Any] = {"name": "pointwise", "num_points": world.num_points}
    names = ("num_train", "num_test", "num_match", "num_calibration", "seed", "batch_size", "evaluation_batch_size")
    return rc.RunConfig(
        data={"name": "uci", "dataset": "toy", "root": folder},
        architecture={"name": "mlp", "hidden": [world.hidden]},
        inference={"name": world.method, "epochs": world.epochs},
        start=world.start,
        reference={"seed": world.reference},
        candidate=candidate,
        matchers=[{"name": "weight", "max_sweeps": world.max_sweeps}, "activation"],
        barrier={"name": "repair", "estimator": barrier} if world.repair else barrier,
        validation_fraction=world.validation_fraction,
        dtype=world.dtype,
        **{name: getattr(world, name) for name in names},
        **options,
    )


def identities(world: World, root: Path) -> dict[str, str]:
    config = write(world, root)
    with patch.object(contents_module, "version", lambda _: world.version):
        plan = RunPlan(config, Contents(rc.default_registry()))
    return {role: stage.id for role, stage in plan.roles.items()}


@settings(max_examples=150, deadline=None)
@given(world=WORLDS, edits=EDITS)
def test_an_identity_changes_if_and_only_if_the_result_can_change(
    world: World, edits: list[tuple[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("world")
    other = world
    for name, value in edits:
        other = other.edited(name, value)
    before = identities(world, root)
    after = identities(other, root)
    assert set(before) == set(after) == set(signatures(world))
    changed = {role for role in before if before[role] != after[role]}
    expected = {role for role in before if signatures(world)[role] != signatures(other)[role]}
    assert changed == expected


@pytest.mark.slow
def test_runs_with_random_edits_equal_runs_in_an_empty_store(tmp_path: Path) -> None:
    choose = random.Random(0)
    world = World(tuple(choices[0] for choices in CHOICES.values()))
    known: set[str] = set()
    for step in range(8):
        name = choose.choice([name for name in CHOICES if name != "version"])
        world = world.edited(name, choose.choice(CHOICES[name]))
        config = write(world, tmp_path)
        kept = rc.run(config, tmp_path / "out", store=tmp_path / "store")
        fresh = rc.run(config, tmp_path / f"fresh {step}")
        assert kept.curves == fresh.curves
        assert kept.matches == fresh.matches
        stages = identities(world.edited("version", version("rebasin-core")), tmp_path)
        new = {identity for identity in stages.values() if identity not in known}
        # Stages without a role are the data and the network.
        assert len([label for label in kept.computed if not label.endswith(" data")]) == len(new)
        known |= set(stages.values())
