"""Options and inputs that would fail during training raise before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.errors import InvalidInputError
from rebasin_core.inference import SWAG, MAPInference, MeanFieldVI, OptimizerSpec, ScheduleSpec

X = torch.linspace(-1, 1, 24).reshape(12, 2)
DATA = [(X[:8], X[:8].sum(1, keepdim=True)), (X[8:], X[8:].sum(1, keepdim=True))]


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).to(dtype)


def one_cycle(steps: int, interval: str = "epoch") -> ScheduleSpec:
    return ScheduleSpec(name="OneCycleLR", max_lr=0.1, total_steps=steps, interval=interval)


@pytest.mark.parametrize("call", ["fit", "check"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: MAPInference(epochs=6, schedule=one_cycle(5)),
            r"schedule of at least 6 steps \(one per epoch\), got `OneCycleLR`",
        ),
        (lambda: MAPInference(epochs=6, schedule=one_cycle(11, "step")), r"at least 12 steps \(one per step\)"),
        (lambda: MeanFieldVI(epochs=6, schedule=one_cycle(5)), "a schedule of at least 6 steps"),
        (lambda: rc.inference.DeepEnsemble(epochs=6, schedule=one_cycle(5)), "a schedule of at least 6 steps"),
        (lambda: SWAG(epochs=6, start=3, schedule=one_cycle(5)), "a schedule of at least 6 steps"),
        (lambda: MAPInference(patience=3), "`patience=3` requires validation data"),
        (lambda: MAPInference(prior_scale={"0.*": 1.0}), "a pattern of `prior_scale` that matches `2.weight`"),
        (lambda: MeanFieldVI(stochastic=["9.*"]), "the pattern '9.*' of `stochastic` matches none"),
        (lambda: MAPInference(optimizer=OptimizerSpec(name="Muon", lr=0.1)), "`Muon` rejects the options"),
    ],
)
def test_options_are_checked_before_training(make: Callable[[], Any], message: str, call: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        getattr(make(), call)(network(), DATA, likelihood="gaussian")


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_a_schedule_with_enough_steps_passes(interval: str) -> None:
    method = MAPInference(epochs=6, schedule=one_cycle(6 if interval == "epoch" else 12, interval))
    method.check(network(), DATA, likelihood="gaussian")
    assert len(method.fit(network(), DATA, likelihood="gaussian").history) == 6


SCHEDULES = [
    ScheduleSpec(name="CosineAnnealingLR", T_max=3),
    ScheduleSpec(name="CosineAnnealingWarmRestarts", T_0=2),
    ScheduleSpec(name="CyclicLR", base_lr=0.01, max_lr=0.1, cycle_momentum=False),
    ScheduleSpec(name="ExponentialLR", gamma=0.9),
    ScheduleSpec(name="LinearLR", total_iters=2),
    ScheduleSpec(name="MultiStepLR", milestones=[1, 2]),
    ScheduleSpec(name="PolynomialLR", total_iters=2),
    ScheduleSpec(name="StepLR", step_size=1),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.name)
def test_schedules_without_a_last_step_pass(schedule: ScheduleSpec) -> None:
    MAPInference(epochs=7, schedule=schedule).fit(network(), DATA, likelihood="gaussian")


def test_the_error_for_half_precision_names_the_conversion() -> None:
    with pytest.raises(InvalidInputError, match=r"got torch.float16 for `0.weight`: in float16, .* `model.float\(\)`"):
        MAPInference(epochs=1).fit(network(torch.float16), DATA, likelihood="gaussian")
    mixed = network()
    mixed[2].double()  # type: ignore[index]  # a Sequential
    with pytest.raises(InvalidInputError, match=r"got torch.float32 for `0.weight` and torch.float64 for `2"):
        MeanFieldVI(epochs=1).fit(mixed, DATA, likelihood="gaussian")
    with pytest.raises(InvalidInputError, match=r"got torch.complex64 for `weight`; convert"):
        MAPInference(epochs=1).fit(nn.Linear(2, 1, dtype=torch.complex64), DATA, likelihood="gaussian")
    posterior = MAPInference(epochs=1).fit(network(torch.bfloat16), DATA, likelihood="gaussian").posterior
    assert posterior.dtype == torch.bfloat16


def test_a_check_detects_targets_that_do_not_fit() -> None:
    with pytest.raises(InvalidInputError, match="expected"):
        MAPInference().check(network(), DATA)


def test_a_check_has_no_side_effects() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    method = rc.inference.DeepEnsemble(members=2, epochs=2)
    method.check(model, DATA, likelihood="gaussian")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
