"""The tables of the study, from the lines that ``study.py measure`` wrote, and the figure, from the tables of the page.

python docs/reproduction/tables.py study.jsonl
python docs/reproduction/tables.py --page docs/reproduction/index.md --figure docs/reproduction/widths.svg
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from study import SAMPLES
from tabulate import tabulate

from rebasin_core.analysis import mean_over_pairs
from rebasin_core.report import save_figure, styled_figure
from rebasin_core.report.style import COLORS, LINES, UNALIGNED_COLOR

ALIGNMENTS = ("unaligned", "weight", "wasserstein", "activation")
# Points under a prior of their own, and under the regularization of the mean fields' means.
METHODS = {"vi": ("vi", "p0.05-kl0.05"), "map": ("map", "p0.1"), "matched": ("map", "p0.223607")}
Records = dict[str, list[dict[str, Any]]]


def read(path: Path) -> dict[str, Records]:
    """Return the records by cell and alignment."""
    found: dict[str, Records] = defaultdict(lambda: defaultdict(list))
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        # Rows with another number of samples than usual stand under a name of their own.
        number = record.get("samples", SAMPLES)
        cell = record["cell"] if number == SAMPLES else f"{record['cell']}-{number}"
        found[cell][record["alignment"]].append(record)
    return found


def table(cells: dict[str, Records], chosen: list[tuple[str, str]]) -> str:
    """Return a Markdown table: one row a cell."""
    rows = []
    for label, name in chosen:
        if name not in cells:
            continue
        records = cells[name]
        row = [label]
        for alignment in ALIGNMENTS:
            heights = {tuple(record["pair"]): record["height"] for record in records.get(alignment, [])}
            found = mean_over_pairs(heights) if heights else None
            row.append("" if found is None else f"{found.mean:.4f} ± {found.stderr:.4f}")
        known = records["unaligned"]
        monte_carlo = max(r["stderr"] for records in records.values() for r in records)
        aligned = records.get("wasserstein") or records["weight"]  # the same for points
        data = statistics.mean(r["data_stderr"] for r in aligned)
        ends = statistics.mean(score for r in known for score in (r["scores"][0], r["scores"][2]))
        middle = statistics.mean(r["scores"][1] for r in aligned)
        rows.append([*row, f"{monte_carlo:.4f}", f"{data:.4f}", f"{100 * ends:.2f}", f"{100 * middle:.2f}"])
    headers = [
        "",
        *(f"`{a}`" if a != "unaligned" else a for a in ALIGNMENTS),
        "± sampling",
        "± data",
        "ends %",
        "middle %",
    ]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def widths(data: str, method: str) -> list[tuple[str, str]]:
    """Return the cells over width."""
    name, options = METHODS[method]
    return [(str(w), f"{data}-mlp-{name}-w{w}-d3-{options}-e8-n60000") for w in (64, 128, 256, 512, 1024)]


def heights(page: str, data: str, method: str) -> dict[str, list[tuple[int, float, float]]]:
    """Return the widths, heights and errors of every alignment from the page's table of a data set and method."""
    section = page.split(f"## Width, {data}\n")[1].split("\n## ", maxsplit=1)[0]
    lines = section.split(f"{method}:\n")[1].strip().split("\n\n")[0].splitlines()
    headers, *rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    found: dict[str, list[tuple[int, float, float]]] = {}
    for alignment in ALIGNMENTS:
        cells = [(row[0], row[headers.index(alignment)]) for row in rows[1:]]
        found[alignment] = [(int(width), *map(float, cell.split(" ± "))) for width, cell in cells]
    return found


def figure(page: str, path: Path) -> None:
    """Draw the heights over the width."""
    with styled_figure(9, 3.8) as drawn:
        panels = drawn.subplots(1, 2, sharey=True)
        for axes, data in zip(panels, ("MNIST", "Fashion-MNIST"), strict=True):
            for method, line in (("Mean field", LINES[0]), ("Points", LINES[1])):
                for number, (alignment, points) in enumerate(heights(page, data, method).items()):
                    if method == "Points" and alignment == "wasserstein":
                        continue  # the same as `weight`
                    color = UNALIGNED_COLOR if number == 0 else COLORS[number - 1]
                    xs, ys, errors = zip(*points, strict=True)
                    label = f"{alignment}, {method.lower()}"
                    axes.errorbar(xs, ys, errors, linestyle=line, marker="o", markersize=4, color=color, label=label)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xlabel("units of each hidden layer")
            axes.set_title(data)
        panels[0].set_ylabel("barrier (nats)")
        drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        save_figure(drawn, path.parent, path.stem)


def main() -> None:
    """Print the tables of some lines, or write the figure of a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lines", type=Path, nargs="?")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--figure", type=Path, default=Path("widths.svg"))
    arguments = parser.parse_args()
    if arguments.page:
        figure(arguments.page.read_text(encoding="utf-8"), arguments.figure)
    if not arguments.lines:
        return
    cells = read(arguments.lines)
    base = "mnist-mlp-vi-w256"
    others = [
        ("as above", f"{base}-d3-p0.05-kl0.05-e8-n60000"),
        *((f"KL weight {k}", f"{base}-d3-p0.05-kl{k}-e8-n60000") for k in ("0.01", "0.2", "1")),
        *((f"{d} hidden layers", f"{base}-d{d}-p0.05-kl0.05-e8-n60000") for d in (1, 2, 5)),
        *((f"prior scale {p}", f"{base}-d3-p{p}-kl0.05-e8-n60000") for p in ("0.025", "0.1", "0.2")),
        ("20,000 examples", f"{base}-d3-p0.05-kl0.05-e24-n20000"),
        ("5,000 examples", f"{base}-d3-p0.05-kl0.05-e96-n5000"),
    ]
    name = others[0][1]
    samples = [(str(n), name if n == SAMPLES else f"{name}-{n}") for n in (2, 4, SAMPLES, 64, 256)]
    fashion = widths("fashion_mnist", "vi")[3][1]
    rates = [("as above", fashion), *((f"learning rate {rate}", f"{fashion}-r{rate}") for rate in ("0.003", "0.01"))]
    cifar = [
        ("ResNet-20, FRN, mean field", "cifar10-resnet-vi-w1-d20-p0.1-kl0.05-e3-n50000-8"),
        ("ResNet-20, FRN, points", "cifar10-resnet-map-w1-d20-p0.1-e3-n50000"),
        ("mean field, 512", "cifar10-mlp-vi-w512-d3-p0.05-kl0.05-e12-n50000"),
        ("points, 512", "cifar10-mlp-map-w512-d3-p0.1-e12-n50000"),
    ]
    for title, chosen in (
        ("MNIST, mean field", widths("mnist", "vi")),
        ("Fashion-MNIST, mean field", widths("fashion_mnist", "vi")),
        ("MNIST, points", widths("mnist", "map")),
        ("Fashion-MNIST, points", widths("fashion_mnist", "map")),
        ("MNIST, points, regularized as mean fields", widths("mnist", "matched")),
        ("Fashion-MNIST, points, regularized as mean fields", widths("fashion_mnist", "matched")),
        ("MNIST, mean field, 3 x 256, one thing changed", others),
        ("MNIST, mean field, 3 x 256, samples", samples),
        ("Fashion-MNIST, mean field, 3 x 512, rates", rates),
        ("CIFAR-10", cifar),
    ):
        print(f"\n### {title}\n\n{table(cells, chosen)}")


if __name__ == "__main__":
    main()
