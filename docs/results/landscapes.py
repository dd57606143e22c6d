"""Trained curves, elastic bands, simplexes, centers and instability on Fashion-MNIST at 14x14 pixels.

    python docs/results/landscapes.py DATA [--figure landscapes.svg]

DATA is a folder with Fashion-MNIST, in the format of `rebasin_core.data.FashionMNISTSource`.
"""

from __future__ import annotations

import argparse
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from time import process_time
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure
from torch import nn

import rebasin_core as rc
from rebasin_core.data import Examples
from rebasin_core.inference import MAPInference, OptimizerSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rebasin_core.landscapes import SimplicialComplex

SEEDS, NUM_TRAIN, NUM_TEST, BATCH = (0, 1, 2), 1000, 1000, 50
STEPS = (0, 5, 20, 80, 300)
EPOCHS = {"mlp": 20, "resnet": 20}
ARCHITECTURES: dict[str, rc.Architecture] = {
    "mlp": rc.architectures.MLPArchitecture(hidden=[64, 64]),
    "resnet": rc.architectures.CifarResNetArchitecture(depth=8, width=0.25, norm="layer"),
}
VOLUMES = ("mlp",)  # minutes on one core for the residual network
LABELS = {"mlp": "MLP", "resnet": "ResNet-8"}
CURVES: dict[str, Mapping[str, object]] = {
    "Bezier, 1 bend": {"name": "curved", "epochs": 20, "learning_rate": 3e-3},
    "Bezier, 3 bends": {
        "name": "curved",
        "num_bends": 3,
        "epochs": 20,
        "learning_rate": 3e-3,
    },
    "polygon, 3 bends": {
        "name": "curved",
        "kind": "polygon",
        "num_bends": 3,
        "epochs": 20,
        "learning_rate": 3e-3,
    },
    "elastic band": {"name": "elastic_band", "epochs": 7, "cycles": 3},
}


@dataclass(frozen=True)
class Setting:
    """A network with its data."""

    name: str
    train: Examples
    task: rc.Task
    fitted: rc.Task
    spec: rc.PermutationSpec
    shape: tuple[int, ...]

    @property
    def tasks(self) -> tuple[rc.Task, rc.Task]:
        """The tasks with training data and with test data."""
        return self.fitted, self.task

    def model(self, seed: int) -> nn.Module:
        """Return the network at initialization."""
        return ARCHITECTURES[self.name].build(self.shape, 10, generator=torch.Generator().manual_seed(seed))

    def inference(self) -> MAPInference:
        """Return the method of training."""
        return MAPInference(epochs=EPOCHS[self.name], optimizer=OptimizerSpec(name="Adam", lr=2e-3))

    def network(self, seed: int) -> rc.Posterior:
        """Return a trained network."""
        data = self.train.batches(BATCH, shuffle_seed=seed)
        return self.inference().fit(self.model(seed), data, generator=torch.Generator().manual_seed(seed)).posterior


def halved(examples: Examples, count: int) -> Examples:
    """Return the first examples at half the resolution."""
    images = examples.inputs[:count].reshape(-1, 1, 28, 28)
    return Examples(nn.functional.avg_pool2d(images, 2), examples.targets[:count])


def settings(folder: Path, name: str) -> Setting:
    """Return a network with its data."""
    data = rc.data.FashionMNISTSource(root=folder).load()
    train = halved(data.train, NUM_TRAIN)
    test = halved(data.test, NUM_TEST)
    model = ARCHITECTURES[name].build((1, 14, 14), 10)
    task = rc.Task(model, test.batches(1000), calibration=train.batches(BATCH))
    fitted = rc.Task(model, train.batches(1000))
    return Setting(name, train, task, fitted, ARCHITECTURES[name].spec(model), (1, 14, 14))


def curve_rows(setting: Setting, seed: int, figure: dict[str, rc.LossCurve]) -> dict[str, tuple[float, ...]]:
    """Return barriers on training and test data, the largest test loss and seconds of paths between two networks."""
    first = setting.network(10 * seed)
    second = setting.network(10 * seed + 1)
    aligned = rc.match(first, second, setting.spec, "weight").apply(second)
    calibrated = {"name": "calibrated", "estimator": "pointwise"}
    rows: dict[str, tuple[float, ...]] = {}

    def add(label: str, candidate: rc.Posterior, seconds: float = 0.0, **options: Any) -> None:
        on_train = rc.barrier(first, candidate, setting.fitted, num_points=25, **options)
        figure[label] = rc.barrier(first, candidate, setting.task, num_points=25, **options)
        rows[label] = (
            on_train.height,
            figure[label].height,
            max(figure[label].loss),
            seconds,
        )

    add("straight, unaligned", second)
    add("straight, unaligned, calibrated", second, estimator=calibrated)
    add("straight, aligned", aligned)
    for label, method in CURVES.items():
        start = process_time()
        generator = torch.Generator().manual_seed(seed)
        curve = rc.fit_curve(first, aligned, setting.task, method=method, generator=generator)
        add(label, aligned, process_time() - start, path=curve)
    return rows


