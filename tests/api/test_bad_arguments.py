"""Arguments of wrong types are errors that name the expected type and a remedy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import rebasin_core as rc
from rebasin_core.errors import InvalidInputError

INPUTS, TARGETS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 2])


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


@pytest.mark.parametrize("spec", ["weight", None])
def test_another_type_than_a_specification_is_an_error(spec: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"expected a `PermutationSpec`, got `(str|NoneType)`; `trace_spec`"):
        rc.match(network(), network(), spec)


@pytest.mark.parametrize("task", [[(INPUTS, TARGETS)], network()])
def test_another_type_than_a_task_is_an_error(task: Any) -> None:
    first, second = network(), network()
    spec = rc.trace_spec(first, INPUTS)
    posteriors = rc.as_posterior(first), rc.as_posterior(second)
    match = r"expected a `Task`, got `(list|Sequential)`; make one with `rebasin_core.Task\(model, data\)`"
    for call in (
        lambda: rc.barrier(first, second, task),
        lambda: rc.score(first, task),
        lambda: rc.match(first, second, spec, task=task),
        lambda: rc.matchers.WeightMatcher().match(*posteriors, spec, task=task),
        lambda: rc.match_many([first, second], spec, task=task),
        lambda: rc.align_samples([first, second], spec, task=task),
        lambda: rc.merge([first, second], spec, task=task),
        lambda: rc.greedy_soup([first, second], spec, task),
        lambda: rc.barrier_matrix([first, second], task),
    ):
        with pytest.raises(InvalidInputError, match=match):
            call()


def test_a_data_set_without_batches_is_an_error() -> None:
    examples: Any = TensorDataset(INPUTS, TARGETS)
    task = rc.Task(network(), examples)
    with pytest.raises(InvalidInputError, match=r"the dataset `TensorDataset` of single examples; give a `DataLoader`"):
        rc.barrier(network(), network(), task)
