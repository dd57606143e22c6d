"""Methods as declarations: validated, comparable, and with one canonical JSON text each."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Never

import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.config.document import Document
from rebasin_core.config.reading import read_config
from rebasin_core.errors import ConfigError, FileFormatError
from rebasin_core.inference import MAPInference, MeanFieldVI, OptimizerSpec, ScheduleSpec

Make = Callable[[], object]

METHODS = [
    MAPInference(prior_scale=math.inf, optimizer=OptimizerSpec(name="SGD", lr=1, momentum=0.9, nesterov=True)),
    MAPInference(prior_scale={"0.*": 0.5, "*": math.inf}),
    MAPInference(schedule=ScheduleSpec(name="OneCycleLR", interval="step", max_lr=[0.1], total_steps=9)),
    MeanFieldVI(prior_scale={"*": 2}, stochastic=["2.*"], moped=0.1, optimizer=OptimizerSpec(betas=[0.8, 0.99])),
    rc.inference.DeepEnsemble(members=2),
    rc.inference.SnapshotEnsemble(),
    rc.inference.SWAG(start=3, schedule=ScheduleSpec(name="MultiStepLR", milestones=[1, 2])),
    rc.inference.SGLD(temperature=0.0),
    rc.inference.SGHMC(cycles=5, momentum_decay=1),
    rc.inference.MCDropout(layers=["2"]),
]


def not_json(constant: str) -> Never:
    pytest.fail(f"{constant} is not JSON")


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_method_equals_its_copy_from_canonical_json(method: rc.Inference) -> None:
    text = method.canonical_json()
    again = rc.Inference.of(json.loads(text, parse_constant=not_json))
    assert again == method
    assert hash(again) == hash(method)
    assert again.canonical_json() == text


def test_methods_are_equal_if_all_their_options_are() -> None:
    assert MAPInference() == MAPInference(epochs=20, optimizer={"name": "Adam", "lr": 0.001}, prior_scale=1)
    assert len({*METHODS, *METHODS}) == len(METHODS)
    assert MAPInference(epochs=3) != MAPInference()
    assert OptimizerSpec(betas=[0.9, 0.99]) == OptimizerSpec(betas=(0.9, 0.99))
    # True == 1 in Python, but the two options differ.
    assert OptimizerSpec(name="SGD", nesterov=True, momentum=0.9) != OptimizerSpec(name="SGD", nesterov=1, momentum=0.9)


def test_the_order_of_patterns_is_part_of_a_prior() -> None:
    first = MAPInference(prior_scale={"0.*": 0.5, "*": 2.0})
    second = MAPInference(prior_scale={"*": 2.0, "0.*": 0.5})
    assert first != second
    assert first.canonical_json() != second.canonical_json()


def test_the_repr_contains_the_options_of_torch() -> None:
    method = MAPInference(optimizer=OptimizerSpec(name="SGD", lr=0.1, momentum=0.9))
    assert repr(method) == "MAPInference(optimizer=OptimizerSpec(name='SGD', lr=0.1, momentum=0.9))"


def test_a_flat_prior_survives_a_run_file(builtin_registry: rc.Registry) -> None:
    text = """
