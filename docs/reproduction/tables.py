"""Print the tables of studies from the CSV files of ``rebasin results``; draw the figure from the tables of the page.

python docs/reproduction/tables.py widths.csv ablations.csv
python docs/reproduction/tables.py --page docs/reproduction/index.md --figure docs/reproduction/widths.svg
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections import defaultdict
from pathlib import Path
from typing import TypeAlias

from tabulate import tabulate

from rebasin_core.analysis import mean_over_pairs
from rebasin_core.report import save_figure, styled_figure
from rebasin_core.report.style import COLORS, LINES, UNALIGNED_COLOR

ALIGNMENTS = ("unaligned", "weight", "wasserstein", "activation")
Row: TypeAlias = dict[str, str]


def tables(path: Path) -> str:
    """Return one Markdown table for each barrier estimator and each level of all factors but the last.

    The last factor has one row for each level. Factors are the columns before ``reference``.
    """
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    names = list(reader.fieldnames or ())
    *outer, last = names[: names.index("reference")]
    found: dict[tuple[str, ...], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[*(row[name] for name in outer), row["barrier"]][row[last]].append(row)
    return "\n".join(
        f"\n### {path.stem}: {', '.join(title)}\n\n{table(last, levels)}" for title, levels in found.items()
    )


def table(factor: str, levels: dict[str, list[Row]]) -> str:
    """Return a Markdown table with one row for each level."""
    known = {row["alignment"] for rows in levels.values() for row in rows}
    alignments = [name for name in ALIGNMENTS if name in known]
    lines = []
    for level, rows in levels.items():
        line = [level]
        for alignment in alignments:
            heights = {
                (r["reference"], r["candidate"]): float(r["height"]) for r in rows if r["alignment"] == alignment
            }
            estimate = mean_over_pairs(heights)
            line.append(f"{estimate.mean:.4f} ± {estimate.stderr:.4f}")
        aligned = [r for r in rows if r["alignment"] == ("wasserstein" if "wasserstein" in known else "weight")]
        monte_carlo = max(float(r["height_stderr"]) for r in rows)
        data = statistics.mean(float(r["height_data_stderr"]) for r in aligned)
        endpoints = [float(r[name]) for r in aligned for name in ("reference_score", "candidate_score")]
        midpoint = statistics.mean(float(r["midpoint_score"]) for r in aligned)
        line += [
            f"{monte_carlo:.4f}",
            f"{data:.4f}",
            f"{100 * statistics.mean(endpoints):.2f}",
            f"{100 * midpoint:.2f}",
        ]
        lines.append(line)
    names = [name if name == "unaligned" else f"`{name}`" for name in alignments]
    headers = [factor, *names, "MC s.e.", "data s.e.", "endpoint (%)", "midpoint (%)"]
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True)


def heights(page: str, data: str, method: str) -> dict[str, list[tuple[int, float, float]]]:
    """Return (width, barrier, standard error) for each alignment from the page's table of a dataset and method."""
    section = page.split(f"## Width, {data}\n")[1].split("\n## ", maxsplit=1)[0]
    lines = section.split(f"{method}:\n")[1].strip().split("\n\n")[0].splitlines()
    headers, *rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    barriers: dict[str, list[tuple[int, float, float]]] = {}
    for alignment in ALIGNMENTS:
        cells = [(row[0], row[headers.index(alignment)]) for row in rows[1:]]
        barriers[alignment] = [(int(width), *map(float, cell.split(" ± "))) for width, cell in cells]
    return barriers


def figure(page: str, path: Path) -> None:
    """Plot the barriers against the width."""
    with styled_figure(9, 4.1) as drawn:
        panels = drawn.subplots(1, 2, sharey=True)
        for axes, data in zip(panels, ("MNIST", "Fashion-MNIST"), strict=True):
            for method, line in (("Mean-field posteriors", LINES[0]), ("Single networks", LINES[1])):
                for index, (alignment, points) in enumerate(heights(page, data, method).items()):
                    if method == "Single networks" and alignment == "wasserstein":
                        continue  # equal to `weight`
                    color = UNALIGNED_COLOR if index == 0 else COLORS[index - 1]
                    xs, ys, errors = zip(*points, strict=True)
                    label = f"{alignment}, {method.lower()}"
                    axes.errorbar(xs, ys, errors, linestyle=line, marker="o", markersize=4, color=color, label=label)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xlabel("units per hidden layer")
            axes.set_title(data)
        panels[0].set_ylabel("barrier (nats)")
        drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        save_figure(drawn, path.parent, path.stem)


def main() -> None:
    """Print the tables of result files, or draw the figure of a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="*", help="CSV files of `rebasin results`")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--figure", type=Path, default=Path("widths.svg"))
    arguments = parser.parse_args()
    if arguments.page:
        figure(arguments.page.read_text(encoding="utf-8"), arguments.figure)
    for path in arguments.results:
        print(tables(path))


if __name__ == "__main__":
    main()
