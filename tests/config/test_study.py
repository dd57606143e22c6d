"""Study files: cells, pairs, and errors with the file, the line and the nearest name."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

import rebasin_core as rc
from rebasin_core.config.schema import study_schema
from rebasin_core.config.study import RESERVED, VARIANT
from rebasin_core.plugin.registry import FAMILIES
from rebasin_core.studies.results.row import COLUMNS

BASE = "base: {data: digits, architecture: mlp}\n"


def load(text: str, folder: Path) -> rc.StudyConfig:
    (folder / "study.yaml").write_text(text)
    return rc.load_study(folder / "study.yaml")


def test_cells_are_the_product_of_the_grid_and_the_variants(tmp_path: Path) -> None:
    study = load(
        BASE
        + """
grid:
  inference.kl_weight: [0.05, 1.0]
  width: {narrow: {architecture.hidden: [8]}, wide: {architecture.hidden: [16, 16], batch_size: 7}}
variants:
  short: {inference.epochs: 1}
  long: {inference.epochs: 9}
""",
        tmp_path,
    )
    assert [tuple(cell.factors.values()) for cell in study.cells()] == [
        (weight, width, variant)
        for weight in (0.05, 1.0)
        for width in ("narrow", "wide")
        for variant in ("short", "long")
    ]


def test_whole_components_are_overridden_before_their_options(tmp_path: Path) -> None:
    variants = "variants: {map: {inference: map}, vi: {inference.kl_weight: 0.5}}\n"
    study = load(BASE + "grid: {inference.epochs: [3, 5]}\n" + variants, tmp_path)
    assert [cell.config.inference for cell in study.cells()] == [
        method
        for epochs in (3, 5)
        for method in (rc.inference.MAPInference(epochs=epochs), rc.inference.MeanFieldVI(epochs=epochs, kl_weight=0.5))
    ]
    variants = "variants: {map: {inference: map}, vi: {batch_size: 5}}\n"
    study = load(BASE + "grid: {inference.kl_weight: [0.1]}\n" + variants, tmp_path)
    with pytest.raises(rc.errors.ConfigError, match=r"variant=map.*kl_weight: unknown option"):
        study.cells()


def test_a_cell_has_the_options_of_its_levels(tmp_path: Path) -> None:
    text = BASE + "grid:\n  width: {a: {architecture.hidden: [8]}, b: {architecture.hidden: [16], batch_size: 7}}\n"
    first, second = load(text, tmp_path).cells()
    assert first.config == rc.RunConfig(data="digits", architecture={"name": "mlp", "hidden": [8]})
    assert second.config == first.config.replace(architecture={"name": "mlp", "hidden": [16]}, batch_size=7)
    assert dict(second.factors) == {"width": "b"}


def test_a_base_file_is_relative_to_the_study_and_has_its_own_errors(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "run.yaml").write_text("data: digits\narchitecture: mlp\nbatch_size: 7\n")
    study = load("base: runs/run.yaml\nseeds: 2\n", tmp_path)
    assert study.base.batch_size == 7
    (tmp_path / "runs" / "run.yaml").write_text("data: digits\narchitecture: mlp\nbatch_sise: 7\n")
    with pytest.raises(
        rc.errors.ConfigError, match=r"run.yaml:3: batch_sise: unknown option; did you mean 'batch_size'"
    ):
        load("base: runs/run.yaml\n", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid:\n  inference.kl_weigth: [0.1]\n", "study.yaml:3: .*did you mean 'kl_weight'"),
        ("grid:\n  batch_size:\n  - 3\n  - 0\n", r"study.yaml:5: .*greater than 0, got 0"),
        ("variants:\n  a:\n    batch_size: 1\n    dtype: int\n", "study.yaml:5: .*got 'int'"),
        ("grid:\n  height: [1]\n", "`height` is the name of a column"),
        ("grid:\n  a/b: {x: {batch_size: 1}}\n", "expected a name of letters, digits and .* got 'a/b'"),
        (
            "grid:\n  a: {../x: {batch_size: 1}}\n",
            r"expected a level of 1 to 100 printable characters without slashes, got '../x'",
        ),
        (
            "grid:\n  batch_size: [1, 2]\n  b: {x: {batch_size: 3}}\n",
            "study.yaml:4: grid.b: `batch_size` is already set by the factor `batch_size`",
        ),
        (
            "grid:\n  candidate.seed: [1, 2]\n",
            "study.yaml:3: .*`candidate.seed` has no effect in a study; use `posteriors`",
        ),
        ("matchers: [kl]\ngrid:\n  matchers: [[weight], [kl]]\n", "study.yaml:4: .*no effect .* use `matchers`"),
        ("grid:\n  batch_size: [4, 4]\n", "have equal options"),
        ("matchers: [weight, weight]\n", "'weight' twice; use a mapping with labels"),
        ("matchers: {unaligned: weight}\n", "got 'unaligned'"),
        ("pairs: [[1, 4]]\n", r"`pairs` names \['4'\]"),
        ("pairs: [[1, 2], [1, 2]]\n", "got a pair twice"),
        ("pairs: [[1, 1]]\n", "two different posteriors"),
        (
            "variants: {a: {architecture.hiden: [1]}}\n",
            "study.yaml:2: variants.a.architecture.hiden: unknown option; did",
        ),
        (
            "grid: {architecture.hidden: [[8], [0, 4]]}\n",
            r"grid.architecture.hidden\[1\]\[0\]: expected a value greater",
        ),
        ("grid: {inferense.epochs: [1]}\n", r"epochs\[0\]: no option `inferense`; did you mean 'inference'"),
        (
            "grid: {spec.path: [a]}\n",
            r"path\[0\]: `spec` is None, without an option `path`; override `spec` as a whole",
        ),
        ("variants: {a: {inference: {epochs: 3}}}\n", "variants.a.inference: expected the name of a registered"),
        ("grid: {width: {narrow: 3}}\n", "study.yaml:2: grid.width.narrow: expected a mapping of overrides .* got 3$"),
        ("grid: {batch_size: 3}\n", "study.yaml:2: grid.batch_size: expected a list of values, or levels by name"),
        ("variants: {a: 3}\n", "study.yaml:2: variants.a: expected a mapping of overrides"),
        ("variants: {a: {device: cpu}}\n", "variants: `device`: all cells have one device; set it in `base`"),
        ("pairs: some\n", "study.yaml:2: pairs: expected `all`, `none`, .* got 'some'$"),
        ("pairs: [[1]]\n", "study.yaml:2: pairs: expected `all`, `none`"),
        ("pairs: {agains: 1}\n", "study.yaml:2: pairs: expected `all`, `none`, `{against: NAME}`"),
        ("variants: {exact: {seed: 1}}\nno_pairs: [exakt]\n", "study.yaml:3: no_pairs: no variant 'exakt'; did"),
        ("matchers: [3]\n", r"study.yaml:2: matchers\[0\]: expected the name of a component"),
        (
            "matchers:\n- weight\n- {name: kl, max_swep: 3}\n",
            r"study.yaml:4: matchers\[1\].max_swep: unknown option; did",
        ),
        ("barriers: {a: pointwise, a_of_means: pointwise}\n", "study.yaml:2: barriers: `a_of_means` is the label"),
        ("seeds: 0\n", "study.yaml:2: seeds: expected a number of seeds of at least 1, .* got 0"),
        ("seeds: [1, 1]\n", "expected different seeds"),
        ("sedes: 3\n", "study.yaml:2: sedes: unknown option; did you mean 'seeds'"),
    ],
)
def test_errors_have_the_line_and_the_way_out(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(rc.errors.ConfigError, match=message):
        load(BASE + text, tmp_path).cells()


@pytest.mark.parametrize(
    ("role", "option", "value"), [("reference", "path", "a.safetensors"), ("candidate", "inference", "map")]
)
def test_posteriors_of_the_base_are_not_ignored(role: str, option: str, value: str, tmp_path: Path) -> None:
    source = f"{{path: {value}}}" if option == "path" else f"{{seed: 3, {option}: {value}}}"
    text = f"base:\n  data: digits\n  architecture: mlp\n  {role}: {source}\n"
    message = rf"study.yaml:4: base.{role}: `{option}` has no effect, since `seeds` replace it; list .* `posteriors`"
    with pytest.raises(rc.errors.ConfigError, match=message):
        load(text, tmp_path)
    study = load(text + "posteriors: {a: {path: a.safetensors}, b: {seed: 3, inference: map}}\n", tmp_path)
    assert list(study.members) == ["a", "b"]


def test_seeds_replace_those_of_the_base(tmp_path: Path) -> None:
    study = load("base: {data: digits, architecture: mlp, reference: {seed: 7}}\nseeds: 2\n", tmp_path)
    assert [source.seed for source in study.members.values()] == [1, 2]


def test_pairs_and_labels(tmp_path: Path) -> None:
    study = load(BASE + "pairs: {against: 2}\nmatchers: {w: weight, w5: {name: weight, max_sweeps: 5}}\n", tmp_path)
    assert study.pairs_of_members() == (("2", "1"), ("2", "3"))
    assert study.matchers == {"w": rc.matchers.WeightMatcher(), "w5": rc.matchers.WeightMatcher(max_sweeps=5)}
    named = load(BASE + "posteriors: {a: {path: a.safetensors}, b: {seed: 3}}\n", tmp_path)
    assert named.pairs_of_members() == (("a", "b"),)


def test_names_and_values_that_yaml_reads_as_other_types(tmp_path: Path) -> None:
    text = "grid: {allow_untested: [true, false], num_train: [null, 5]}\n"
    text += "variants: {true: , null: {seed: 4}, 2: {seed: 5}}\n"
    cells = load(BASE + text, tmp_path).cells()
    assert len(cells) == 12
    assert {cell.factors["variant"] for cell in cells} == {"true", "null", 2}
    assert [cell.config.num_train for cell in cells[:4]] == [None, None, None, 5]
    assert [cell.config.seed for cell in cells[:3]] == [0, 4, 5]


def test_options_of_a_component_that_another_factor_selects(tmp_path: Path) -> None:
    base = "base: {data: digits, architecture: mlp, inference: map}\n"
    study = load(base + "grid: {inference.kl_weight: [0.1]}\nvariants: {vi: {inference: mean_field_vi}}\n", tmp_path)
    assert [cell.config.inference for cell in study.cells()] == [rc.inference.MeanFieldVI(kl_weight=0.1)]
    study = load(BASE + "posteriors: {reference: {seed: 1}, candidate: {seed: 2}}\n", tmp_path)
    assert study.pairs_of_members() == (("reference", "candidate"),)


def test_columns_of_the_results_are_reserved() -> None:
    assert {*COLUMNS, "matcher", "unaligned", "member", "train_seconds"} == RESERVED
    assert VARIANT not in RESERVED


def test_the_schema_of_studies_has_every_option_and_component(builtin_registry: rc.Registry) -> None:
    kinds = {f: [builtin_registry.strategy_class(f, n) for n in builtin_registry.names(f)] for f in FAMILIES}
    schema = study_schema(kinds)
    assert set(schema["properties"]) == set(rc.StudyConfig.model_fields)
    assert schema["properties"]["base"]["anyOf"] == [{"type": "string"}, {"$ref": "#/$defs/RunConfig"}]
    assert schema["properties"]["matchers"]["anyOf"][1]["items"] == {"$ref": "#/$defs/matcher"}
    text = json.dumps(schema)
    assert "x-family" not in text
    for reference in {part.split('"')[0] for part in text.split('"$ref": "#/')[1:]}:
        assert functools.reduce(lambda part, key: part[key], reference.split("/"), schema)
