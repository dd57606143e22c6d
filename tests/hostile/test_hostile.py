"""Any file content and any command line leads to an error of this package or a documented exit code."""

from __future__ import annotations

import json
import os
import random
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy

import rebasin_core as rc
from rebasin_core.config.document import Document
from rebasin_core.errors import FileFormatError, RebasinError
from rebasin_core.posteriors.foreign.state_dict import load_samples
from rebasin_core.tensors.reading import read_json
from tests.hostile.commands import DOCUMENTED, commands, prepare, run_command
from tests.hostile.targets import TARGETS, Target

SEEDS = st.integers(0, 2**32 - 1)
# The same mutations in every run; `tests/benchmarks/hostile.py` tests others.
FEW = settings(max_examples=25, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_files_with_any_content_are_read_or_raise(target: Target, tmp_path: Path) -> None:
    content = target.content(tmp_path)
    found: set[str] = set()

    @FEW
    @given(SEEDS)
    def run(seed: int) -> None:
        mutated = target.mutated(content, random.Random(seed))
        found.add(target.outcome(tmp_path / target.name, mutated))

    run()
    # Some mutations must be detected; otherwise, the test would be meaningless.
    assert found - {"read"} or target.name == "stage record"
    assert target.outcome(tmp_path / target.name, content) == "read"


def test_any_command_line_ends_with_a_documented_code(tmp_path: Path) -> None:
    codes: set[int] = set()

    @settings(FEW, max_examples=60)
    @given(SEEDS)
    def run(seed: int) -> None:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        prepare(folder)
        words = commands(seed, folder)
        code, errors = run_command(words, folder)
        assert code in DOCUMENTED, (words, errors)
        assert "Traceback" not in errors, words
        assert code == 0 or errors.strip(), words
        codes.add(code)

    run()
    assert 2 in codes


READERS = {
    "posterior": rc.load_posterior,
    "permutation": rc.Permutation.load,
    "element": rc.load_element,
    "specification": rc.load_spec,
    "run": rc.load_run,
    "json": read_json,
    "samples": load_samples,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["device", "fifo", "folder", "nothing", "long", "nul", "loop"])
def test_paths_that_are_not_regular_files_raise(tmp_path: Path, reader: str, kind: str) -> None:
    path = tmp_path / {"long": "x" * 300, "nul": "a\0b"}.get(kind, kind)
    match kind:
        case "device":
            path.symlink_to("/dev/zero")
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "loop":
            path.symlink_to(path)
        case _:
            pass
    for name in (path, str(path)) if kind != "nul" else (str(path),):
        with pytest.raises(RebasinError, match="cannot read"):
            READERS[reader](name)  # type: ignore[operator]


@pytest.mark.parametrize("name", ["posterior point", "permutation", "training"])
def test_files_of_another_format_version_raise(tmp_path: Path, name: str) -> None:
    target = next(target for target in TARGETS if target.name == name)
    content = target.content(tmp_path)
    assert content.count(b"rebasin_core/1") == 1
    (tmp_path / "later").write_bytes(content.replace(b"rebasin_core/1", b"rebasin_core/9"))
    with pytest.raises(
        FileFormatError, match=r"the format 'rebasin_core/9', this release reads .*; install the release"
    ):
        target.read(tmp_path / "later")


def test_curve_of_another_version_raises(tmp_path: Path) -> None:
    target = next(target for target in TARGETS if target.name == "curve")
    target.write(tmp_path / "curve")
    document = read_json(tmp_path / "curve")
    curve = rc.LossCurve.from_json(document)
    assert rc.LossCurve.from_json({"kind": "curve", "version": 1, **document}) == curve
    with pytest.raises(FileFormatError, match="written in version 2, this release reads version 1"):
        rc.LossCurve.from_json({"kind": "curve", "version": 2, **document})
    with pytest.raises(FileFormatError, match='"kind": "curve"'):
        rc.LossCurve.from_json({"kind": "barrier", "version": 1, **document})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": "0.1"}, "height"),
        ({"height": True}, "height"),
        ({"t": [0.0, 1.0]}, "one for each of the 2 coefficients"),
        ({"t": [0.0, 0.5, 0.5]}, "increase from 0 to 1"),
        ({"loss": [1, 2]}, "`loss` has 2 values"),
        ({"loss": [[1], [2], [3]]}, "loss"),
        ({"metric": 3}, "metric"),
        ({"color": 3}, "color"),
    ],
)
def test_invalid_curves_raise(tmp_path: Path, change: dict[str, object], message: str) -> None:
    target = next(target for target in TARGETS if target.name == "curve")
    target.write(tmp_path / "curve")
    with pytest.raises(RebasinError, match=message):
        rc.LossCurve.from_json({**read_json(tmp_path / "curve"), **change})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"groups": {"h": {"size": 10**12}}, "axes": {"w": "h"}}, "units, expected at most"),
        ({"groups": {"h": {"size": 3}, "ghost": {"size": 3}}, "axes": {"w": "h"}}, "no tensor has an axis .*`ghost`"),
        ({"groups": {"h": {"size": 3, "witin": "g"}}, "axes": {"w": "h"}}, "`within`"),
        ({"groups": {"h": {"size": True}}, "axes": {"w": "h"}}, "an integer, at least 1"),
        ({"groups": {"h": {"size": 3.0}}, "axes": {"w": "h"}}, "an integer, at least 1"),
        ({"groups": {}, "axes": {"w": "*".join(["2"] * 2000)}}, "at most 64 factors"),
        ({"groups": {}, "axes": {"w": "(" * 50_000}}, "at most 32 nested parentheses"),
        ({"groups": {}, "axes": {"w": "9" * 5000}}, "at most 15 digits"),
        ({"groups": {"h": {"size": 2}}, "axes": {"w": "*".join(["(h + 1)"] * 20)}}, "at most 100000 cells"),
        ({"groups": {}, "axes": {"w": "999999999999999*999999999999999"}}, "positions"),
        ({"groups": {"h": {"size": 2}}, "axes": {"w": "h@("}}, "a group"),
    ],
)
def test_specifications_with_excessive_sizes_raise(tmp_path: Path, document: dict[str, object], message: str) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"kind": "specification", "version": 1, **document}), encoding="utf-8")
    with pytest.raises(RebasinError, match=message):
        rc.load_spec(path)


