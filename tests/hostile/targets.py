"""All file formats that are read: a valid file, its reader, and its mutations."""

from __future__ import annotations

import gzip
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.data.mnist import read_idx
from rebasin_core.errors import RebasinError, RebasinWarning
from rebasin_core.posteriors.foreign.state_dict import load_samples
from rebasin_core.report.records import Scores, Similarities, Summary
from rebasin_core.studies.folder import RunFolder
from rebasin_core.symmetry import Kind, LinearSymmetry, Symmetry
from rebasin_core.symmetry.slots import slots_of
from rebasin_core.tensors.reading import read_json
from tests.hostile import mutations
from tests.hostile.mutations import Mutation

MODEL = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
SPEC = rc.table_spec(
    {"0.weight": "h, -", "0.bias": "h", "2.weight": "-, h", "2.bias": "-"},
    {name: tensor.detach() for name, tensor in MODEL.named_parameters()},
)
DATA = [(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 2)]
STUDY = """
base: {data: digits, architecture: mlp}
grid: {width: {narrow: {architecture.hidden: [4]}}, inference.epochs: [1, 2]}
variants: {exact: {inference.kl_weight: 1.0}}
seeds: 2
pairs: [[1, 2]]
matchers: {weight: {name: weight, max_sweeps: 5}}
barriers: [pointwise]
executor: {name: processes, workers: 2}
"""
RUN = """
data: {name: uci, dataset: toy, root: .}
architecture: {name: mlp, hidden: [4]}
inference: {name: mean_field_vi, epochs: 2, optimizer: {name: Adam, lr: 0.01}}
reference: {seed: 1}
candidate: {seed: 2}
matchers: [weight, {name: kl, max_sweeps: 5}]
barrier: {name: marginalized, num_points: 3}
likelihood: {name: gaussian, scale: 0.5}
splits: [test, train]
"""


@dataclass(frozen=True)
class Target:
    """A file format.

    Attributes:
        name: Name of the format.
        write: Writes a valid file.
        read: Reads a file.
        mutation: Mutates valid content.
    """

    name: str
    write: Callable[[Path], None]
    read: Callable[[Path], object]
    mutation: Mutation

    def content(self, folder: Path) -> bytes:
        """Return the content of a valid file, after verifying that it can be read."""
        path = folder / self.name
        self.write(path)
        self.read(path)
        return path.read_bytes()

    def outcome(self, path: Path, content: bytes) -> str:
        """Return ``read``, or the name of the error of this package that is raised; other errors propagate."""
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", RebasinWarning)
            try:
                self.read(path)
            except RebasinError as error:
                text = str(error)
                if not text or "\n\n" in text or len(text) > 20_000:
                    message = f"invalid message: {text[:100]!r}"
                    raise AssertionError(message) from error
                return type(error).__name__
        return "read"

    def mutated(self, content: bytes, rng: Random) -> bytes:
        """Return mutated content."""
        return self.mutation(content, rng)


def tensors(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(t.shape, generator=generator) + 0.1 for name, t in MODEL.named_parameters()}


def posterior(name: str) -> rc.Posterior:
    first = tensors(1)
    second = tensors(2)
    stacked = {n: torch.stack([first[n], second[n]]) for n in first}
    match name:
        case "point":
            return rc.posteriors.PointPosterior(first)
        case "diagonal":
            return rc.posteriors.DiagonalGaussianPosterior(first, second)
        case "samples":
            return rc.posteriors.SamplesPosterior(stacked)
        case "low rank":
            return rc.posteriors.LowRankGaussianPosterior(first, second, stacked)
        case _:
            parts = [rc.posteriors.PointPosterior(first), rc.posteriors.DiagonalGaussianPosterior(first, second)]
            return rc.posteriors.MixturePosterior(parts)


def save_posterior(name: str) -> Callable[[Path], None]:
    return lambda path: posterior(name).save(path, meta={"seed": 1, "history": [0.5, 0.25]})


def write_curve(path: Path) -> None:
    task = rc.Task(MODEL, DATA)
    curve = rc.barrier(
        rc.posteriors.PointPosterior(tensors(1)), rc.posteriors.PointPosterior(tensors(2)), task, num_points=3
    )
    path.write_text(json.dumps(curve.as_json()), encoding="utf-8")


def train(path: Path) -> object:
    inference = rc.inference.MeanFieldVI(epochs=2, optimizer={"name": "Adam", "lr": 0.01})
    return inference.fit(MODEL, DATA, checkpoint=path, validation=DATA)


def write_training(path: Path) -> None:
    train(path)


def write_npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **{n: np.stack([t.numpy()] * 2) for n, t in tensors(1).items()})


def write_uci(path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(12, 3))
    with path.open("wb") as file:
        np.savez(file, x=x, y=x.sum(1), test_index=np.arange(4)[None])


def read_uci(path: Path) -> object:
    (path.parent / "toy.npz").write_bytes(path.read_bytes())
    return rc.build("dataset", name="uci", dataset="toy", root=path.parent).load()


