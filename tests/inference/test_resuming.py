"""Training resumes on the same problem only; for another problem, the error names the differences."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, RandomSampler, TensorDataset
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.errors import FileFormatError
from rebasin_core.inference import FitResult, MAPInference, MeanFieldVI

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(24, 3, generator=GENERATOR)
Y = torch.arange(24) % 3


class Network(nn.Module):
    """Network with functional activation and dropout."""

    def __init__(self, activation: Callable[[torch.Tensor], torch.Tensor] = torch.tanh, rate: float = 0.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.first, self.second = nn.Linear(3, 5), nn.Linear(5, 3)
        self._activation, self._rate = activation, rate

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = functional.dropout(self._activation(self.first(x)), self._rate, training=self.training)
        output: torch.Tensor = self.second(hidden)
        return output


def normalized(eps: float) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5, eps=eps), nn.Linear(5, 3))


def listed(x: torch.Tensor = X, y: torch.Tensor = Y, size: int = 8) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(x.split(size), y.split(size), strict=True))


def changed(tensor: torch.Tensor) -> torch.Tensor:
    other = tensor.clone()
    other[-1] = tensor[0] + 1 if tensor.is_floating_point() else (tensor[-1] + 1) % 3
    return other


def scaled(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        next(model.parameters()).mul_(1.01)
    return model


class Problem:
    """Default arguments of `fit`, with which training resumes unless one is replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fit(self, **others: Any) -> FitResult:
        method: rc.Inference = others.pop("method", MAPInference(epochs=2))
        given: dict[str, Any] = {"model": Network(), "data": listed(), "likelihood": "categorical"} | others
        if (seed := given.pop("seed", None)) is not None:
            given["generator"] = torch.Generator().manual_seed(seed)
        return method.fit(given.pop("model"), given.pop("data"), checkpoint=self._path, **given)


@pytest.fixture
def problem(tmp_path: Path) -> Problem:
    return Problem(tmp_path / "c.safetensors")


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (lambda: {"data": listed(x=changed(X))}, "data: inputs"),
        (lambda: {"data": listed(y=changed(Y))}, "data: targets"),
        (lambda: {"data": listed(y=Y.roll(1))}, "data: pairs"),
        (lambda: {"data": listed(X.flip(0), Y.flip(0))}, "data: order of the examples"),
        (lambda: {"data": listed(size=12)}, r"data: number of batches \(3 in the file, 2 here\)"),
        (lambda: {"data": [*listed(X[:16], Y[:16], 4), (X[16:], Y[16:])]}, "data: number of batches"),
        (lambda: {"data": [(X[:9], Y[:9]), (X[9:16], Y[9:16]), (X[16:], Y[16:])]}, r"largest batch \(8 .* 9 here\)"),
        (lambda: {"data": listed(X.double())}, "data: dtypes"),
        (lambda: {"num_examples": 30}, r"data: number of examples \(24 in the file, 30 here\)"),
        (lambda: {"validation": listed()}, "data: validation"),
        (lambda: {"method": MAPInference(epochs=3)}, r"method: epochs \(2 in the file, 3 here\)"),
        (lambda: {"method": MAPInference(epochs=2, prior_scale=2.0)}, r"method: prior_scale \(1.0 .* 2.0 here\)"),
        (lambda: {"method": MeanFieldVI(epochs=2)}, r'method: name \("map" in the file, "mean_field_vi" here\)'),
        (lambda: {"model": Network(torch.relu)}, "the outputs of the network"),
        (lambda: {"model": Network(lambda x: functional.leaky_relu(x, 0.01))}, "the outputs of the network"),
        (lambda: {"model": Network(rate=0.1)}, "the outputs of the network"),
        (lambda: {"model": scaled(Network())}, "initial values"),
        (lambda: {"model": Network().double()}, "tensors: first.weight"),
        (lambda: {"model": nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 3))}, "tensors: .*modules"),
        (lambda: {"seed": 1}, r"seed \(0 in the file, 1 here\)"),
    ],
)
def test_another_problem_raises(problem: Problem, others: Callable[[], dict[str, Any]], message: str) -> None:
    assert problem.fit().resumed_at == 0
    assert problem.fit(generator=torch.Generator().manual_seed(0)).resumed_at == 2
    expected = f"another training problem, which differs in .*{message}.* remove the file"
    with pytest.raises(FileFormatError, match=expected):
        problem.fit(**others())


def test_options_of_modules_are_part_of_a_network(problem: Problem) -> None:
    problem.fit(model=normalized(1e-5))
    assert problem.fit(model=normalized(1e-5)).resumed_at == 2
    with pytest.raises(FileFormatError, match="differs in modules"):
        problem.fit(model=normalized(2e-5))