def volume_rows(setting: Setting, seed: int) -> dict[str, tuple[float, ...]]:
    """Return largest excess loss, log volume and predictive loss of hulls, simplexes and stars of three networks."""
    networks = [setting.network(10 * seed + k) for k in range(3)]
    aligned = [
        networks[0],
        *(rc.match(networks[0], q, setting.spec, "weight").apply(q) for q in networks[1:]),
    ]
    options: dict[str, Any] = {"epochs": 10, "learning_rate": 3e-3}
    rows: dict[str, tuple[float, ...]] = {}
    for label, vertices in (("hull, unaligned", networks), ("hull, aligned", aligned)):
        excess = [rc.hull_losses(vertices, task, num_points=30).excess.max().item() for task in setting.tasks]
        rows[label] = (*excess, math.nan, math.nan)
    for weight in (0.0, 1e-3, 1e-2):
        fitted = rc.fit_simplex(aligned, setting.task, num_connectors=2, regularization=weight, **options)
        rows[f"3 networks, 2 vertices, volume weight {weight:g}"] = volume_row(setting, fitted)
    single = rc.fit_simplex(aligned[:1], setting.task, num_connectors=2, regularization=1e-2, **options)
    rows["1 network, 2 vertices, volume weight 0.01"] = volume_row(setting, single)
    nll = rc.score(networks[0], setting.task).nll
    rows["1 network"] = (math.nan, math.nan, math.nan, nll)
    ensemble = rc.posteriors.SamplesPosterior.from_points(networks)
    rows["ensemble of 3 networks"] = (
        math.nan,
        math.nan,
        math.nan,
        rc.score(ensemble, setting.task, num_samples=3).nll,
    )
    for label, center in (
        ("star, barycenter", None),
        (
            "star, trained center",
            rc.fit_center(aligned, setting.task, epochs=20, learning_rate=3e-3).center,
        ),
    ):
        stars = [rc.star(aligned, task, center=center, num_points=11) for task in setting.tasks]
        heights = [max(c.height for c in star.curves) for star in stars]
        rows[label] = (*heights, math.nan, rc.score(stars[0].center, setting.task).nll)
    return rows


def joint_rows(setting: Setting, seed: int) -> dict[str, tuple[float, ...]]:
    """Return the loss of the mean of three networks and the largest excess in their hull, by joint alignment."""
    networks = [setting.network(10 * seed + k) for k in range(3)]
    generator = torch.Generator().manual_seed(seed)
    joint = {
        "unaligned": networks,
        "`match_many`, `weight`": rc.match_many(networks, setting.spec, matcher="weight").posteriors,
        "`match_many_on_data`": rc.match_many_on_data(
            networks, setting.spec, setting.task, epochs=20, learning_rate=1e-2, generator=generator
        ).posteriors,
    }
    rows: dict[str, tuple[float, ...]] = {}
    for label, posteriors in joint.items():
        center = rc.barycenter(posteriors)
        losses = [rc.score(center, task).nll for task in setting.tasks]
        hulls = [rc.hull_losses(posteriors, task, num_points=30).excess.max().item() for task in setting.tasks]
        rows[label] = (*losses, *hulls)
    return rows


def volume_row(setting: Setting, fitted: SimplicialComplex) -> tuple[float, ...]:
    """Return the largest excess loss, the log volume, and the loss of an ensemble of 25 networks."""
    excess = [rc.simplex_losses(fitted, task, num_points=30).excess.max().item() for task in setting.tasks]
    return (
        *excess,
        fitted.log_volume,
        rc.score(fitted.posterior(25), setting.task, num_samples=25).nll,
    )


