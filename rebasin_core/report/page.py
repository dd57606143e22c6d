"""The report of a run: one HTML file that opens offline."""

from __future__ import annotations

import base64
import json
from html import escape
from typing import TYPE_CHECKING

from rebasin_core.barriers.curve import LossCurve
from rebasin_core.errors import FileFormatError
from rebasin_core.report.figures import score_files, write_figures
from rebasin_core.report.records import RunRecord, Scores, Summary
from rebasin_core.report.table import barrier_notes, barrier_rows, best_alignment, error_name
from rebasin_core.tensors.files import write_bytes
from rebasin_core.tensors.reading import read_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from rebasin_core.report.records import Configuration, MatchRecord

_PAGE = "report.html"
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
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .5rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; background: var(--tint); } th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; height: auto; background: #ffffff; border-radius: 4px; }
figure { margin: 1rem 0; } figcaption { color: var(--soft); font-size: .9rem; }
pre { background: var(--tint); padding: 1rem; overflow-x: auto; font-size: .85rem; border-radius: 4px; }
summary { cursor: pointer; }
"""
_CAPTIONS = {
    "barrier": "Left: loss along the path. Right: excess loss of the aligned pairs over the linear interpolation of "
    "the endpoint losses. Bands: ± 2 Monte Carlo standard errors.",
    "reliability": "Reliability diagrams: accuracy against confidence (blue). Gray bars: fraction of examples in each "
    "confidence bin. Diagonal: perfect calibration.",
    "similarity": "Cosine similarity between the weights of the (up to 48) largest-norm reference units (rows) and the "
    "candidate units at the same indices (columns), before and after alignment. Up to 4 groups.",
}
_SCORE_HEADINGS = {
    "nll": "NLL|(nats)",
    "nll_original": "NLL|(original units)",
    "nll_stderr": "NLL|MC s.e.",
    "nll_bias": "NLL|bias",
    "nll_data_stderr": "NLL|data s.e.",
    "effective_samples": "effective|samples",
    "gibbs": "Gibbs loss|(nats)",
    "brier": "Brier|score",
    "ece": "ECE",
    "entropy": "predictive|entropy (nats)",
    "mutual_information": "mutual|information (nats)",
    "rmse": "RMSE",
    "crps": "CRPS",
    "rmse_original": "RMSE|(original units)",
    "crps_original": "CRPS|(original units)",
}


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
    figures = [path for path in write_figures(folder) if path.suffix == ".svg"]
    body = _body(folder, summary, record, figures)
    title = escape(_title(record.config))
    page = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>rebasin_core: {title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_CSS}</style></head>\n'
        f"<body>{body}</body></html>\n"
    )
    write_bytes(folder / _PAGE, page.encode())
    return folder / _PAGE


def _body(folder: Path, summary: Summary, record: RunRecord, figures: Sequence[Path]) -> str:
    config = record.config
    parts = [f"<h1>{escape(_title(config))}</h1>", f'<p class="soft">Inference: {escape(config.inference.name)}</p>']
    for split, entries in summary.barriers.items():
        curves = {
            label: LossCurve.from_json(read_json(folder / "curves" / split / f"{label}.json")) for label in entries
        }
        parts += [f"<h2>Loss barrier on the {escape(split)} data</h2>", _answer(curves)]
        means = {label: entry.means.height for label, entry in entries.items() if entry.means is not None}
        headings, rows = barrier_rows(curves, summary.wasserstein_distances, means)
        parts.append(_table(headings, rows))
        parts += [f'<p class="note">{escape(note)}</p>' for note in barrier_notes(curves)]
        parts += [_figure(path) for path in figures if path.stem == f"barrier_{split}"]
        parts.append(_scores(folder, split))
        parts += [_figure(path) for path in figures if path.stem == f"reliability_{split}"]
    parts += ["<h2>Matching</h2>", _matches(summary.matches)]
    parts += [_figure(path) for path in figures if path.stem.startswith("similarity_")]
    settings = escape(json.dumps(read_json(folder / "run.json")["config"], indent=2))
    versions = ", ".join(f"{name} {version}" for name, version in {**record.code, **record.about}.items())
    parts += [
        "<h2>Configuration</h2>",
        f"<details><summary>Run configuration with all defaults</summary><pre>{settings}</pre></details>",
        f'<p class="soft">{escape(versions)}</p>',
    ]
    return "\n".join(parts)


def _title(config: Configuration) -> str:
    """Return the title: the network and the dataset. It has no path, so equal runs have equal reports."""
    return f"{config.architecture.name} on {config.data.name}"


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
    names = list(found["reference"])
    rows = [[role, *(_number(scores.get(name)) for name in names)] for role, scores in found.items()]
    headings = [_SCORE_HEADINGS.get(name, name) for name in names]
    return "<h3>Predictive scores</h3>" + _table(["posterior", *headings], rows)


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
    head = "".join(f"<th>{escape(heading).replace('|', '<br>')}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _figure(path: Path) -> str:
    """Return a figure embedded as an image. Inline SVG would not do: ids of different figures would collide."""
    data = base64.b64encode(path.read_bytes()).decode()
    kind, _, subject = path.stem.partition("_")
    caption = f"Matcher {subject}. {_CAPTIONS[kind]}" if kind == "similarity" else _CAPTIONS[kind]
    alternative = escape(f"{path.stem.replace('_', ' ')}. {caption}")
    return (
        f'<figure><img alt="{alternative}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
