"""Print the tables of `verdicts.py` from its lines.

python docs/results/verdict_tables.py verdicts.jsonl
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Line = dict[str, Any]

KINDS = {
    "identical": "the same network",
    "fine-tuned": "trained further",
    "noisy": "copy with noise {strength:.0%}",
    "planted": "permuted copy, noise {strength:.0%}",
    "related": "common initialization",
    "independent": "independently trained",
    "untrained": "trained and untrained",
    "random": "untrained",
}


def interval(values: Iterable[float], digits: int = 2) -> str:
    """Return the least and the largest value."""
    found = sorted(values)
    bounds = [f"{found[0]:.{digits}f}", f"{found[-1]:.{digits}f}"]
    return bounds[0] if bounds[0] == bounds[1] else " to ".join(bounds)


def label(line: Mapping[str, Any]) -> str:
    """Return the description of a kind of pair."""
    return KINDS[line["kind"]].format(**line)


def relations(lines: list[Line]) -> str:
    """Return the ranges of the statistics by kind of pair."""
    order = list(KINDS)
    lines = sorted(lines, key=lambda line: (order.index(line["kind"]), line["strength"]))
    rows = []
    for kind in dict.fromkeys(label(line) for line in lines):
        found = [line for line in lines if label(line) == kind]
        columns = ["cosine_before", "cosine_after", "excess_before", "excess_after", "explained", "permuted"]
        ranges = [interval(line[column] for line in found) for column in columns]
        verdicts = Counter(line["verdict"] for line in found)
        shown = ", ".join(f"{name} {count}" for name, count in verdicts.most_common())
        rows.append([kind, len(found), *ranges, shown])
    headers = [
        "pair",
        "n",
        "cosine before",
        "cosine after",
        "excess before",
        "excess after",
        "explained",
        "share of permuted units",
        "verdicts",
    ]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def pairs(lines: list[Line]) -> str:
    """Return one row per family and relation of its published pairs."""
    published = [line for line in lines if line["kind"] in {"independent", "related"}]
    rows = []
    for name, kind in dict.fromkeys((line["family"], line["kind"]) for line in published):
        found = [line for line in published if (line["family"], line["kind"]) == (name, kind)]
        row = [f"`{name}`" + (", common initialization" if kind == "related" else ""), len(found)]
        row += [
            interval(line["cosine_after"] for line in found),
            interval(line["chance_cosine_after"] for line in found),
        ]
        row += [interval(line[f"excess_{when}"] for line in found) for when in ("before", "after")]
        for key in ("midpoint", "midpoint_reset"):
            has_values = f"{key}_before" in found[0]
            for when in ("before", "after"):
                row.append(interval((line[f"{key}_{when}"] for line in found), 1) if has_values else "")
        rows.append(row)
    headers = [
        "networks",
        "pairs",
        "cosine after",
        "by chance",
        "excess before",
        "excess after",
        "midpoint before",
        "midpoint after",
        "before, reset",
        "after, reset",
    ]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def main() -> None:
    """Print both tables."""
    lines = [json.loads(line) for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]
    print(relations(lines), pairs(lines), sep="\n\n")


if __name__ == "__main__":
    main()
