"""The page on studies: its study file is valid."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

import rebasin_core as rc

PAGE = Path(__file__).parents[2] / "docs" / "studies.md"


def test_study_files_of_the_page_are_valid(tmp_path: Path) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (tmp_path / "run.yaml").write_text(
        "{data: digits, architecture: mlp, inference: {name: mean_field_vi, kl_weight: 0.1}}", encoding="utf-8"
    )
    (tmp_path / "widths.yaml").write_text(blocks[0], encoding="utf-8")
    config = rc.load_study(tmp_path / "widths.yaml")
    assert len(config.cells()) == 12
    assert len(config.pairs_of_members()) == 6
    (tmp_path / "instability.yaml").write_text(blocks[1], encoding="utf-8")
    assert len(rc.load_study(tmp_path / "instability.yaml").cells()) == 3
    documents = [yaml.safe_load(block) for block in blocks]
    executors = [document["executor"] for document in documents if "executor" in document]
    assert rc.Executor.of(executors[0]).slots == 4
