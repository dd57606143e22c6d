"""The report of a run: one HTML file that opens offline."""

from __future__ import annotations

import base64
import json
from html import escape
from typing import TYPE_CHECKING

from rebasin_core.barriers.curve import LossCurve
from rebasin_core.errors import FileFormatError
from rebasin_core.report.description import description_of, title_of
from rebasin_core.report.figures import run_figures, score_files
from rebasin_core.report.records import Commands, RunRecord, Scores, Summary
from rebasin_core.report.table import barrier_notes, barrier_rows, best_alignment, error_name
from rebasin_core.tensors.files import write_bytes
from rebasin_core.tensors.reading import read_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from rebasin_core.report.figures import RunFigure
    from rebasin_core.report.records import MatchRecord

_PAGE = "report.html"
# Larger scores have one decimal.
_LARGE = 10.0
# Of tables that fit a narrow screen.
_MAX_COLUMNS = 4
_CSS = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --line: #d8dee4; --paper: #ffffff; --tint: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #9aa4ae; --line: #38414a; --paper: #14181c; --tint: #1d2329; }
}
body { margin: 0 auto; max-width: 68rem; padding: 2rem 1.25rem 4rem; color: var(--ink); background: var(--paper);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
p { max-width: 46rem; } .soft { color: var(--soft); } .answer { font-size: 1.15rem; }
.note { border-left: 3px solid #b35900; padding-left: .75rem; }
.scroll { overflow-x: auto; scrollbar-width: thin; } code { background: var(--tint); overflow-wrap: anywhere; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .5rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; background: var(--tint); } th:first-child, td:first-child { text-align: left; }
.narrow { display: none; }
img { max-width: 100%; height: auto; background: #ffffff; border-radius: 4px; }
figure { margin: 1rem 0; } figcaption { color: var(--soft); font-size: .9rem; }
pre { background: var(--tint); padding: 1rem; overflow-x: auto; font-size: .85rem; border-radius: 4px; }
summary { cursor: pointer; }
@media (max-width: 640px) {
  body { padding: 1rem .75rem 3rem; font-size: 15px; } h1 { font-size: 1.35rem; } .answer { font-size: 1.05rem; }
  table { font-size: .8rem; } th, td { padding: .3rem .2rem; white-space: normal; }
  .wide { display: none; } .narrow { display: block; }
}
"""
_CAPTIONS = {
    "barrier": "Loss on the {subject} data, from the reference (t = 0) to the candidate (t = 1). First panel: loss "
    "along the path. Second panel: excess loss of the aligned pairs over the linear interpolation of the endpoint "
    "losses. Bands: ± 2 Monte Carlo standard errors.",
    "training": "Training objective of each epoch, averaged over its batches.",
    "reliability": "Reliability diagrams on the {subject} data: accuracy against confidence (blue). Gray bars: "
    "fraction of examples in each confidence bin. Diagonal: perfect calibration.",
    "similarity": "Matcher {subject}: cosine similarity between the weights of the (up to 48) largest-norm reference "
    "units (rows) and the candidate units at the same indices (columns), before and after alignment. Up to 4 groups. "
    "Negative values are shown as zero.",
}
_SCORE_HEADINGS = {
    "nll": "NLL (nats per example)",
    "nll_original": "NLL (original units)",
    "nll_stderr": "NLL, Monte Carlo standard error",
    "nll_bias": "NLL, estimated bias",
    "nll_data_stderr": "NLL, standard error from the finite dataset",
    "effective_samples": "effective number of posterior samples",
    "gibbs": "Gibbs loss (nats per example)",
    "accuracy": "accuracy (fraction of examples)",
    "brier": "Brier score",
    "ece": "expected calibration error",
    "entropy": "predictive entropy (nats)",
    "mutual_information": "mutual information (nats)",
    "rmse": "RMSE",
    "crps": "CRPS",
    "rmse_original": "RMSE (original units)",
    "crps_original": "CRPS (original units)",
}
_COMMANDS = '<p class="soft" id="commands">{}</p>'


def write_report(folder: Path) -> Path:
    """Draw the figures of a run and write its report, one HTML file that contains them.

    Args:
        folder: The run's output folder.

    Returns:
        The file, ``report.html`` in the folder.

    Raises:
        PluginError: If matplotlib is not installed.
        FileFormatError: If the folder does not contain a finished run, or files are damaged.
        StorageError: If the file cannot be written.
    """
    if not (folder / "summary.json").is_file():
        message = f"{folder} is not the folder of a finished run: it has no summary.json; complete the run first"
        raise FileFormatError(message)
    summary = Summary.read(folder / "summary.json")
    record = RunRecord.read(folder / "run.json")
    figures = run_figures(folder)
    for figure in figures:
        figure.save(folder / "figures")
    body = _body(folder, summary, record, figures)
    title = escape(title_of(record.config))
    page = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>rebasin_core: {title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_CSS}</style></head>\n'
        f"<body>{body}</body></html>\n"
    )
    write_bytes(folder / _PAGE, page.encode())
    return folder / _PAGE


def update_commands(folder: Path) -> None:
    """Write the last command of ``stages/commands.json`` to the report of a run, if it has one.

    Args:
        folder: The run's output folder.

    Raises:
        FileFormatError: If a file is damaged.
        StorageError: If the report cannot be written.
    """
    path = folder / _PAGE
    if not path.is_file():
        return
    start, _, stop = _COMMANDS.encode().partition(b"{}")
    before, found, rest = path.read_bytes().partition(start)
    content = before + _commands(folder).encode() + rest.partition(stop)[2]
    if found and content != path.read_bytes():
        write_bytes(path, content)


def _commands(folder: Path) -> str:
    """Return the paragraph with the last command; without text in a report that no command has read yet."""
    path = folder / "stages" / "commands.json"
    commands = Commands.read(path).commands if path.is_file() else []
    text = ""
    if commands:
        text = f"Date: {escape(commands[-1].date)}. Command: <code>{escape(commands[-1].command)}</code>"
    return _COMMANDS.format(text)


def _body(folder: Path, summary: Summary, record: RunRecord, figures: Sequence[RunFigure]) -> str:
    config = record.config
    parts = [f"<h1>{escape(title_of(config))}</h1>"]
    parts += [f'<p class="soft">{escape(line)}</p>' for line in description_of(config)]
    parts.append(_commands(folder))
    for split, entries in summary.barriers.items():
        curves = {
            label: LossCurve.from_json(read_json(folder / "curves" / split / f"{label}.json")) for label in entries
        }
        parts += [f"<h2>Loss barrier on the {escape(split)} data</h2>", _answer(curves)]
        means = {label: entry.means.height for label, entry in entries.items() if entry.means is not None}
        headings, rows = barrier_rows(curves, summary.wasserstein_distances, means)
        parts += [_figure(folder, figure) for figure in figures if figure.name == f"barrier_{split}"]
        parts.append(_table(headings, rows))
        parts += [f'<p class="note">{escape(note)}</p>' for note in barrier_notes(curves)]
        parts.append(_scores(folder, split))
        parts += [_figure(folder, figure) for figure in figures if figure.name == f"reliability_{split}"]
    training = [_figure(folder, figure) for figure in figures if figure.kind == "training"]
    parts += ["<h2>Training</h2>", *training] if training else []
    parts += ["<h2>Matching</h2>", _matches(summary.matches)]
    parts += [_figure(folder, figure) for figure in figures if figure.kind == "similarity"]
    settings = escape(json.dumps(read_json(folder / "run.json")["config"], indent=2))
    versions = ", ".join(f"{name} {version}" for name, version in {**record.code, **record.about}.items())
    parts += [
        "<h2>Configuration</h2>",
        f"<details><summary>Run configuration with all defaults</summary><pre>{settings}</pre></details>",
        f'<p class="soft">{escape(versions)}</p>',
    ]
    return "\n".join(parts)


def _answer(curves: Mapping[str, LossCurve]) -> str:
    """Return a sentence on the reduction of the barrier by alignment."""
    best, before, after = best_alignment(curves)
    unit = escape(f"{curves[best].unit} ").lstrip()
    return (
        f'<p class="answer">Lowest barrier: <b>{escape(best)}</b>, from {before} (unaligned) to <b>{after}</b> {unit}'
        f"(±: {error_name(curves[best])}).</p>"
    )


def _scores(folder: Path, split: str) -> str:
    found = {role: Scores.read(path).scores for role, path in score_files(folder, split).items()}
    if not found:
        return ""
    rows = [
        [_SCORE_HEADINGS.get(name, name), *(_score(scores.get(name)) for scores in found.values())]
        for name in found["reference"]
    ]
    return "<h3>Predictive scores</h3>" + _table(["score", *found], rows)


def _matches(matches: Mapping[str, MatchRecord]) -> str:
    headings = ["matcher", "objective", "objective (identity)", "sweeps", "outcome", "permuted units by group"]
    rows = [
        [
            name,
            _number(entry.objective),
            _number(entry.identity_objective),
            str(entry.sweeps),
            entry.outcome,
            ", ".join(f"{group} {count}" for group, count in entry.moved.items()),
        ]
        for name, entry in matches.items()
    ]
    return _table(headings, rows)


def _table(headings: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; on narrow screens the columns of a wide one are rows."""
    lines = [list(headings), *map(list, rows)]
    if len(lines[0]) <= _MAX_COLUMNS:
        return _markup(lines, "")
    return _markup(lines, "wide") + _markup(list(zip(*lines, strict=True)), "narrow")


def _markup(lines: Sequence[Sequence[str]], style: str) -> str:
    first, *rest = [[escape(cell).replace("|", "<br>") for cell in line] for line in lines]
    head = "".join(f"<th>{cell}</th>" for cell in first)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>" for line in rest)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll {style}">{table}</div>'


def _figure(folder: Path, figure: RunFigure) -> str:
    """Return a figure embedded as an image. Inline SVG would not do: ids of different figures would collide."""
    wide = (folder / "figures" / f"{figure.name}.svg").read_bytes()
    caption = _CAPTIONS[figure.kind].format(subject=figure.subject)
    alternative = escape(f"{figure.name.replace('_', ' ')}. {caption}")
    narrow = f'<source media="(max-width: 640px)" srcset="{_embedded(figure.narrow_svg())}">'
    image = f'<img alt="{alternative}" src="{_embedded(wide)}">'
    return f"<figure><picture>{narrow}{image}</picture><figcaption>{escape(caption)}</figcaption></figure>"


def _embedded(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if abs(value) < _LARGE else f"{value:.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
