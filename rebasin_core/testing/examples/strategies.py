"""Small instances of built-in classes, for the conformance kit."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import numpy as np

from rebasin_core import architectures, data, inference, merging, tracking
from rebasin_core.barriers.marginalized import MarginalizedBarrier
from rebasin_core.barriers.paths.curve import CurvePath
from rebasin_core.executors.processes import ProcessesExecutor
from rebasin_core.matchers.annealing import AnnealingMatcher
from rebasin_core.specs.files import FileSpecFactory, GivenSpec, save_spec
from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.specs.table import TableSpecFactory
from rebasin_core.symmetry.layout import Layout
from rebasin_core.testing.examples.checkpoints import CHECKPOINTS
from rebasin_core.testing.examples.foreign import FOREIGN
from rebasin_core.testing.examples.model_sources import MODEL_SOURCES
from rebasin_core.testing.examples.modules import modules
from rebasin_core.testing.examples.posteriors import POSTERIORS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from rebasin_core.architectures.cifar_resnet import ShortcutName
    from rebasin_core.architectures.layers import NormName


def built_in_examples(kind: type[object], folder: Path) -> Sequence[object] | None:
    """Return small instances of a built-in class.

    Args:
        kind: The class.
        folder: An empty folder, in which small files of datasets are written.

    Returns:
        The instances; None to use the defaults.
    """
    if issubclass(kind, OperatorRules):
        return modules(kind.name)
    for given in (POSTERIORS, FOREIGN):
        if kind in given:
            return given[kind]()
    make = CHECKPOINTS.get(kind) or MODEL_SOURCES.get(kind) or _MAKERS.get(kind)
    return None if make is None else make(folder)


def _table(_: Path) -> Sequence[object]:
    table = {
        "layers.0.weight": "a, -", "layers.0.bias": "a",
        "layers.1.weight": "b, a", "layers.1.bias": "b",
        "layers.2.weight": "-, b", "layers.2.bias": "-",
    }  # fmt: skip
    return [TableSpecFactory(table=table)]


def _vggs(_: Path) -> Sequence[object]:
    return [
        architectures.VGGArchitecture(depth=11, width=0.0625),
        architectures.VGGArchitecture(depth=11, width=0.0625, batch_norm=False),
    ]


def _cifar_resnets(_: Path) -> Sequence[object]:
    kinds: list[tuple[NormName, ShortcutName]] = [("batch", "conv"), ("layer", "pad"), ("frn", "pad")]
    return [architectures.CifarResNetArchitecture(depth=8, norm=norm, shortcut=shortcut) for norm, shortcut in kinds]


def _resnets(_: Path) -> Sequence[object]:
    return [architectures.ResNetArchitecture(depth=18, width=4), architectures.ResNetArchitecture(depth=50, width=2)]


def _spec_file(folder: Path) -> Sequence[object]:
    layout = {
        "groups": {"a": {"size": 5}, "b": {"size": 4}},
        "axes": {
            "layers.0.weight": "a, 6", "layers.0.bias": "a",
            "layers.1.weight": "b, a", "layers.1.bias": "b",
            "layers.2.weight": "3, b", "layers.2.bias": "3",
        },
    }  # fmt: skip
    save_spec(GivenSpec(Layout.from_json(layout)), folder / "spec.json")
    return [FileSpecFactory(path=folder / "spec.json")]


def _mnist(folder: Path) -> Sequence[object]:
    _write_idx_files(folder / "mnist" / "raw")
    return [data.MNISTSource(root=folder)]


def _fashion(folder: Path) -> Sequence[object]:
    _write_idx_files(folder / "fashion_mnist")
    return [data.FashionMNISTSource(root=folder)]


def _cifar10(folder: Path) -> Sequence[object]:
    random = np.random.default_rng(0)
    batches = folder / "cifar-10-batches-bin"
    batches.mkdir(parents=True, exist_ok=True)
    for name in (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"):
        # Three records per file: half of a file is not an integer number of records.
        labels = np.array([[0], [4], [9]], np.uint8)
        pixels = random.integers(0, 256, (3, 3072), np.uint8)
        (batches / name).write_bytes(np.hstack([labels, pixels]).tobytes())
    return [data.CIFAR10Source(root=folder)]


def _uci(folder: Path) -> Sequence[object]:
    random = np.random.default_rng(0)
    x = random.normal(3, 2, (20, 4))
    splits = np.array([[0, 5, 7], [1, 2, 19]])
    np.savez(folder / "tiny.npz", x=x, y=x.sum(1), test_index=splits)
    return [data.UCISource(dataset="tiny", root=folder, split=1)]


def _mean_field(_: Path) -> Sequence[object]:
    shared = {"epochs": 30, "prior_scale": 1.0, "optimizer": _FAST}
    return [
        inference.MeanFieldVI(**shared),
        # With few examples and the noise of weight samples, the full prior would dominate.
        inference.MeanFieldVI(**shared, estimator="weights", sticking_the_landing=True, kl_weight=0.1),
        inference.MeanFieldVI(**shared, estimator="flipout", stochastic=("layers.2.*",), kl_warmup=5),
    ]


def _ensembles(_: Path) -> Sequence[object]:
    return [inference.DeepEnsemble(members=3, epochs=20, optimizer=_FAST)]


def _snapshots(_: Path) -> Sequence[object]:
    return [inference.SnapshotEnsemble(members=3, epochs=24, optimizer=_FAST)]


def _swags(_: Path) -> Sequence[object]:
    return [inference.SWAG(epochs=20, rank=4), inference.SWAG(epochs=20, rank=4, members=2)]


def _steins(_: Path) -> Sequence[object]:
    return [
        inference.SVGD(particles=3, epochs=20, optimizer=_FAST),
        inference.SVGD(particles=3, epochs=20, optimizer=_FAST, align_every=5),
    ]


def _subspaces(_: Path) -> Sequence[object]:
    sampler = inference.NUTS(warmup=20, draws=4, chains=2, max_depth=4)
    trajectory = inference.SWAG(epochs=12, rank=4)
    return [
        inference.SubspaceInference(rank=2, trajectory=trajectory, sampler=sampler),
        inference.SubspaceInference(rank=2, directions="random", trajectory=trajectory, sampler=sampler),
    ]


def _langevins(_: Path) -> Sequence[object]:
    return [inference.SGLD(epochs=40, learning_rate=0.1, burn_in=30, chains=2)]


def _hamiltonians(_: Path) -> Sequence[object]:
    return [
        inference.SGHMC(epochs=40, learning_rate=0.02, burn_in=30, chains=2),
        inference.SGHMC(epochs=40, learning_rate=0.05, cycles=2, exploration=0.8),
    ]


def _full_batch_chains(_: Path) -> Sequence[object]:
    return [inference.HMC(warmup=40, draws=8, chains=2, leapfrog_steps=4)]


def _no_u_turns(_: Path) -> Sequence[object]:
    return [inference.NUTS(warmup=30, draws=8, chains=2, max_depth=4)]


def _dropouts(_: Path) -> Sequence[object]:
    return [inference.MCDropout(epochs=30, optimizer=_FAST)]


_FAST = inference.OptimizerSpec(lr=0.02)


def _ties(_: Path) -> Sequence[object]:
    return [merging.TIESMerge(density=0.5), merging.TIESMerge(density=1, scale=0.5)]


def _dares(_: Path) -> Sequence[object]:
    return [merging.DAREMerge(), merging.DAREMerge(density=0.3, elect_sign=True)]


def _marginalized(_: Path) -> Sequence[object]:
    return [
        MarginalizedBarrier(num_points=5, num_samples=16),
        MarginalizedBarrier(num_points=3, num_samples=16, path="moments"),
    ]


_MAKERS: dict[type[object], Callable[[Path], Sequence[object]]] = {
    AnnealingMatcher: lambda _: [AnnealingMatcher(steps=60)],
    architectures.VGGArchitecture: _vggs,
    architectures.CifarResNetArchitecture: _cifar_resnets,
    architectures.ResNetArchitecture: _resnets,
    TableSpecFactory: _table,
    FileSpecFactory: _spec_file,
    data.MNISTSource: _mnist,
    data.FashionMNISTSource: _fashion,
    data.CIFAR10Source: _cifar10,
    data.UCISource: _uci,
    inference.MeanFieldVI: _mean_field,
    inference.DeepEnsemble: _ensembles,
    inference.SnapshotEnsemble: _snapshots,
    inference.SWAG: _swags,
    inference.SVGD: _steins,
    inference.SubspaceInference: _subspaces,
    inference.SGLD: _langevins,
    inference.SGHMC: _hamiltonians,
    inference.HMC: _full_batch_chains,
    inference.NUTS: _no_u_turns,
    inference.MCDropout: _dropouts,
    CurvePath: lambda folder: [CurvePath(file=folder / "curve.safetensors")],
    MarginalizedBarrier: _marginalized,
    merging.TIESMerge: _ties,
    merging.DAREMerge: _dares,
    ProcessesExecutor: lambda _: [ProcessesExecutor(workers=1, threads=1)],
    tracking.TensorBoardTracker: lambda folder: [tracking.TensorBoardTracker(folder=folder / "board")],
    tracking.JSONLinesTracker: lambda folder: [tracking.JSONLinesTracker(path=folder / "events.jsonl")],
}


def _write_idx_files(folder: Path) -> None:
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", 12), ("t10k", 7)):
        _write_idx(folder / f"{part}-images-idx3-ubyte.gz", random.integers(0, 256, (count, 28, 28), np.uint8))
        _write_idx(folder / f"{part}-labels-idx1-ubyte.gz", random.integers(0, 10, count, np.uint8))


def _write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes(), mtime=0))
