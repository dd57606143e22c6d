"""The run file that `rebasin new` writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from rebasin_core.studies.execution import load_run
from tests.cli.conftest import Called

FILE = Path("my.yaml")


def test_the_new_file_runs_as_written_and_shows_each_stage_and_epoch(tmp_path: Path, called: Called) -> None:
    code, output, _ = called("new", "my.yaml", cwd=tmp_path)
    assert code == 0
    assert output.splitlines()[-1].endswith("rebasin run my.yaml")
    code, output, errors = called("run", "my.yaml", cwd=tmp_path)
    assert code == 0
    assert "Lowest barrier" in output
    for line in (
        r"train candidate: epoch 20/20, loss \d\.\d{4}, \d+ s",
        r"\[3/15\] train candidate: .* s",
        r"\[15/15\] report: .*",
    ):
        assert re.search(rf"^{line}", errors, re.MULTILINE), line


def test_every_commented_key_is_valid(tmp_path: Path, called: Called) -> None:
    called("new", "my.yaml", cwd=tmp_path)
    text = (tmp_path / "my.yaml").read_text()
    (tmp_path / "other.safetensors").write_bytes(b"")
    keys = re.findall(r"^(?:#| ) +# ?(\w+: .*)$|^# (\w+: .*)$", text, re.MULTILINE)
    found = [first or second for first, second in keys]
    assert [entry.partition(":")[0] for entry in found] == ["schedule", "candidate", "num_train", "splits", "device"]
    entries = yaml.safe_load(text)
    for entry in found:
        value = yaml.safe_load(entry)
        changed = (
            {**entries, **value} if "schedule" not in value else {**entries, "inference": entries["inference"] | value}
        )
        (tmp_path / "changed.yaml").write_text(yaml.safe_dump(changed))
        load_run(tmp_path / "changed.yaml")


def test_an_existing_file_is_kept(tmp_path: Path, called: Called) -> None:
    (tmp_path / "run.yaml").write_text("mine")
    code, _, errors = called("new", cwd=tmp_path)
    assert code == 3
    assert "run.yaml exists; choose another output, or give --force to replace it" in errors
    assert (tmp_path / "run.yaml").read_text() == "mine"
    assert called("new", "--force", cwd=tmp_path)[0] == 0
    assert yaml.safe_load((tmp_path / "run.yaml").read_text())["data"] == "digits"


@pytest.mark.slow
def test_progress_can_be_turned_off(tmp_path: Path, called: Called) -> None:
    called("new", cwd=tmp_path)
    text = (tmp_path / "run.yaml").read_text().replace("epochs: 20", "epochs: 1")
    (tmp_path / "run.yaml").write_text(text)
    code, _, errors = called("run", "run.yaml", "--no-progress", cwd=tmp_path)
    assert code == 0
    assert not re.search(r"epoch|stage", errors)
