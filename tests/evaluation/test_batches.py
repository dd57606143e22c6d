"""All functions that read data raise a clear error for data that are not batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import rebasin_core as rc
from rebasin_core.errors import InvalidInputError, RebasinError

MODEL = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(6) % 2
POINT = rc.posteriors.PointPosterior({name: t.detach() for name, t in MODEL.named_parameters()})
SPEC = rc.table_spec({"0.weight": "h, -", "0.bias": "h", "2.weight": "-, h", "2.bias": "-"}, MODEL)
GOOD = [(X, Y)]
BAD: dict[str, Any] = {
    "dictionaries without targets": [{"x": X, "z": Y}],
    "lists": [([1.0, 2.0, 3.0], [0])],
    "a dataset": TensorDataset(X, Y),
    "a dataset of pairs of equal length": TensorDataset(X, X),
    "a tensor": X,
    "None": [None],
    "strings": ["ab"],
    "a string": "ab",
    "a number": 3,
    "a dictionary": {"a": (X, Y)},
    "unequal lengths": [(X, Y[:4])],
    "one example": [(X[0], Y[0])],
}
READERS: dict[str, Callable[[Any], object]] = {
    "training": lambda data: rc.inference.MAPInference(epochs=1).fit(MODEL, data),
    "validation": lambda data: rc.inference.MAPInference(epochs=1).fit(MODEL, GOOD, validation=data),
    "barrier": lambda data: rc.barrier(POINT, POINT, rc.Task(MODEL, data), num_points=3),
    "calibration": lambda data: rc.barrier(
        POINT, POINT, rc.Task(MODEL, GOOD, calibration=data), num_points=3, estimator="reset"
    ),
    "score": lambda data: rc.score(POINT, rc.Task(MODEL, data)),
    "activation": lambda data: rc.match(POINT, POINT, SPEC, "activation", task=rc.Task(MODEL, data)),
    "straight_through": lambda data: rc.match(POINT, POINT, SPEC, "straight_through", task=rc.Task(MODEL, data)),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", BAD)
def test_data_that_are_not_batches_raise(kind: str, reader: str) -> None:
    with pytest.raises(InvalidInputError, match=r"expected batches .*give a `DataLoader`"):
        READERS[reader](BAD[kind])


@pytest.mark.parametrize("reader", READERS)
def test_a_data_loader_is_accepted(reader: str) -> None:
    READERS[reader](DataLoader(TensorDataset(X, Y), batch_size=4))


@pytest.mark.parametrize("likelihood", [nn.MSELoss(), None, 3, {"name": 3}, "x" * 300, int])
def test_values_that_are_not_likelihoods_raise(likelihood: Any) -> None:
    with pytest.raises(RebasinError, match="likelihood"):
        rc.Task(MODEL, GOOD, likelihood)