def read_uci_text(path: Path) -> object:
    folder = path.parent / "text" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    parts = path.read_bytes().split(b"#")
    for name, part in zip(
        ("data", "index_features", "index_target", "index_test_0"), [*parts, b"", b"", b""], strict=False
    ):
        (folder / f"{name}.txt").write_bytes(part)
    return rc.build("dataset", name="uci", dataset="text", root=path.parent).load()


def write_uci_text(path: Path) -> None:
    rows = "\n".join(" ".join(f"{v:.3f}" for v in row) for row in np.random.default_rng(0).normal(size=(12, 3)))
    path.write_text(f"{rows}#0 1#2#0\n3\n5\n", encoding="utf-8")


def write_idx(path: Path) -> None:
    content = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 3]) + bytes(range(18))
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def write_run(path: Path) -> None:
    path.write_text(RUN, encoding="utf-8")


STAGES = {"posterior/reference": "a" * 64}


def write_run_record(path: Path) -> None:
    entries = {"config": {"seed": 1}, "inputs": {}, "code": {}, "about": {"torch": "2"}}
    results = {"posteriors/reference.safetensors": "a" * 64, "curves/test/weight.json": "b" * 64}
    record = {"kind": "run", "version": 2, **entries, "stages": STAGES, "results": results}
    path.write_text(json.dumps(record), encoding="utf-8")


def read_run_record(path: Path) -> object:
    folder = path.parent / "run"
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_bytes(path.read_bytes())
    with RunFolder(folder, STAGES, {}) as found:
        return found


def write_study(path: Path) -> None:
    path.write_text(STUDY, encoding="utf-8")


SUMMARY = {
    "barriers": {"test": {"unaligned": {"height": 1.0}, "weight": {"height": 0.5}}},
    "wasserstein_distances": {"unaligned": 2.0, "weight": None},
    "matches": {
        "weight": {
            "objective": 1.0, "identity_objective": 0.5, "outcome": "converged", "sweeps": 3, "moved": {"h": 2},
        },
    },
}  # fmt: skip
SCORES = {
    "scores": {"nll": 1.0, "ece": None},
    "bins": {"count": [1, 2], "confidence": [0.5, 0.9], "accuracy": [0.5, 1]},
}
SIMILARITIES = {"h": {"before": [[1.0, 0.0], [0.0, 1.0]], "after": [[1.0, 0.5], [0.5, 1.0]]}}


def writing(value: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(json.dumps(value), encoding="utf-8")

    return write


def write_element(path: Path) -> None:
    """Write an element with a map of every kind that the first group of the specification can have."""
    group = next(group for group in SPEC.groups.values() if group.within is None)
    slots = slots_of(SPEC.layout, group.name)
    kinds = (Kind.ORTHOGONAL, Kind.NONZERO)
    linear = tuple(LinearSymmetry(group.name, kind, {slot: 1}) for kind, slot in zip(kinds, slots, strict=False))
    symmetry = Symmetry(SPEC.layout, linear)
    rc.SymmetryElement.random(symmetry, generator=torch.Generator().manual_seed(0)).save(path)


TENSORS, JSON, BYTES = mutations.mutated_safetensors, mutations.mutated_json, mutations.mutated_bytes
TARGETS = [
    *(
        Target(f"posterior {name}", save_posterior(name), lambda path: rc.load_posterior(path, model=MODEL), TENSORS)
        for name in ("point", "diagonal", "samples", "low rank", "mixture")
    ),
    Target(
        "permutation",
        lambda path: SPEC.random_permutation(generator=torch.Generator().manual_seed(0)).save(path),
        lambda path: rc.Permutation.load(path, SPEC.layout),
        TENSORS,
    ),
    Target("unknown permutation", lambda path: SPEC.identity().save(path), rc.Permutation.load, TENSORS),
    Target("group element", write_element, lambda path: rc.load_element(path, SPEC.layout), TENSORS),
    Target("unknown group element", write_element, rc.load_element, TENSORS),
    Target("specification", lambda path: rc.save_spec(SPEC, path), rc.load_spec, JSON),
    Target("curve", write_curve, lambda path: rc.LossCurve.from_json(read_json(path)), JSON),
    Target("training", write_training, train, TENSORS),
    Target("run file", write_run, rc.load_run, mutations.mutated_yaml),
    Target("run record", write_run_record, read_run_record, JSON),
    Target("study file", write_study, rc.load_study, mutations.mutated_yaml),
    Target("samples.npz", write_npz, lambda path: load_samples(path, model=MODEL), BYTES),
    Target("UCI archive", write_uci, read_uci, BYTES),
    Target("UCI text", write_uci_text, read_uci_text, BYTES),
    Target("idx", write_idx, read_idx, BYTES),
    Target("idx.gz", write_idx, read_idx, BYTES),
    Target("summary", writing(SUMMARY), Summary.read, JSON),
    Target("scores", writing(SCORES), Scores.read, JSON),
    Target("similarities", writing(SIMILARITIES), Similarities.read, JSON),
]