data: digits
architecture: mlp
inference: {name: map, prior_scale: {"layers.0.*": 0.5, "*": .inf}}
reference: {seed: 3, inference: {name: swag, prior_scale: .inf}}
"""
    config = read_config(rc.RunConfig, Document.parse(text, "run.yaml"), builtin_registry.strategy_class)
    assert config.inference == MAPInference(prior_scale={"layers.0.*": 0.5, "*": math.inf})
    assert config.reference.inference == rc.inference.SWAG(prior_scale=math.inf)
    again = Document.parse(config.model_dump_json(), "run.json")
    assert read_config(rc.RunConfig, again, builtin_registry.strategy_class) == config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimizerSpec(name="Adan"), "name: `torch.optim` has no optimizer 'Adan' .* did you mean 'Adam'"),
        (lambda: OptimizerSpec(name="LBFGS"), "no optimizer 'LBFGS' for minibatches"),
        (lambda: OptimizerSpec(name="SGD", momentun=0.9), "momentun: `SGD` has no option .* did you mean 'momentum'"),
        (lambda: OptimizerSpec(params=[]), "`Adam` has no option 'params'"),
        (lambda: OptimizerSpec(lr=-1.0), "lr: expected a value greater than or equal to 0, got -1.0"),
        (lambda: OptimizerSpec(betas=[0.9, 2.0]), r"`Adam` rejects the options .* Invalid beta .* 2\.0"),
        (lambda: OptimizerSpec(weight_decay=math.inf), "weight_decay: expected a finite number, .* got inf"),
        (lambda: ScheduleSpec(name="LambdaLR"), "expected a schedule of `torch.optim.lr_scheduler`, got 'LambdaLR'"),
        (lambda: ScheduleSpec(name="StepLR", step=3), "step: `StepLR` has no option .* did you mean 'step_size'"),
        (lambda: ScheduleSpec(name="CosineAnnealingLR"), "T_max: is missing; `CosineAnnealingLR` requires it"),
        (lambda: ScheduleSpec(name="StepLR", step_size=3, interval="day"), "interval: expected 'epoch' or 'step'"),
        (lambda: ScheduleSpec(name="OneCycleLR", max_lr=0.1, total_steps=-1), "`OneCycleLR` rejects the options"),
        (lambda: MAPInference(optimizer={"name": "SGD", "momentun": 1}), "optimizer.momentun: `SGD` has no option"),
        (lambda: rc.Inference.of({"name": "map", "epoch": 3}), "epoch: unknown option; did you mean 'epochs'"),
        (lambda: MAPInference(epochs=0), "epochs: expected a value greater than 0, got 0"),
        (lambda: MAPInference(prior_scale=0.0), "prior_scale.number: expected a value greater than 0, got 0.0"),
        (lambda: MAPInference(prior_scale=math.nan), "prior_scale.number: expected a value greater than 0, got nan"),
        (lambda: MAPInference(prior_scale={"*": -1}), r"prior_scale.patterns\[0\]\[1\]: .* greater than 0, got -1"),
        (lambda: MAPInference(prior_scale={}), "prior_scale.patterns: .* at least 1 item"),
        (lambda: MeanFieldVI(prior_scale=math.inf), "prior_scale: expected a finite prior scale, got inf"),
        (lambda: MeanFieldVI(kl_weight=math.inf), "kl_weight: expected a finite number, got inf"),
        (lambda: MeanFieldVI(estimator="flip"), "estimator: expected 'local', 'flipout' or 'weights', got 'flip'"),
        (lambda: MeanFieldVI(sticking_the_landing=True), "`sticking_the_landing` requires estimator='weights'"),
        (
            lambda: rc.inference.SGHMC(epochs=10, cycles=3),
            "expected `epochs` to be a multiple of `cycles`, got 10 and 3",
        ),
        (lambda: rc.Inference.of({"name": "sgld", "momentum_decay": 0.1}), "momentum_decay: unknown option"),
    ],
)
def test_the_error_for_an_invalid_option_names_it_and_the_allowed_values(make: Make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def regression() -> tuple[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]]:
    return nn.Linear(2, 1).double(), [(torch.ones(4, 2).double(), torch.zeros(4, 1).double())]


def test_the_checkpoint_of_another_likelihood_is_not_resumed(tmp_path: Path) -> None:
    model, data = regression()
    path = tmp_path / "c.safetensors"
    method = MAPInference(epochs=1)
    method.fit(model, data, likelihood=rc.evaluation.GaussianLikelihood(scale=0.5), checkpoint=path)
    assert (
        method.fit(model, data, likelihood=rc.evaluation.GaussianLikelihood(scale=0.5), checkpoint=path).resumed_at == 1
    )
    with pytest.raises(FileFormatError, match="another training problem"):
        method.fit(model, data, likelihood=rc.evaluation.GaussianLikelihood(scale=0.1), checkpoint=path)


def test_the_checkpoint_of_other_batches_or_another_precision_is_not_resumed(tmp_path: Path) -> None:
    model, data = regression()
    path = tmp_path / "c.safetensors"
    method = MAPInference(epochs=1)
    method.fit(model, data, likelihood="gaussian", checkpoint=path)
    inputs, targets = data[0]
    halves = list(zip(inputs.split(2), targets.split(2), strict=True))
    with pytest.raises(FileFormatError, match="another training problem"):
        method.fit(model, halves, likelihood="gaussian", checkpoint=path)
    with pytest.raises(FileFormatError, match="another training problem"):
        method.fit(model.float(), [(inputs.float(), targets.float())], likelihood="gaussian", checkpoint=path)
