from __future__ import annotations

import functools
import json

import pytest

from rebasin_core import EvaluationOptions, Registry, RunConfig
from rebasin_core.barriers import MarginalizedBarrier, ResetBarrier
from rebasin_core.config.document import Document
from rebasin_core.config.reading import read_config
from rebasin_core.config.schema import run_schema
from rebasin_core.errors import ConfigError
from rebasin_core.evaluation import GaussianLikelihood, HeteroscedasticGaussianLikelihood
from rebasin_core.plugin.registry import FAMILIES

MINIMAL = "data: digits\narchitecture: mlp\n"


def read(text: str, registry: Registry) -> RunConfig:
    return read_config(RunConfig, Document.parse(text, "run.yaml"), registry.strategy_class)


def test_a_bare_name_selects_the_defaults(builtin_registry: Registry) -> None:
    config = read(MINIMAL, builtin_registry)
    assert config.architecture.name == "mlp"
    assert [matcher.name for matcher in config.matchers] == ["weight", "wasserstein"]
    assert (config.reference.seed, config.candidate.seed) == (1, 2)


def test_a_configuration_survives_a_round_trip(builtin_registry: Registry) -> None:
    text = MINIMAL + "inference: {name: map, optimizer: {name: SGD, lr: 0.1, momentum: 0.9}}\nmatchers: [kl]\n"
    for likelihood in ("auto", "gaussian", "{name: gaussian, scale: 0.5}"):
        config = read(text + f"likelihood: {likelihood}\n", builtin_registry)
        assert read(config.model_dump_json(), builtin_registry) == config


def test_a_likelihood_is_a_name_a_mapping_or_auto(builtin_registry: Registry) -> None:
    assert read(MINIMAL, builtin_registry).likelihood is None
    assert read(MINIMAL, builtin_registry).model_dump()["likelihood"] == "auto"
    old = read(MINIMAL + "likelihood: heteroscedastic\nnoise_scale: 0.1", builtin_registry)
    assert old.likelihood == HeteroscedasticGaussianLikelihood()
    given = read(MINIMAL + "likelihood: {name: gaussian, scale: 0.5}", builtin_registry)
    assert given.likelihood == GaussianLikelihood(scale=0.5)


def test_barriers_metrics_and_paths_are_names_or_mappings(builtin_registry: Registry) -> None:
    assert read(MINIMAL, builtin_registry).barrier == MarginalizedBarrier()
    text = """
barrier:
  name: reset
  estimator:
    name: marginalized
    num_points: 5
    path: moments
    metric: {name: gibbs}
    tolerance: 0.01
    evaluation: {method: loop, antithetic: true}
"""
    inner = MarginalizedBarrier(
        num_points=5,
        path="moments",
        metric="gibbs",
        tolerance=0.01,
        evaluation=EvaluationOptions(method="loop", antithetic=True),
    )
    config = read(MINIMAL + text, builtin_registry)
    assert config.barrier == ResetBarrier(estimator=inner)
    assert read(config.model_dump_json(), builtin_registry) == config


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("data: digits\n", ["run.yaml:1: architecture: is missing"]),
        ("[1, 2]", ["run.yaml:1: expected a mapping"]),
        ("", ["run.yaml:1: expected a mapping"]),
        ("data: digit\narchitecture: mlp", ["run.yaml:1: data.name: no dataset 'digit'; did you mean 'digits'?"]),
        (MINIMAL + "matcher: [weight]", ["run.yaml:3: matcher: unknown option; did you mean 'matchers'"]),
        (
            MINIMAL + "matchers:\n- weight\n- {name: kl, direction: up}",
            ["run.yaml:5: matchers[1].direction:", "got 'up'"],
        ),
        (MINIMAL + "matchers: [weight, weight]", ["expected matchers with different names"]),
        (MINIMAL + "matchers: []", ["run.yaml:3: matchers: "]),
        (MINIMAL + "matchers: [3]", ["run.yaml:3: matchers[0]: expected the name of a registered matcher"]),
        (MINIMAL + "likelihood: gausian", ["run.yaml:3: likelihood.name: no likelihood 'gausian'; did you mean"]),
        (
            MINIMAL + "likelihood: {name: gaussian, scale: 0}",
            ["run.yaml:3: likelihood.scale: expected a value greater than 0, got 0"],
        ),
        (
            MINIMAL + "likelihood: gaussian\nnoise_scale: 0.2",
            ["`noise_scale` applies only to the likelihood `auto`, got 0.2", "{name: gaussian, scale: ...}"],
        ),
        (
            MINIMAL + "barrier: {name: repair, estimator: {name: marginalized, num_points: 4, path: moment}}",
            [
                "run.yaml:3: barrier.estimator.num_points: expected an odd number of points",
                "run.yaml:3: barrier.estimator.path.name: no path 'moment'; did you mean 'moments'",
            ],
        ),
        (MINIMAL + "barrier: {name: reset, num_points: 3}", ["run.yaml:3: barrier.num_points: unknown option"]),
        (MINIMAL + "barrier: {num_points: 3}", ["run.yaml:3: barrier: expected the name of a registered barrier"]),
        (MINIMAL + "reference: {seed: 1, path: x}", ["run.yaml:3: reference: expected either `seed`"]),
        (
            MINIMAL + "reference: {seed: 1, inference: {name: map, epochs: x}}",
            ["run.yaml:3: reference.inference.epochs"],
        ),
        (MINIMAL + "splits: [val]", ["run.yaml:3: splits[0]: ", "'test' or 'train'"]),
        (
            "data: {name: mnist, rot: x}\narchitecture: {name: mlp, hidden: [0], activation: rel}\nseed: x\n",
            [
                "run.yaml:1: data.rot: unknown option; did you mean 'root'?",
                "run.yaml:2: architecture.hidden[0]",
                "activation",
                "run.yaml:3: seed",
            ],
        ),
        (
            MINIMAL + "inference: {name: map, schedule: {name: StepLR, step: 1}}",
            ["no option 'step'", "'step_size'"],
        ),
    ],
)
def test_every_error_has_its_line_and_the_nearest_name(
    text: str, messages: list[str], builtin_registry: Registry
) -> None:
    with pytest.raises(ConfigError) as error:
        read(text, builtin_registry)
    for message in messages:
        assert message in str(error.value)


def test_the_schema_contains_every_component(builtin_registry: Registry) -> None:
    families = FAMILIES
    configs = {f: [builtin_registry.strategy_class(f, n) for n in builtin_registry.names(f)] for f in families}
    schema = run_schema(configs)
    text = json.dumps(schema)
    for family in families:
        for name in builtin_registry.names(family):
            assert f'"{name}"' in text
    assert schema["$defs"]["KLMatcher"]["additionalProperties"] is False
    for reference in {part.split('"')[0] for part in text.split('"$ref": "#/')[1:]}:
        assert functools.reduce(lambda part, key: part[key], reference.split("/"), schema)
