"""Files, inputs and data of the published checkpoints whose architectures are in `published.py`.

    python docs/results/families.py --checkpoints FOLDER --data DATA [--families NAME ...] [--limit N]

Loads each file, traces and checks the specification of each architecture, and prints one JSON line per pair of files:
the measure at both endpoints and at the midpoint without alignment. The measure is the accuracy in percent, for the
pendulum the mean return, and for the interatomic potential the lowest energy of iron in meV, and at the midpoint its
absolute error there. ``FOLDER`` has the .npz files, and ``DATA`` MNIST and CIFAR-10 in the publishers' layouts; neither
is part of this project.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import published
import torch
from torch import Tensor, nn
from torch.nn import functional

import rebasin_core as rc

if TYPE_CHECKING:
    from collections.abc import Iterable

SMALL_SET = 5  # networks, up to which all pairs are compared; larger sets are compared in sequence
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
RAW = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CENTERED = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
MEV_PER_HARTREE = 27211.386

Kind = Literal["mnist", "cifar10", "group", "pendulum", "energy"]
Sets = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Family:
    """Networks of one architecture that were trained independently, unless `related` says otherwise.

    Attributes:
        files: Names of the files, without suffix.
        shape: Shape of one input.
        kind: Kind of the data.
        below: Exclusive upper bound of the inputs if they are integers.
        pixels: Mean and standard deviation by which pixels in [0, 1] are standardized, for each channel.
        table: File with the multiplication table of a group; sums modulo the number of classes if empty.
        classes: Number of elements of the group.
        related: Pairs of files with common initial weights.
    """

    files: tuple[str, ...]
    shape: tuple[int, ...]
    kind: Kind
    below: int | None = None
    pixels: tuple[tuple[float, ...], tuple[float, ...]] = RAW
    table: str = ""
    classes: int = 10
    related: tuple[tuple[str, str], ...] = ()

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """All pairs of files of a small set; for a large set, those that are next to each other."""
        return list(combinations(self.files, 2) if len(self.files) <= SMALL_SET else pairwise(self.files))

    def example_inputs(self, size: int = 2) -> Tensor:
        """Return random inputs."""
        generator = torch.Generator().manual_seed(0)
        if self.below is None:
            return torch.randn(size, *self.shape, generator=generator)
        return torch.randint(self.below, (size, *self.shape), generator=generator)


def _names(prefix: str, *suffixes: object) -> tuple[str, ...]:
    return tuple(f"{prefix}{suffix}" for suffix in suffixes)


FAMILIES = {
    "mnist_mlp": Family(_names("mnist_mlp_otfusion_", 0, 1), (1, 28, 28), "mnist", pixels=((0.1307,), (0.3081,))),
    "mnist_cnn": Family(_names("mnist_cnn_seed", "4_epoch200", "127_epoch200"), (1, 28, 28), "mnist"),
    "mnist_mlp_bn": Family(_names("mnist_mlpbn_ensemble_", *range(5)), (1, 28, 28), "mnist"),
    "mnist_bayesian_cnn": Family(
        _names("mnist_bnn_cnn_", 1, 2, 3),
        (1, 28, 28),
        "mnist",
        related=tuple(combinations(_names("mnist_bnn_cnn_", 1, 2, 3), 2)),
    ),
    "lenet5": Family(("mnist_lenet5_meanfield_omp404",), (1, 32, 32), "mnist"),
    "resnet20b": Family(
        _names("cifar10_resnet20B_distiller_", "dense", "chreg"), (3, 32, 32), "cifar10", pixels=CENTERED
    ),
    "resnet20a": Family(
        ("cifar10_resnet20A_zheng", *_names("cifar10_resnet20A_dansun_run", 1, 5, "8_1", "8_2", "8_3")),
        (3, 32, 32),
        "cifar10",
        pixels=IMAGENET,
    ),
    "resnet32a": Family(
        _names("cifar10_resnet32A_dansun_run", 1, 5), (3, 32, 32), "cifar10", pixels=IMAGENET
    ),
    "convnet": Family(("cifar10_convnet_start", "cifar10_convnet_end"), (3, 32, 32), "cifar10"),
    "cifar10_bayesian_cnn": Family(
        _names("cifar10_bnn_cnn_", 1, 2, 3, 6),
        (3, 32, 32),
        "cifar10",
        related=tuple(combinations(_names("cifar10_bnn_cnn_", 1, 2, 3), 2)),
    ),
    "s5_mlp": Family(
        _names("s5_mlp_seed", 1, 2, 3, 4, 9, 10, 11), (2,), "group", 120, table="s5_multiplication_table", classes=120
    ),
    "d59_mlp": Family(_names("d59_mlp_seed", 1, 2), (2,), "group", 118, table="d59_multiplication_table", classes=118),
    "c59_mlp": Family(_names("c59_mlp_D_", "7r4zst7evs", "qlvxqhkvit"), (2,), "group", 59, classes=59),
    "c113_transformer": Family(_names("c113_transformer_seed", 1, 2), (3,), "group", 114, classes=113),
    "d59_transformer": Family(
        _names("d59_transformer_seed", 1, 2, 3), (3,), "group", 119, table="d59_multiplication_table", classes=118
    ),
    "c59_pizza": Family(
        _names("c59_pizza_attention_", "l8k1hzciux", "q9rsl94xlv"), (2,), "group", 59, classes=59
    ),
    "pendulum": Family(_names("pendulum_tanh_", "ppo", "trpo"), (3,), "pendulum"),
    "iron_hydrogen": Family(_names("feh_committee_", *range(1, 9)), (2, 64), "energy"),
}  # fmt: skip


@dataclass(frozen=True)
class Data:
    """Folders of checkpoints and data, and the number of test images to use (all if None)."""

    checkpoints: Path
    data: Path
    limit: int | None = None

    def read(self, file: str) -> dict[str, Tensor]:
        """Return the tensors of one file."""
        with np.load(self.checkpoints / f"{file}.npz") as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}

    def sets(self, name: str) -> Sets:
        """Return training and test data of a family, each as inputs and targets."""
        return _sets(name, self)

    def measure(self, name: str, model: nn.Module) -> float:
        """Return the accuracy in percent, or the mean return of the pendulum."""
        if FAMILIES[name].kind == "pendulum":
            return mean_return(model)
        inputs, targets = self.sets(name)[1]
        return accuracy(model, inputs, targets)

    def midpoint_error(self, model: nn.Module, energies: Iterable[Tensor]) -> float:
        """Return the absolute error in meV of the energy of iron, at the minimum of the mean of others."""
        expected = torch.stack(list(energies)).mean(0)
        return float((self.energies(model) - expected).abs()[expected.argmin()])

    def energies(self, model: nn.Module) -> Tensor:
        """Return energies in meV of an iron atom in crystals with several lattice constants."""
        iron = self.read("feh_committee_bcc_inputs")["inputs_fe"].float()
        with torch.no_grad():
            energies: Tensor = model(torch.stack([iron, torch.zeros_like(iron)], dim=1))[:, 0]
        return energies * MEV_PER_HARTREE


def load(name: str, tensors: dict[str, Tensor]) -> nn.Module:
    """Return the architecture of a family with given tensors, in evaluation mode."""
    model: nn.Module = getattr(published, name)()
    # Missing: counters of batches. Not used: standard deviations of mean-field posteriors.
    names = model.state_dict().keys()
    missing = [key for key in names - tensors.keys() if not key.endswith("num_batches_tracked")]
    unused = [key for key in tensors.keys() - names if not key.endswith("_rho")]
    if missing or unused:
        message = f"{name}: missing {missing}, unused {unused}"
        raise ValueError(message)
    model.load_state_dict({key: value for key, value in tensors.items() if key in names}, strict=False)
    return model.eval()


@cache
def _sets(name: str, data: Data) -> Sets:
    family = FAMILIES[name]
    if family.kind == "group":
        every = _products(family, data)
        return every, every
    mean, deviation = family.pixels
    is_gray = family.kind == "mnist"
    options = {"mean": mean[0], "deviation": deviation[0]} if is_gray else {"mean": mean, "deviation": deviation}
    splits = rc.build("dataset", family.kind, root=data.data, **options).load()
    train, test = [(part.inputs, part.targets) for part in (splits.train.first(20_000), splits.test)]
    train, test = _resized(family, *train), _resized(family, *test)
    return train, (test[0][: data.limit], test[1][: data.limit])


def _resized(family: Family, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    images = images.reshape(len(images), family.shape[0], *images.shape[-2:])
    if images.shape[1:] != family.shape:
        images = functional.interpolate(images, family.shape[1:], mode="bilinear")
    return images, targets


def _products(family: Family, data: Data) -> tuple[Tensor, Tensor]:
    """Return all pairs of elements, and their products."""
    elements = torch.arange(family.classes)
    inputs = torch.cartesian_prod(elements, elements)
    table = (elements[:, None] + elements) % family.classes
    if family.table:
        table = torch.from_numpy(np.load(data.checkpoints / f"{family.table}.npy")).long()
    if family.shape == (3,):  # the last token is the same in all inputs
        inputs = torch.cat([inputs, torch.full((len(inputs), 1), family.classes)], dim=1)
    return inputs, table.reshape(-1)


@torch.no_grad()
def accuracy(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Return the accuracy in percent."""
    batches = zip(inputs.split(500), targets.split(500), strict=True)
    return 100 * sum(int((model(x).argmax(-1) == y).sum()) for x, y in batches) / len(targets)


