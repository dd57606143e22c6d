"""Train posteriors of many networks from several seeds, align all pairs, and estimate the barriers between them.

    python docs/reproduction/study.py train --root DATA --folder STUDY [--only PATTERN]
    python docs/reproduction/study.py measure --root DATA --folder STUDY --output results.jsonl [--only PATTERN]

Both commands resume if interrupted. Add ``--download`` if the datasets are not in ``DATA``.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import time
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Literal

import torch

import rebasin_core as rc

SAMPLES = 16
_RATE = 1e-3


@dataclass(frozen=True)
class Cell:
    """One cell of the study: a dataset, a network architecture, and training options.

    Attributes:
        data: Name of the dataset.
        network: ``mlp`` (hidden layers of equal width, ReLU), ``resnet`` (with filter response normalization) or
            ``resnet_batch`` (with batch normalization).
        method: ``vi`` (mean-field variational inference) or ``map``.
        width: Number of units of each hidden layer, or width multiplier of the ResNet.
        depth: Number of hidden layers, or of layers of the ResNet.
        prior_scale: Standard deviation of the prior.
        kl_weight: Weight of the KL term; 1 is the Bayesian posterior, smaller values temper the likelihood.
        epochs: Number of epochs.
        num_train: Number of training examples.
        batch_size: Batch size.
        rate: Initial learning rate.
        noise: Estimator of the variational expectation: ``local`` (local reparameterization), or ``weights`` (one
            weight sample per step), which halves the time of a convolutional network.
        stddev: Initial standard deviation of all weights.
    """

    data: str
    network: str = "mlp"
    method: str = "vi"
    width: int = 512
    depth: int = 3
    prior_scale: float = 0.05
    kl_weight: float = 0.05
    epochs: int = 8
    num_train: int = 60_000
    batch_size: int = 256
    rate: float = _RATE
    noise: Literal["local", "weights"] = "local"
    stddev: float = 0.02

    @property
    def name(self) -> str:
        """Name of the cell, for files and for ``--only``."""
        tempered = f"-kl{self.kl_weight:g}" if self.method == "vi" else ""
        fast = f"-r{self.rate:g}" if self.network == "mlp" and self.rate != _RATE else ""
        return (
            f"{self.data}-{self.network}-{self.method}-w{self.width}-d{self.depth}-p{self.prior_scale:g}{tempered}"
            f"-e{self.epochs}-n{self.num_train}{fast}"
        )

    def architecture(self) -> rc.Architecture:
        """The network architecture."""
        if self.network == "mlp":
            return rc.architectures.MLPArchitecture(hidden=[self.width] * self.depth)
        norm = "batch" if self.network == "resnet_batch" else "frn"
        return rc.architectures.CifarResNetArchitecture(depth=self.depth, width=self.width, norm=norm)

    def inference(self) -> rc.Inference:
        """The inference method."""
        optimizer = rc.inference.OptimizerSpec(name="Adam", lr=self.rate, fused=True)
        schedule = rc.inference.ScheduleSpec(name="CosineAnnealingLR", T_max=self.epochs)
        if self.method == "map":
            return rc.inference.MAPInference(
                epochs=self.epochs, optimizer=optimizer, schedule=schedule, prior_scale=self.prior_scale
            )
        return rc.inference.MeanFieldVI(
            epochs=self.epochs,
            optimizer=optimizer,
            schedule=schedule,
            prior_scale=self.prior_scale,
            kl_weight=self.kl_weight,
            initial_stddev=self.stddev,
            estimator=self.noise,
        )


def as_points(cell: Cell) -> Cell:
    """Return the cell of single networks with the regularization of the means of a mean-field posterior."""
    return replace(cell, method="map", prior_scale=cell.prior_scale / cell.kl_weight**0.5)


def cells() -> list[Cell]:
    """Return all cells, the cheaper ones first."""
    sets, widths = ("mnist", "fashion_mnist"), (512, 256, 128, 64)
    found = [Cell(data, width=width) for data in sets for width in widths]
    found += [Cell(data, method="map", width=width, prior_scale=0.1) for data in sets for width in widths]
    found += [as_points(cell) for cell in found if cell.method == "vi"]
    base = Cell("mnist", width=256)
    found += [replace(base, kl_weight=weight) for weight in (0.01, 0.2, 1.0)]
    found += [replace(base, depth=depth) for depth in (1, 2, 5)]
    found += [replace(base, prior_scale=scale) for scale in (0.025, 0.1, 0.2)]
    found += [replace(base, num_train=number, epochs=epochs) for number, epochs in ((5_000, 96), (20_000, 24))]
    found += [Cell("fashion_mnist", rate=rate) for rate in (3e-3, 1e-2)]
    cifar = Cell("cifar10", num_train=50_000, epochs=12)
    found += [cifar, replace(cifar, method="map", prior_scale=0.1), as_points(cifar)]
    residual = Cell("cifar10", "resnet", "vi", 1, 20, prior_scale=0.1, epochs=3, num_train=50_000)
    residual = replace(residual, batch_size=128, rate=3e-3, noise="weights", stddev=0.003)
    found += [residual, replace(residual, method="map")]
    found += [Cell(data, width=1024) for data in sets]
    # The remaining cells need a GPU.
    found += [Cell(data, width=width) for data in sets for width in (2048, 4096)]
    large = replace(residual, batch_size=512)
    return found + [
        replace(large, method=method, width=width, epochs=epochs)
        for width, epochs in ((1, 24), (4, 8))
        for method in ("map", "vi")
    ]


def train(  # ruff: ignore[too-many-arguments] - a script
    cell: Cell, root: Path, folder: Path, seeds: range, *, device: str, download: bool, compiled: bool
) -> None:
    """Train the posteriors of a cell whose files do not exist."""
    files = {seed: folder / f"{cell.name}-s{seed}.safetensors" for seed in seeds}
    if all(file.exists() for file in files.values()):
        return
    folder.mkdir(parents=True, exist_ok=True)
    data = dataset(cell, root, device, download=download)
    for seed, file in files.items():
        if file.exists():
            continue
        start = time.time()
        model = cell.architecture().build(data.input_shape, 10, generator=torch.Generator().manual_seed(seed))
        result = cell.inference().fit(
            model.to(device),
            data.train.batches(cell.batch_size, shuffle_seed=seed),
            generator=torch.Generator().manual_seed(seed + 2**32),
            checkpoint=file.with_suffix(".training"),
            compiled=compiled,
        )
        seconds = time.time() - start
        result.posterior.save(file, meta={"seconds": seconds})
        file.with_suffix(".training").unlink(missing_ok=True)
        print(f"{file.name}: {seconds:.0f} s, loss {result.history[-1]}", flush=True)


def measure(  # ruff: ignore[too-many-locals, too-many-arguments, too-many-positional-arguments] - a script
    cell: Cell,
    root: Path,
    folder: Path,
    seeds: range,
    output: Path,
    matchers: list[str],
    *,
    start_at: str,
    num_samples: int,
    num_test: int,
    device: str,
    download: bool,
    compiled: bool,
) -> None:
    """Estimate the barriers of all trained pairs of a cell that are not in the output file."""
    files = {seed: folder / f"{cell.name}-s{seed}.safetensors" for seed in seeds}
    done = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()] if output.exists() else []
    known = {(r["cell"], *r["pair"], r["alignment"]) for r in done if r.get("samples", SAMPLES) == num_samples}
    pairs = [pair for pair in combinations(seeds, 2) if all(files[seed].exists() for seed in pair)]
    labels = ["unaligned", *matchers]
    missing = [(pair, label) for pair in pairs for label in labels if (cell.name, *pair, label) not in known]
    if not missing:
        return
    data = dataset(cell, root, device, download=download)
    model = cell.architecture().build(data.input_shape, 10).to(device)
    spec = cell.architecture().spec(model)
    posteriors = {seed: rc.load_posterior(file).to(device=device) for seed, file in files.items() if file.exists()}
    for pair, label in missing:
        reference, candidate = (posteriors[seed] for seed in pair)
        start = time.time()
        if label != "unaligned":
            train = data.train.first(10_000).batches(1000)
            matcher = {"name": label, **({} if label == "activation" else {"start": start_at})}
            candidate = rc.match(reference, candidate, spec, matcher, task=rc.Task(model, train)).apply(candidate)
        matched = time.time() - start
        curve = rc.barrier(
            reference,
            candidate,
            rc.Task(
                model,
                (data.test.first(num_test) if num_test else data.test).batches(1000),
                calibration=data.train.first(5_000).batches(1000),
            ),
            estimator=estimator(cell, num_samples, compiled=compiled),
        )
        middle = curve.t.index(0.5)
        record = {
            "cell": cell.name,
            "pair": pair,
            "alignment": label,
            "samples": num_samples,
            "height": curve.height,
            "stderr": curve.height_stderr,
            "data_stderr": curve.height_data_stderr,
            "bias": curve.height_bias,
            "endpoint_losses": [curve.loss[0], curve.loss[-1]],
            "gibbs": [curve.gibbs[0], curve.gibbs[middle], curve.gibbs[-1]],
            "scores": [curve.score[0], curve.score[middle], curve.score[-1]],
            "match_seconds": round(matched, 2),
            "barrier_seconds": round(time.time() - start - matched, 1),
        }
        print(cell.name, pair, label, round(curve.height, 4), round(curve.height_stderr, 4), flush=True)
        with output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def estimator(cell: Cell, num_samples: int, *, compiled: bool) -> dict[str, object]:
    """Return the barrier estimator of a cell; with batch normalization, statistics are recomputed."""
    evaluation = {"method": "loop", "compiled": True} if compiled else {}
    inner: dict[str, object] = (
        {"name": "pointwise", "num_points": 11, "evaluation": evaluation}
        if cell.method == "map"
        else {"name": "marginalized", "num_points": 5, "num_samples": num_samples, "evaluation": evaluation}
    )
    return {"name": "reset", "estimator": inner} if cell.network == "resnet_batch" else inner


def dataset(cell: Cell, root: Path, device: str, *, download: bool) -> rc.data.DataSplits:
    """Load the dataset of a cell to a device."""
    data: rc.data.DataSplits = rc.build("dataset", name=cell.data, root=root, download=download).load()
    train, test = (
        rc.data.Examples(part.inputs.to(device), part.targets.to(device))
        for part in (data.train.first(cell.num_train), data.test)
    )
    return replace(data, train=train, test=test)


def main() -> None:
    """Run one stage for all selected cells."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=("train", "measure", "list"))
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--folder", type=Path, default=Path("study"))
    parser.add_argument("--output", type=Path, default=Path("study.jsonl"))
    parser.add_argument("--only", default="*", help="glob pattern of cell names")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--matchers", nargs="*", default=["weight", "wasserstein"])
    parser.add_argument("--samples", type=int, default=SAMPLES, help="posterior samples")
    parser.add_argument("--test", type=int, default=0, help="number of test images; all if 0")
    parser.add_argument("--start", default="greedy", help="initialization of coordinate ascent: greedy or identity")
    parser.add_argument("--device", default="cpu", help="PyTorch device: cpu, cuda, ...")
    parser.add_argument("--compile", action="store_true", help="compile networks with torch.compile")
    parser.add_argument("--download", action="store_true")
    arguments = parser.parse_args()
    shared = {"device": arguments.device, "download": arguments.download, "compiled": arguments.compile}
    for cell in cells():
        if not fnmatch.fnmatch(cell.name, arguments.only):
            continue
        if arguments.stage == "list":
            print(cell.name)
        elif arguments.stage == "train":
            train(cell, arguments.root, arguments.folder, range(1, arguments.seeds + 1), **shared)
        else:
            paths = (arguments.root, arguments.folder, range(1, arguments.seeds + 1), arguments.output)
            options = {"start_at": arguments.start, "num_samples": arguments.samples, "num_test": arguments.test}
            options |= shared
            measure(cell, *paths, arguments.matchers, **options)


if __name__ == "__main__":
    main()
