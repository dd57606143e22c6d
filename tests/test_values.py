"""Values are equal after pickling, copying and sending to another process, and they are immutable."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import multiprocessing
import pickle
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import rebasin_core as rc
from rebasin_core.matchers import MatchOutcome
from rebasin_core.posteriors.auxiliary import AuxiliaryTensors
from rebasin_core.strategy import Options
from rebasin_core.tensors.frozen import FrozenMapping
from rebasin_core.testing.cases import network
from rebasin_core.testing.examples.posteriors import POSTERIORS

# Dataclasses that are not results but arguments of strategies and operator rules.
# `Checkpoint` is a handle of files, compared by identity.
WORK = {rc.Call, rc.Checkpoint, rc.MatchProblem, rc.Task, rc.barriers.PathProblem}


def nested_layout() -> rc.Layout:
    groups = {"heads": rc.Group("heads", 2), "width": rc.Group("width", 3, within="heads")}
    axis = rc.symmetry.Product((rc.symmetry.Atom(2, "heads"), rc.symmetry.Atom(3, "width")))
    return rc.Layout(groups, {"w": (axis, rc.symmetry.Concat((rc.symmetry.Atom(1), rc.symmetry.Atom(2))))})


@cache
def values() -> dict[str, Any]:
    """One instance of every public value, and of every representation of posteriors."""
    case = network()
    generator = torch.Generator().manual_seed(0)
    first: Any = case.model
    second: Any = case.spec.random_permutation(generator=generator).apply(case.model)
    pair = [first, second]
    options: dict[str, Any] = {"task": rc.Task(case.model, case.data)}
    tensors = {name: p.detach() for name, p in case.model.named_parameters()}
    traced = rc.trace_spec(case.model, case.data[0][0])
    sign = rc.symmetry.LinearSymmetry(
        "hidden.0",
        rc.symmetry.Kind.SIGN,
        {rc.symmetry.Slot("layers.0.weight", 0): 1, rc.symmetry.Slot("layers.1.weight", 1): -1},
    )
    summary = rc.summarize(pair, case.spec)
    layout = nested_layout()
    found: dict[str, Any] = {
        "table_spec": rc.table_spec({"w": "units, -"}, {"w": torch.zeros(3, 2)}),
        "architecture_spec": case.spec,
        "traced_spec": traced,
        "git_rebasin": rc.specs.to_git_rebasin(case.spec),
        "nested_permutation": rc.Permutation.random(layout, generator=generator),
        "match": rc.match(first, second, case.spec),
        "many": rc.match_many(pair, case.spec),
        "merged": rc.merge(pair, case.spec),
        "aligned": summary.aligned,
        "summary": summary,
        "coupling": rc.matchers.TransportMatcher().couple(rc.as_posterior(first), rc.as_posterior(second), case.spec),
        "curve": rc.barrier(first, second, **options, num_points=3),
        "matrix": rc.barrier_matrix(pair, **options, spec=case.spec, num_points=3),
        "star": rc.star(pair, **options, num_points=3),
        "plane": rc.loss_plane(first, second, {n: 2 * t for n, t in tensors.items()}, **options, num_points=2),
        "hull": rc.hull_losses(pair, **options, num_points=1),
        "check": rc.check_spec(case.spec, case.model, case.data[0][0]),
        "coverage": traced.coverage,
        "frozen_axis": traced.coverage.frozen[0],
        "scores": rc.score(case.model, **options),
        "fit": rc.inference.MAPInference(epochs=1).fit(case.model, case.data),
        "assignment": rc.assignment.CompiledAssignment().solve(torch.eye(3)),
        "similarity": rc.bilinear.unit_similarities(case.spec.layout, tensors, tensors)["hidden.0"],
        "canonical": rc.analysis.canonical_form(tensors, case.spec, [sign]),
        "rescaling": sign,
        "information": rc.analysis.permutation_information(
            rc.posteriors.DiagonalGaussianPosterior(tensors, {n: torch.ones_like(t) for n, t in tensors.items()}),
            case.spec,
        ),
        "diagnostics": rc.analysis.ChainDiagnostics({"w": torch.ones(2)}, {"w": torch.ones(2)}, (1.0, 0.5), 2, 3),
        "run": rc.studies.RunResult(Path("runs"), {}, {"weight": 1.0, "other": None}, {}, "cpu"),
        "evaluation": rc.EvaluationOptions(method="loop"),
        "optimizer": rc.inference.OptimizerSpec(name="Adam", lr=0.1),
        "schedule": rc.inference.ScheduleSpec(name="CosineAnnealingLR", T_max=3),
        "splits": rc.data.DataSplits(
            rc.data.Examples(torch.zeros(2, 1), torch.tensor([0, 1])),
            rc.data.Examples(torch.ones(2, 1), torch.tensor([1, 0])),
            rc.data.Target("classification", 2),
        ),
        "auxiliary": AuxiliaryTensors.of({"b": torch.ones(1)}, None, rc.posteriors.GaussianPrior.isotropic(["w"], 2.0)),
        "noise": rc.posteriors.UnitNoise((("w", 0),), "gaussian", torch.ones(3)),
        "outcome": MatchOutcome.CONVERGED,
        "mapping": FrozenMapping({"a": torch.ones(2)}),
        **{
            f"likelihood {type(q).__name__}": q
            for q in (rc.evaluation.CategoricalLikelihood(), rc.evaluation.GaussianLikelihood())
        },
    }
    for kind, make in POSTERIORS.items():
        found |= {f"{kind.__name__} {number}": posterior for number, posterior in enumerate(make())}
    return found


def parts(value: Any) -> Any:
    """Return a value as plain containers, strings, numbers and tensors."""
    if isinstance(value, rc.Posterior):
        return [type(value), value.as_tensors()]
    if isinstance(value, rc.PermutationSpec):
        return [type(value), parts(value.layout)]
    if dataclasses.is_dataclass(value):
        return [type(value), {f.name: parts(getattr(value, f.name)) for f in dataclasses.fields(value)}]
    if isinstance(value, Mapping):
        return {key: parts(item) for key, item in value.items()}
    if isinstance(value, list | tuple | frozenset):
        return [parts(item) for item in (sorted(value, key=repr) if isinstance(value, frozenset) else value)]
    return [type(value), vars(value)] if isinstance(value, rc.Likelihood) else value


def same(first: Any, second: Any) -> bool:
    """Return whether plain containers are equal; NaN equals NaN."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first.nan_to_num(7.0), second.nan_to_num(7.0))
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(same(item, second[key]) for key, item in first.items())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second) or (isinstance(first, float) and math.isnan(first) and math.isnan(second))