def instabilities(setting: Setting, seed: int) -> rc.api.Instability:
    """Return the barriers between children of one training."""
    return rc.instability(
        setting.model(seed),
        setting.task,
        lambda order: setting.train.batches(BATCH, shuffle_seed=order),
        steps=STEPS,
        inference=setting.inference(),
        seeds=(3 * seed, 3 * seed + 1, 3 * seed + 2),
        spec=setting.spec,
        matcher="weight",
        num_points=11,
    )


def table(title: str, columns: tuple[str, ...], rows: dict[str, list[tuple[float, ...]]]) -> None:
    """Print a Markdown table: means over seeds, with standard deviations in parentheses."""
    print(f"\n{title}\n")
    print(f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for label, values in rows.items():
        cells = [
            "" if own[0] != own[0] else f"{mean(own):.3f} ({stdev(own):.3f})" if len(own) > 1 else f"{own[0]:.3f}"
            for own in zip(*values, strict=True)
        ]
        print(f"| {label} | {' | '.join(cells)} |")


def draw(
    path: Path,
    curves: dict[str, dict[str, rc.LossCurve]],
    found: dict[str, list[rc.api.Instability]],
) -> None:
    """Draw the losses along the paths of the first seed, and the barriers by the step of forking."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    for row, (name, own) in enumerate(curves.items()):
        for label, curve in own.items():
            if "calibrated" not in label:
                curve.plot(
                    axes[row, 0],
                    label=label,
                    style="--" if "unaligned" in label else "-",
                )
        axes[row, 0].set_title(LABELS[name])
        axes[row, 0].set_yscale("log")
        axes[row, 0].legend(fontsize=7)
        for label, index in (("unaligned", 0), ("aligned", 1)):
            heights = [[c.height for c in (each.curves, each.aligned)[index]] for each in found[name]]
            columns = list(zip(*heights, strict=True))
            axes[row, 1].errorbar(
                STEPS,
                [mean(c) for c in columns],
                [stdev(c) for c in columns],
                marker="o",
                label=label,
            )
        axes[row, 1].set_xscale("symlog", linthresh=5)
        axes[row, 1].set_xlabel("shared steps")
        axes[row, 1].set_ylabel("barrier (nats)")
        axes[row, 1].set_title(f"{LABELS[name]}, children of one training")
        axes[row, 1].legend(fontsize=7)
    figure.savefig(path)


def main() -> None:
    """Print the tables, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--networks", nargs="*", default=list(ARCHITECTURES))
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", rc.RebasinWarning)
    figures: dict[str, dict[str, rc.LossCurve]] = {}
    found: dict[str, list[rc.api.Instability]] = {}
    for name in arguments.networks:
        setting = settings(arguments.data, name)
        curves: dict[str, list[tuple[float, ...]]] = {}
        volumes: dict[str, list[tuple[float, ...]]] = {}
        joint: dict[str, list[tuple[float, ...]]] = {}
        found[name] = []
        for seed in arguments.seeds:
            drawn: dict[str, rc.LossCurve] = {}
            for label, row in curve_rows(setting, seed, drawn).items():
                curves.setdefault(label, []).append(row)
            figures.setdefault(name, drawn)
            for label, row in volume_rows(setting, seed).items() if name in VOLUMES else ():
                volumes.setdefault(label, []).append(row)
            for label, row in joint_rows(setting, seed).items() if name in VOLUMES else ():
                joint.setdefault(label, []).append(row)
            found[name].append(instabilities(setting, seed))
        table(
            f"{LABELS[name]}: paths",
            (
                "barrier, training data",
                "barrier, test data",
                "largest test loss",
                "seconds",
            ),
            curves,
        )
        if name in VOLUMES:
            table(
                f"{LABELS[name]}: volumes",
                (
                    "largest excess, training data",
                    "largest excess, test data",
                    "log volume",
                    "predictive test loss",
                ),
                volumes,
            )
            table(
                f"{LABELS[name]}: joint alignment of three networks",
                (
                    "mean, training loss",
                    "mean, test loss",
                    "largest excess, training data",
                    "largest excess, test data",
                ),
                joint,
            )
        rows: dict[str, list[tuple[float, ...]]] = {}
        for step in range(len(STEPS)):
            rows[str(STEPS[step])] = [(each.curves[step].height, each.aligned[step].height) for each in found[name]]
        table(
            f"{LABELS[name]}: instability by shared steps",
            ("unaligned", "aligned"),
            rows,
        )
    if arguments.figure is not None:
        draw(arguments.figure, figures, found)


if __name__ == "__main__":
    main()
