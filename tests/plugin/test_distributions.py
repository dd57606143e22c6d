"""Valid and broken plugins, installed together with pip in a new environment, and commands that use some of them."""

from __future__ import annotations

import json

import pytest

from tests.plugin.environment import EXAMPLE, Environment

GOOD = "rebasin-test-good"
MISSPELT = "rebasin-test-misspelt"
ALL = ",".join(f"rebasin-test-{name}" for name in ("good", "failing", "clashing", "misspelt", "hook-fails", "exiting"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_plugins_are_listed_with_their_errors(environment: Environment) -> None:
    done = environment.run("-m", "rebasin_core", "plugins", plugins=ALL)
    assert done.returncode == 1
    for expected in (
        "rebasin-test-good 1.2\n  inference         logistic\n  likelihood        tempered\n  metric",
        "  matcher           identity\n  path              eased\n  posterior         logistic",
        "rebasin-test-failing 0.3\n  BROKEN: ModuleNotFoundError: No module named 'a_module_that_does_not_exist'",
        "rebasin-test-exiting 0.5\n  BROKEN: SystemExit: 0",
        "rebasin-test-misspelt 0.1\n  BROKEN: unknown hook 'rebasin_machers': did you mean 'rebasin_matchers'",
        "rebasin-test-hook-fails 0.4\n  BROKEN: rebasin_barriers failed: RuntimeError: the sky is falling",
        "CONFLICT: the matcher 'weight' is registered by rebasin-core 0.1.0 and rebasin-test-clashing 2.0",
    ):
        assert expected in done.stdout, done.stdout
    assert "warning: plugin rebasin-test-failing 0.3 is ignored" in done.stderr
    assert "Traceback" not in done.stderr


def test_broken_plugins_do_not_affect_others_and_are_named_in_errors(environment: Environment) -> None:
    code = """
from rebasin_core import build
from rebasin_core.errors import RebasinError

print(build("matcher", "identity"), build("barrier", "pointwise"))
for name in ("weight", "missing"):
    try:
        build("matcher", name)
    except RebasinError as error:
        print(type(error).__name__ + ": " + str(error))
"""
    done = environment.run("-c", code, plugins=ALL)
    assert done.returncode == 0, done.stderr
    for expected in (
        "IdentityMatcher",
        "PointwiseBarrier",
        "PluginError: the matcher 'weight' is registered by rebasin-core 0.1.0 and rebasin-test-clashing 2.0",
        "no matcher 'missing'",
        "rebasin-test-failing 0.3 (ModuleNotFoundError",
    ):
        assert expected in done.stdout, done.stdout


def test_environment_variable_selects_plugins(environment: Environment) -> None:
    code = """
import json, os, warnings
from rebasin_core import Registry

found = {}
for plugins in ("none", "rebasin-test-good", "all", ""):
    os.environ["REBASIN_PLUGINS"] = plugins
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        registry = Registry()
        found[plugins] = "identity" in registry.names("matcher"), len(caught) > 0
print(json.dumps(found))
"""
    done = environment.run("-c", code)
    assert json.loads(done.stdout) == {
        "none": [False, False],
        GOOD: [True, False],
        "all": [True, True],  # broken plugins cause warnings
        "": [True, True],
    }


RUN = """
data: digits
architecture: {name: mlp, hidden: [8]}
likelihood: {name: tempered, temperature: 1.5}
inference: {name: logistic, scale: 0.02}
matchers: [weight]
barrier:
  name: marginalized
  num_points: 3
  num_samples: 4
  path: {name: eased, strength: 1.0}
  metric: spherical
"""

INVALID_RUN = """
data: digits
architecture: {name: mlp, hidden: [8]}
likelihood: {name: tempered, temperature: -1}
inference: {name: logistic, scale: 0}
matchers: [weight]
barrier:
  name: marginalized
  path: {name: eased, strength: 2}
  metric: {name: spherical, order: 1}
"""


@pytest.mark.nightly
def test_run_file_with_components_of_a_package(environment: Environment) -> None:
    (environment.folder / "run.yaml").write_text(RUN)
    done = environment.run("-m", "rebasin_core", "run", "run.yaml", "-o", "out", plugins=GOOD)
    assert done.returncode == 0, done.stderr
    assert "(spherical)" in done.stdout
    assert "nats" not in done.stdout
    assert "nats per example (±" not in (environment.folder / "out/report.html").read_text()
    posteriors = environment.folder / "out/posteriors"
    code = f"""
import rebasin_core as rc

first, second = (rc.load_posterior(f"{posteriors}/{{name}}.safetensors") for name in ("reference", "candidate"))
middle = rc.barycenter([first, second])
print(first.kind, middle.kind, 2 * rc.wasserstein_distance(first, middle) / rc.wasserstein_distance(first, second))
"""
    loaded = environment.run("-c", code, plugins=GOOD)
    assert loaded.stdout.startswith("logistic logistic "), loaded.stderr
    assert float(loaded.stdout.split()[2]) == pytest.approx(1, abs=1e-5)


def test_invalid_options_of_components_are_reported_with_their_lines(environment: Environment) -> None:
    (environment.folder / "invalid.yaml").write_text(INVALID_RUN)
    done = environment.run("-m", "rebasin_core", "run", "invalid.yaml", plugins=GOOD)
    assert done.returncode == 2
    for expected in (
        "invalid.yaml:4: likelihood.temperature: expected a value greater than 0, got -1",
        "invalid.yaml:5: inference.scale: expected a value greater than 0, got 0",
        "invalid.yaml:9: barrier.path.strength: expected a value less than or equal to 1, got 2",
        "invalid.yaml:10: barrier.metric.order: unknown option",
    ):
        assert expected in done.stderr, done.stderr


def test_schema_contains_the_options_of_components(environment: Environment) -> None:
    done = environment.run("-m", "rebasin_core", "schema", plugins=ALL)
    assert done.returncode == 0, done.stderr
    definitions = json.loads(done.stdout)["$defs"]
    assert (
        definitions["TemperedLikelihood"]["properties"]["temperature"]["description"] == "Temperature of the softmax."
    )
    assert {"EasedPath", "SphericalMetric", "LogisticInference", "MarginalizedBarrier"} <= definitions.keys()


@pytest.mark.nightly
def test_kit_detects_a_broken_law(environment: Environment) -> None:
    done = environment.run("-m", "rebasin_core", "check", GOOD, plugins=GOOD)
    assert done.returncode == 1
    assert "BROKEN  matcher:identity:planted_permutation: seed 0: the planted permutation was not found" in done.stdout
    assert "ok      matcher:identity:no_worse_than_the_identity" in done.stdout
    broken = environment.run("-m", "rebasin_core", "check", MISSPELT, plugins=MISSPELT)
    assert broken.returncode == 1
    assert "unknown hook 'rebasin_machers'" in broken.stderr


def test_example_package_passes_the_kit_and_runs(environment: Environment) -> None:
    checked = environment.run("-m", "rebasin_core", "check", "rebasin-example", plugins="rebasin-example")
    assert checked.returncode == 0, checked.stdout
    assert "0 are broken" in checked.stdout
    arguments = ("run", str(EXAMPLE / "run.yaml"), "-o", "out")
    done = environment.run("-m", "rebasin_core", *arguments, plugins="rebasin-example")
    assert done.returncode == 0, done.stderr
    assert "rank" in done.stdout
    assert (environment.folder / "out/permutations/rank.safetensors").is_file()