def equal(first: Any, second: Any) -> bool:
    return type(first) is type(second) and same(parts(first), parts(second))


def test_every_public_result_is_tested() -> None:
    public = {kind for name in rc.__all__ if inspect.isclass(kind := getattr(rc, name))}
    held: set[type] = set()

    def collect(value: Any) -> None:
        held.add(type(value))
        if dataclasses.is_dataclass(value):
            for f in dataclasses.fields(value):
                collect(getattr(value, f.name))
        elif isinstance(value, Mapping):
            for item in value.values():
                collect(item)
        elif isinstance(value, list | tuple):
            for item in value:
                collect(item)

    for value in values().values():
        collect(value)
        collect(getattr(value, "layout", None))
    wanted = {kind for kind in public if dataclasses.is_dataclass(kind)} - WORK
    assert not {kind.__name__ for kind in wanted - held}


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("copied_by", [pickled, copy.deepcopy, copy.copy])
def test_values_are_equal_after_copying(copied_by: Callable[[Any], Any]) -> None:
    different = [name for name, value in values().items() if not equal(copied_by(value), value)]
    assert not different


@pytest.mark.slow
def test_values_are_equal_after_sending_to_another_process() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        back = pool.apply(copy.deepcopy, (values(),))
    different = [name for name, value in values().items() if not equal(back[name], value)]
    assert not different


@pytest.mark.parametrize("copied_by", [pickled, copy.deepcopy])
def test_copies_have_equal_hashes(copied_by: Callable[[Any], Any]) -> None:
    permutation = values()["nested_permutation"]
    assert copied_by(permutation) == permutation
    assert hash(copied_by(permutation)) == hash(permutation)
    assert copied_by(permutation.layout) == permutation.layout
    assert copied_by(permutation.layout).fingerprint == permutation.layout.fingerprint
    assert copied_by(values()["curve"]) == values()["curve"]
    assert copied_by(permutation).inverse().compose(permutation).is_identity


@pytest.mark.parametrize("copied_by", [lambda value: value, pickled, copy.deepcopy])
def test_values_are_immutable(copied_by: Callable[[Any], Any]) -> None:
    for name, value in values().items():
        back = copied_by(value)
        if dataclasses.is_dataclass(back):
            field = dataclasses.fields(back)[0].name
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(back, field, None)
        elif isinstance(back, rc.Posterior):
            with pytest.raises(AttributeError):
                back.mean = {}  # type: ignore[misc]
        elif isinstance(back, rc.PermutationSpec):
            with pytest.raises(TypeError, match="does not support item assignment"):
                back.groups["new"] = rc.Group("new", 2)  # type: ignore[index]
            with pytest.raises(AttributeError):
                back.groups = {}  # type: ignore[misc]
        elif isinstance(back, Options):
            with pytest.raises(rc.errors.ConfigError, match="are immutable"):
                setattr(back, next(iter(type(back).model_fields)), None)
        else:
            assert isinstance(back, rc.Permutation | FrozenMapping | MatchOutcome | tuple), name
    for mapping in (values()["mapping"], values()["nested_permutation"].indices, values()["auxiliary"].prior.mean):
        with pytest.raises(TypeError, match="does not support item assignment"):
            copied_by(mapping)["a"] = torch.zeros(2)
        with pytest.raises(TypeError, match="does not support item deletion"):
            del copied_by(mapping)["a"]


def test_frozen_mapping_is_a_copy_and_equals_other_mappings() -> None:
    given = {"a": 1, "b": 2}
    frozen = FrozenMapping(given)
    given["c"] = 3
    assert frozen == {"b": 2, "a": 1}
    assert frozen == FrozenMapping({"a": 1, "b": 2})
    assert frozen != given
    assert (list(frozen), len(frozen), "a" in frozen, "c" in frozen) == (["a", "b"], 2, True, False)
    assert {**frozen, "c": 3} == given
    assert copy.copy(frozen) is frozen
    with pytest.raises(TypeError, match="unhashable"):
        hash(frozen)


def test_deep_copies_share_no_memory() -> None:
    posterior = rc.posteriors.DiagonalGaussianPosterior(
        {"w": torch.zeros(2)}, {"w": torch.ones(2)}, buffers={"b": torch.ones(1)}
    )
    copied = copy.deepcopy(posterior)
    for name, tensor in copied.as_tensors().items():
        assert tensor.data_ptr() != posterior.as_tensors()[name].data_ptr()