@torch.no_grad()
def mean_return(model: nn.Module, episodes: int = 500) -> float:
    """Return the mean return of a policy in Pendulum-v1 of gymnasium, with its mean action, over random episodes."""
    generator = torch.Generator().manual_seed(0)
    start = 2 * torch.rand(2, episodes, generator=generator) - 1
    angle, speed, total = start[0] * torch.pi, start[1], torch.zeros(episodes)
    for _ in range(200):
        observation = torch.stack([angle.cos(), angle.sin(), speed], dim=1)
        torque = model(observation)[:, 0].clamp(-2, 2)
        wrapped = (angle + torch.pi) % (2 * torch.pi) - torch.pi
        total -= wrapped.square() + 0.1 * speed.square() + 0.001 * torque.square()
        speed = (speed + (15 * angle.sin() + 3 * torque) * 0.05).clamp(-8, 8)
        angle += speed * 0.05
    return float(total.mean())


def endpoints(name: str, pair: tuple[str, str], data: Data) -> dict[str, object]:
    """Return the measure at both endpoints and at the midpoint."""
    first, second = [data.read(file) for file in pair]
    middle = {key: (first[key] + second[key]) / 2 for key in first if first[key].is_floating_point()}
    models = [load(name, tensors) for tensors in (first, second, middle)]
    if FAMILIES[name].kind == "energy":
        energies = [data.energies(model) for model in models[:2]]
        values = [float(e.min()) for e in energies]
        values.append(data.midpoint_error(models[2], energies))
    else:
        values = [data.measure(name, model) for model in models]
    return {"family": name, "pair": pair, "first": values[0], "second": values[1], "midpoint": values[2]}


def specification(name: str) -> rc.PermutationSpec:
    """Return the traced specification of a family, which is checked."""
    model: nn.Module = getattr(published, name)().eval()
    inputs = FAMILIES[name].example_inputs(4)
    spec = rc.trace_spec(model, inputs)
    rc.check_spec(spec, model, inputs).require()
    return spec


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments of all scripts that use these networks."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--checkpoints", type=Path, required=True)
    result.add_argument("--data", type=Path, required=True)
    result.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES), metavar="NAME")
    result.add_argument("--limit", type=int, help="number of test images (default: all)")
    return result


def main() -> None:
    """Print the measures."""
    arguments = parser((__doc__ or "").splitlines()[0]).parse_args()
    data = Data(arguments.checkpoints, arguments.data, arguments.limit)
    torch.set_num_threads(1)
    for name in arguments.families:
        groups = specification(name).layout.groups
        print(json.dumps({"family": name, "groups": {key: group.size for key, group in groups.items()}}), flush=True)
        pairs = FAMILIES[name].pairs or [(FAMILIES[name].files[0],) * 2]
        for pair in pairs:
            print(json.dumps(endpoints(name, pair, data)), flush=True)


if __name__ == "__main__":
    main()
