"""The HTML report of a run, and single plots."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.config.run import RunConfig
from rebasin_core.errors import FileFormatError
from rebasin_core.report import (
    draw_barrier_matrix,
    draw_loss_plane,
    draw_reliability,
    draw_similarity,
    save_figure,
    styled_figure,
    write_report,
)
from rebasin_core.report.page import update_commands

TEXT = """
data: digits
architecture: {name: mlp, hidden: [10]}
inference: {name: mean_field_vi, epochs: 2}
matchers: [weight, kl]
barrier: {name: marginalized, num_points: 3, num_samples: 4}
num_train: 300
splits: [test, train]
reference: {seed: 3}
candidate: {seed: 4}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    (root / "run.yaml").write_text(TEXT)
    config: RunConfig = rc.load_run(root / "run.yaml")
    return rc.run(config, root / "a run").folder


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.links: list[str] = []

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.sources += [str(values["src"])] if "src" in values else []
        self.links += [str(values["href"])] if "href" in values else []
        if tag not in {"meta", "img", "br", "source"}:
            self.open.append(tag)

    @override
    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_one_file_without_links(folder: Path) -> None:
    text = write_report(folder).read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert not page.open
    assert not page.links
    assert len(page.sources) == 7
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.sources)
    assert not re.search(r"https?://", text)
    assert "Loss barrier on the train data" in text
    summary = json.loads((folder / "summary.json").read_text())
    for curve in summary["barriers"]["test"].values():
        assert f"{curve['height']:.4f}" in text


def test_the_report_names_the_network_the_training_and_the_last_command(folder: Path) -> None:
    text = write_report(folder).read_text(encoding="utf-8")
    assert "<h1>mlp (activation relu, hidden 10) on digits</h1>" in text
    assert "Inference: mean_field_vi (epochs 2, " in text
    assert "; reference: seed 3; candidate: seed 4." in text
    assert "Barrier: marginalized (points 3, samples 4, path auto)." in text
    assert "<td>NLL (nats per example)</td>" in text
    history = json.loads((folder / "training" / "reference.json").read_text())["history"]
    assert len(history) == 2
    (command,) = json.loads((folder / "stages" / "commands.json").read_text())["commands"]
    assert f"Date: {command['date']}. Command: <code>{html.escape(command['command'])}</code>" in text


def test_the_command_is_updated_without_other_changes(folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    (copied / "stages" / "commands.json").unlink()
    plain = write_report(copied).read_bytes()
    update_commands(copied)
    assert (copied / "report.html").read_bytes() == plain
    for command in ("rebasin run <a>.yaml", "rebasin run b.yaml"):
        entries = [{"date": "2026-01-02 03:04 UTC", "command": command, "host": "here"}]
        (copied / "stages" / "commands.json").write_text(json.dumps({"commands": entries}))
        update_commands(copied)
        updated = (copied / "report.html").read_bytes()
        assert html.escape(command).encode() in updated
        assert write_report(copied).read_bytes() == updated
    shown = b"Date: 2026-01-02 03:04 UTC. Command: <code>rebasin run b.yaml</code>"
    assert updated.replace(shown, b"") == plain


def test_wide_tables_have_a_narrow_form(folder: Path) -> None:
    text = write_report(folder).read_text(encoding="utf-8")
    rows = {kind: len(re.findall(f'<div class="scroll {kind}">', text)) for kind in ("wide", "narrow")}
    assert rows == {"wide": 3, "narrow": 3}  # barriers of two splits, matches
    summary = json.loads((folder / "summary.json").read_text())
    height = f"{summary['barriers']['test']['weight']['height']:.4f}"
    assert "<td>barrier<br>(nats)</td><td>" in text
    assert re.search(rf"<td>weight</td><td>{height}</td>", text)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_a_browser_renders_the_report(folder: Path, tmp_path: Path) -> None:
    page = write_report(folder)
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        f"--user-data-dir={tmp_path}", "--virtual-time-budget=5000", "--dump-dom", page.resolve().as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "Lowest barrier: <b>" in done.stdout


def test_an_unfinished_or_damaged_run_is_an_error(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(FileFormatError, match="is not the folder of a finished run"):
        write_report(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "run.json").write_text("{}")
    with pytest.raises(FileFormatError, match="damaged"):
        write_report(broken)


def test_equal_plots_give_identical_files(tmp_path: Path) -> None:
    def draw(name: str) -> list[bytes]:
        with styled_figure(8, 8) as figure:
            panels = figure.subplots(2, 2)
            draw_barrier_matrix(panels[0, 0], torch.tensor([[0.0, 0.5], [0.5, 0.0]]), labels=["a", "b"])
            grid = torch.linspace(0, 1, 5)
            draw_loss_plane(
                panels[0, 1], grid, grid, 0.1 + torch.outer(grid, grid), torch.tensor([[0.0, 0.0], [1.0, 0.0]])
            )
            counts, confidence, accuracy = rc.metrics.reliability(
                torch.tensor([[0.7, 0.3], [0.2, 0.8]]), torch.tensor([0, 0])
            )
            draw_reliability(panels[1, 0], counts, confidence, accuracy)
            draw_similarity(panels[1, 1], torch.eye(3))
            return [path.read_bytes() for path in save_figure(figure, tmp_path, name)]

    assert draw("one") == draw("two")
    with styled_figure(2, 2) as figure, pytest.raises(rc.RebasinError, match="square matrix"):
        draw_barrier_matrix(figure.subplots(), torch.zeros(2, 3))