def bomb(level: int) -> str:
    """Return nine aliases of the previous level."""
    return ", ".join([f"*a{level - 1}"] * 9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " * 1000, "mapping values"),
        ("[" * 1000 + "]" * 1000, "nested more than 64 levels deep"),
        ("&x [*x]", "nested more than 64 levels deep"),
        ("? &x {*x : 1}\n: 1", "expected a name"),
        ("a: 1\n\0", "not YAML or JSON"),
        ("!!timestamp 99", "could not determine a constructor"),
        ("a: !!int x", "'x' is not of type int"),
        ("a: !!bool x", "'x' is not of type bool"),
        ("a0: &a0 [1]\n" + "".join(f"a{k}: &a{k} [{bomb(k)}]\n" for k in range(1, 10)), "200000"),
        ("a0: &a0 {x: 1}\n" + "".join(f"a{k}: &a{k} {{<<: [{bomb(k)}]}}\n" for k in range(1, 10)), "200000"),
    ],
)
def test_run_files_with_excessive_content_raise(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RebasinError, match=message):
        rc.load_run(tmp_path / "run.yaml")


def test_dates_are_read_as_strings() -> None:
    assert Document.parse("a: 2020-01-01\nb: 2020-99-99", "f").content == {"a": "2020-01-01", "b": "2020-99-99"}


def test_archive_larger_than_memory_raises(tmp_path: Path) -> None:
    shape = (2**40,)
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w") as file,
    ):
        npy.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
        for _ in range(64):
            file.write(bytes(2**20))
    with pytest.raises(FileFormatError, match=r"expected 8796093022208 bytes of .* for shape \(1099511627776,\)"):
        load_samples(tmp_path / "bomb.npz")
