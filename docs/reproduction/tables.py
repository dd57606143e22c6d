"""Print the tables of the study from the records of ``study.py measure``; draw the figure from the tables of the page.

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
# Single networks with prior scale 0.1, and (`matched`) with the regularization of the means of the posteriors.
METHODS = {"vi": ("vi", "p0.05-kl0.05"), "map": ("map", "p0.1"), "matched": ("map", "p0.223607")}
Records = dict[str, list[dict[str, Any]]]


def read(path: Path) -> dict[str, Records]:
    """Return the records by cell and alignment."""
    found: dict[str, Records] = defaultdict(lambda: defaultdict(list))
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        # Records with another number of samples than the default form a separate cell.
        num_samples = record.get("samples", SAMPLES)
        cell = record["cell"] if num_samples == SAMPLES else f"{record['cell']}-{num_samples}"
        found[cell][record["alignment"]].append(record)
    return found


def table(cells: dict[str, Records], chosen: list[tuple[str, str]]) -> str:
    """Return a Markdown table with one row per cell."""
    rows = []
    for label, name in chosen:
        if name not in cells:
            continue
        records = cells[name]
        row = [label]
        for alignment in ALIGNMENTS:
            heights = {tuple(record["pair"]): record["height"] for record in records.get(alignment, [])}
            estimate = mean_over_pairs(heights) if heights else None
            row.append("" if estimate is None else f"{estimate.mean:.4f} ± {estimate.stderr:.4f}")
        unaligned = records["unaligned"]
        monte_carlo = max(r["stderr"] for records in records.values() for r in records)
        aligned = records.get("wasserstein") or records["weight"]  # equal for single networks
        data = statistics.mean(r["data_stderr"] for r in aligned)
        endpoint = statistics.mean(score for r in unaligned for score in (r["scores"][0], r["scores"][2]))
        midpoint = statistics.mean(r["scores"][1] for r in aligned)
        rows.append([*row, f"{monte_carlo:.4f}", f"{data:.4f}", f"{100 * endpoint:.2f}", f"{100 * midpoint:.2f}"])
    headers = [
        "",
        *(f"`{a}`" if a != "unaligned" else a for a in ALIGNMENTS),
        "MC s.e.",
        "data s.e.",
        "endpoint (%)",
        "midpoint (%)",
    ]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def widths(data: str, method: str) -> list[tuple[str, str]]:
    """Return the cells of all widths, with their labels."""
    name, options = METHODS[method]
    return [(str(w), f"{data}-mlp-{name}-w{w}-d3-{options}-e8-n60000") for w in (64, 128, 256, 512, 1024)]


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
    """Print the tables of a file of records, or draw the figure of a page."""
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
        ("baseline", f"{base}-d3-p0.05-kl0.05-e8-n60000"),
        *((f"KL weight {k}", f"{base}-d3-p0.05-kl{k}-e8-n60000") for k in ("0.01", "0.2", "1")),
        *((f"{d} hidden layer{'s' * (d > 1)}", f"{base}-d{d}-p0.05-kl0.05-e8-n60000") for d in (1, 2, 5)),
        *((f"prior scale {p}", f"{base}-d3-p{p}-kl0.05-e8-n60000") for p in ("0.025", "0.1", "0.2")),
        ("20,000 examples", f"{base}-d3-p0.05-kl0.05-e24-n20000"),
        ("5,000 examples", f"{base}-d3-p0.05-kl0.05-e96-n5000"),
    ]
    name = others[0][1]
    samples = [(str(n), name if n == SAMPLES else f"{name}-{n}") for n in (2, 4, SAMPLES, 64, 256)]
    fashion = widths("fashion_mnist", "vi")[3][1]
    rates = [
        ("baseline (0.001)", fashion),
        *((f"learning rate {rate}", f"{fashion}-r{rate}") for rate in ("0.003", "0.01")),
    ]
    cifar = [
        ("ResNet-20, FRN, mean field", "cifar10-resnet-vi-w1-d20-p0.1-kl0.05-e3-n50000-8"),
        ("ResNet-20, FRN, single networks", "cifar10-resnet-map-w1-d20-p0.1-e3-n50000"),
        ("mean field", "cifar10-mlp-vi-w512-d3-p0.05-kl0.05-e12-n50000"),
        ("single networks", "cifar10-mlp-map-w512-d3-p0.1-e12-n50000"),
    ]
    for title, chosen in (
        ("MNIST, mean-field posteriors", widths("mnist", "vi")),
        ("Fashion-MNIST, mean-field posteriors", widths("fashion_mnist", "vi")),
        ("MNIST, single networks", widths("mnist", "map")),
        ("Fashion-MNIST, single networks", widths("fashion_mnist", "map")),
        ("MNIST, single networks, regularized like the means of the posteriors", widths("mnist", "matched")),
        ("Fashion-MNIST, single networks, regularized like the means", widths("fashion_mnist", "matched")),
        ("MNIST, mean-field posteriors, 3 x 256, ablations", others),
        ("MNIST, mean-field posteriors, 3 x 256, number of samples", samples),
        ("Fashion-MNIST, mean-field posteriors, 3 x 512, learning rate", rates),
        ("CIFAR-10", cifar),
    ):
        print(f"\n### {title}\n\n{table(cells, chosen)}")


if __name__ == "__main__":
    main()