class Called(nn.Module):
    """Module whose repr contains the memory address of a function."""

    def __init__(self) -> None:
        super().__init__()
        self.function = lambda x: x

    @override
    def extra_repr(self) -> str:
        return repr(self.function)

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_memory_addresses_are_not_part_of_the_identity(problem: Problem) -> None:
    models = [nn.Sequential(Called(), Network()) for _ in range(2)]
    assert repr(models[0]) != repr(models[1])
    problem.fit(model=models[0])
    assert problem.fit(model=models[1]).resumed_at == 2


def test_seeded_augmentation_is_recognized(problem: Problem) -> None:
    class Noisy:
        def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            return ((x + 0.1 * torch.randn_like(x), y) for x, y in listed())

    problem.fit(data=Noisy())
    assert problem.fit(data=Noisy()).resumed_at == 2


def test_the_slope_of_a_leaky_activation_is_part_of_the_identity(problem: Problem) -> None:
    problem.fit(model=Network(lambda x: functional.leaky_relu(x, 0.01)))
    with pytest.raises(FileFormatError, match="the outputs of the network"):
        problem.fit(model=Network(lambda x: functional.leaky_relu(x, 0.02)))


def test_validation_data_are_part_of_the_problem(problem: Problem) -> None:
    problem.fit(validation=listed())
    assert problem.fit(validation=iter(listed())).resumed_at == 2
    with pytest.raises(FileFormatError, match="data: validation: targets"):
        problem.fit(validation=listed(y=changed(Y)))


@pytest.mark.parametrize("kind", ["shuffled", "own generator", "part", "with replacement", "arrays"])
def test_loaders_that_shuffle_are_recognized(problem: Problem, kind: str) -> None:
    def loader(y: torch.Tensor = Y) -> Any:
        whole = TensorDataset(X, y)
        own = torch.Generator().manual_seed(3)
        made: dict[str, Callable[[], Any]] = {
            "shuffled": lambda: DataLoader(whole, batch_size=8, shuffle=True),
            "own generator": lambda: DataLoader(whole, batch_size=8, shuffle=True, generator=own),
            "part": lambda: DataLoader(whole, batch_size=7, shuffle=True, drop_last=True, generator=own),
            "with replacement": lambda: DataLoader(
                whole, batch_size=8, sampler=RandomSampler(whole, replacement=True, generator=own)
            ),
            "arrays": lambda: rc.data.Examples(X, y).batches(8, shuffle_seed=1),
        }
        return made[kind]()

    data = loader()
    problem.fit(data=data)
    torch.rand(3)
    assert problem.fit(data=data).resumed_at == 2, "the same loader, its generator advanced"
    assert problem.fit(data=loader()).resumed_at == 2
    with pytest.raises(FileFormatError, match="data: targets"):
        problem.fit(data=loader(changed(Y)))


def test_another_shuffling_of_arrays_raises(problem: Problem) -> None:
    problem.fit(data=rc.data.Examples(X, Y).batches(8, shuffle_seed=1))
    with pytest.raises(FileFormatError, match="order of the examples"):
        problem.fit(data=rc.data.Examples(X, Y).batches(8, shuffle_seed=2))


def test_a_generator_in_another_state_raises(problem: Problem) -> None:
    generator = torch.Generator().manual_seed(0)
    problem.fit(generator=generator, method=rc.inference.DeepEnsemble(members=2, epochs=2))
    with pytest.raises(FileFormatError, match="state of the generator"):
        problem.fit(generator=generator, method=rc.inference.DeepEnsemble(members=2, epochs=2))


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the JSON document of a file."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    entry = json.loads(header["__metadata__"]["rebasin_core"])
    change(entry["document"])
    header["__metadata__"]["rebasin_core"] = json.dumps(entry)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def test_a_file_without_an_identity_raises(problem: Problem, tmp_path: Path) -> None:
    problem.fit()
    rewritten(tmp_path / "c.safetensors", lambda document: [document.pop(part) for part in ("identity", "digest")])
    with pytest.raises(FileFormatError, match="earlier version and does not identify its data and network"):
        problem.fit()


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.pop("history"),
        lambda document: document.update(param_groups=3),
        lambda document: document.update(param_groups=[]),
        lambda document: document.update(numbers={"optimizer/x": 1}),
        lambda document: document.update(history=None),
    ],
)
def test_a_damaged_document_raises(problem: Problem, tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    problem.fit()
    rewritten(tmp_path / "c.safetensors", change)
    with pytest.raises(FileFormatError, match=r"is damaged .* remove it"):
        problem.fit()
