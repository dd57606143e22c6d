"""Trainings that share their first steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.data import Examples, TensorBatches
from rebasin_core.errors import ConfigError, InvalidInputError

X = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)).double()
EXAMPLES = Examples(X, (X.prod(1) > 0).long())
SGD: dict[str, Any] = {"name": "map", "epochs": 4, "optimizer": {"name": "SGD", "lr": 0.3}}


def network(seed: int = 0, width: int = 8) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 2)).double()


def batches(seed: int) -> TensorBatches:
    return EXAMPLES.batches(10, shuffle_seed=seed)


TASK = rc.Task(network(), [(X, EXAMPLES.targets)])


@pytest.mark.parametrize("steps", [1, 6, 9, 23])
def test_a_child_with_the_shared_order_is_the_uninterrupted_training(steps: int) -> None:
    # Gradient descent without momentum has no state. A fork changes only the order.
    method = rc.Inference.of(SGD)
    expected = method.fit(network(), batches(5)).posterior.mean
    found = rc.instability(network(), TASK, batches, steps=[steps], inference=method, seeds=(5, 5, 6), num_points=3)
    first, second = found.children[0]
    torch.testing.assert_close(first.mean, expected, rtol=1e-12, atol=1e-12)
    assert not torch.equal(second.mean["0.weight"], expected["0.weight"])


def test_children_without_shared_steps_are_independent_trainings_from_one_initialization() -> None:
    method = rc.Inference.of(SGD)
    found = rc.instability(network(), TASK, batches, steps=[0], inference=method, num_points=3)
    for child, seed in zip(found.children[0], (1, 2), strict=True):
        torch.testing.assert_close(child.mean, method.fit(network(), batches(seed)).posterior.mean, rtol=0, atol=0)


def test_a_convex_loss_has_no_instability() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(2, 2).double()
    found = rc.instability(linear, rc.Task(linear, TASK.data), batches, steps=[0, 7], inference=SGD)
    assert found.heights == (0.0, 0.0)
    assert all(excess < 0 for curve in found.curves for excess in curve.excess[1:-1])


def test_numbers_of_steps_are_sorted_and_distinct() -> None:
    found = rc.instability(network(), TASK, batches, steps=[23, 2, 2], inference=SGD, num_points=3)
    assert found.steps == (2, 23)
    assert len(found.children) == 2


def test_children_are_aligned_with_a_specification() -> None:
    spec = rc.trace_spec(network(), X[:2])
    found = rc.instability(network(), TASK, batches, steps=[0], inference=SGD, spec=spec, num_points=3)
    first, second = found.children[0]
    expected = rc.barrier(first, rc.match(first, second, spec).apply(second), TASK, num_points=3)
    assert found.aligned[0] == expected
    assert rc.instability(network(), TASK, batches, steps=[0], inference=SGD, num_points=3).aligned == ()


def test_posteriors_start_at_the_shared_mean() -> None:
    method = {"name": "mean_field_vi", "epochs": 2}
    options: dict[str, Any] = {"num_points": 3, "num_samples": 4}
    found = rc.instability(network(), TASK, batches, steps=[3], inference=method, **options)
    assert not found.children[0][0].is_point
    assert found.curves[0].is_random


def test_the_model_is_unchanged_and_results_reproducible() -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pairs = [rc.instability(model, TASK, batches, steps=[4], inference=SGD, num_points=3).children[0] for _ in range(2)]
    torch.testing.assert_close(pairs[0][1].mean, pairs[1][1].mean, rtol=0, atol=0)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_the_figure_has_both_curves() -> None:
    spec = rc.trace_spec(network(), X[:2])
    found = rc.instability(network(), TASK, batches, steps=[0, 5], inference=SGD, spec=spec, num_points=3)
    axes = found.plot()
    assert axes.get_xlabel() == "shared steps"
    assert axes.get_legend_handles_labels()[1] == ["unaligned", "aligned"]


def test_invalid_input_raises_errors() -> None:
    for steps in ([24], [-1], [], [1.5]):
        with pytest.raises(InvalidInputError, match=r"from 0 to 23 \(4 epochs of 6 batches\)"):
            rc.instability(network(), TASK, batches, steps=steps, inference=SGD)  # type: ignore[arg-type] # the error under test
    with pytest.raises(InvalidInputError, match="different seeds"):
        rc.instability(network(), TASK, batches, steps=[0], seeds=(0, 1, 1))
    with pytest.raises(InvalidInputError, match="empty"):
        rc.instability(network(), TASK, lambda _: [], steps=[0])
    with pytest.raises(ConfigError, match="epochs"):
        rc.instability(network(), TASK, batches, steps=[0], inference="hmc")
