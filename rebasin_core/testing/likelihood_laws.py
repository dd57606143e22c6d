"""The laws of likelihoods."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.testing.law import device_under_test, expect, expect_equal, law, seeded

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from rebasin_core.evaluation.likelihood import Likelihood

_CLASSES, _ROWS = 3, 4
_CONSTANT_ROWS = 50
# Targets on both sides of the prediction, at distances from exp(-30) to exp(20). With equal steps of the logarithm, the
# sum approximates the integral for narrow densities and for heavy tails.
_STEP = 0.005
_FIRST = -6000
_LAST = 4000
_COUNTS = 2000


def _outputs(likelihood: Likelihood, size: int, *, rows: int = _ROWS) -> Tensor:
    """Return random outputs for targets of a size: ``[rows, num_outputs(size)]``."""
    shape = rows, likelihood.num_outputs(size)
    return torch.randn(shape, generator=seeded(), dtype=torch.float64).to(device_under_test())


def _targets(likelihood: Likelihood, size: int, *, rows: int = _ROWS) -> Tensor:
    """Return valid targets for outputs of a size."""
    if likelihood.targets == "classes":
        return (torch.arange(rows) % size).to(device_under_test())
    normal = torch.randn(rows, size, generator=seeded(1), dtype=torch.float64).to(device_under_test())
    if likelihood.targets == "binary":
        return (normal > 0).double()
    return (2 * normal).abs().floor() if likelihood.targets == "counts" else normal


def _every_target(likelihood: Likelihood, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return G targets for each of N examples, and their weights in an integral (or sum), both ``[G, N]``."""
    if likelihood.targets != "numbers":
        count = {"classes": _CLASSES, "binary": 2}.get(likelihood.targets, _COUNTS)
        each = torch.arange(count, device=outputs.device).unsqueeze(1).expand(-1, len(outputs))
        return each if likelihood.targets == "classes" else each.double(), torch.ones_like(each).double()
    distance = (_STEP * torch.arange(_FIRST, _LAST + 1, device=outputs.device).double()).exp().unsqueeze(1)
    offset = torch.cat([-distance, distance])
    weight = (_STEP * offset.abs()).expand(-1, len(outputs))
    return likelihood.prediction(outputs).squeeze(-1) + offset, weight


def _densities(likelihood: Likelihood) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return outputs ``[N, ...]``, and targets, their weights and log likelihoods, each ``[G, N]``."""
    outputs = _outputs(likelihood, _CLASSES if likelihood.targets == "classes" else 1)
    targets, weight = _every_target(likelihood, outputs)
    rows = targets.reshape(-1)
    if likelihood.targets != "classes":
        rows = rows.unsqueeze(-1)
    repeated = outputs.repeat(len(targets), 1)
    likelihood.check(repeated, rows)
    return outputs, targets, weight, likelihood.log_prob(repeated, rows).reshape(targets.shape)


@law("likelihood")
def normalized(example: object, folder: Path) -> None:
    """For every example, the likelihood integrates to one over all targets."""
    del folder
    _, _, weight, log_prob = _densities(cast("Likelihood", example))
    totals = (log_prob.exp() * weight).sum(0)
    expect(bool(((totals - 1).abs() < 1e-6).all()), f"the likelihoods of all targets sum to {totals.tolist()}")


@law("likelihood")
def prediction(example: object, folder: Path) -> None:
    """The prediction contains the class probabilities, or the mean of the density."""
    del folder
    likelihood = cast("Likelihood", example)
    outputs, targets, weight, log_prob = _densities(likelihood)
    found = likelihood.prediction(outputs)
    probability = log_prob.exp()
    expected = probability.T if likelihood.targets == "classes" else (probability * targets * weight).sum(0)[:, None]
    expect_equal({"prediction": found}, {"prediction": expected}, "of the density", tolerance=1e-6)


@law("likelihood")
def entropy(example: object, folder: Path) -> None:
    """The entropy, if not NaN, is minus the expected log likelihood."""
    del folder
    likelihood = cast("Likelihood", example)
    outputs, _, weight, log_prob = _densities(likelihood)
    probability = log_prob.exp()
    terms = torch.where(probability > 0, probability * log_prob, 0.0)
    expected = -(terms * weight).sum(0)
    found = likelihood.entropy(outputs)
    known = ~found.isnan()
    expect_equal({"entropy": found[known]}, {"entropy": expected[known]}, "of the density", tolerance=1e-6)


@law("likelihood")
def joint_assessment(example: object, folder: Path) -> None:
    """`assess` returns the same log likelihoods, predictions and entropies as the separate methods."""
    del folder
    likelihood = cast("Likelihood", example)
    outputs = _outputs(likelihood, _CLASSES)
    targets = _targets(likelihood, _CLASSES)
    log_prob, predicted, entropies = likelihood.assess(outputs, targets)
    joint = {"log_prob": log_prob, "prediction": predicted, "entropy": entropies.nan_to_num(0.0)}
    alone = {
        "log_prob": likelihood.log_prob(outputs, targets),
        "prediction": likelihood.prediction(outputs),
        "entropy": likelihood.entropy(outputs).nan_to_num(0.0),
    }
    expect_equal(joint, alone, "joint", tolerance=1e-12)


@law("likelihood")
def per_example(example: object, folder: Path) -> None:
    """Results for an example do not depend on the other examples in the batch."""
    del folder
    likelihood = cast("Likelihood", example)
    outputs = _outputs(likelihood, _CLASSES)
    targets = _targets(likelihood, _CLASSES)

    def results(rows: slice) -> dict[str, Tensor]:
        log_prob, predicted, entropies = likelihood.assess(outputs[rows], targets[rows])
        score = likelihood.score(predicted, targets[rows]).double()
        return {"log_prob": log_prob, "prediction": predicted, "entropy": entropies.nan_to_num(0.0), "score": score}

    whole = results(slice(None))
    for row in range(_ROWS):
        own = slice(row, row + 1)
        expect_equal(results(own), {name: part[own] for name, part in whole.items()}, "alone", tolerance=1e-12)
    shapes = {name: len(part) for name, part in whole.items()}
    expect(set(shapes.values()) == {_ROWS}, f"expected {_ROWS} of each result, got {shapes}")


@law("likelihood")
def invalid_targets(example: object, folder: Path) -> None:
    """`check` accepts valid targets, and raises InvalidInputError for another number or shape of targets."""
    del folder
    likelihood = cast("Likelihood", example)
    outputs = _outputs(likelihood, _CLASSES)
    targets = _targets(likelihood, _CLASSES)
    likelihood.check(outputs, targets)
    for description, wrong in (
        ("one target too few", targets[1:]),
        ("targets with an additional dimension", targets.unsqueeze(-1)),
    ):
        try:
            likelihood.check(outputs, wrong)
        except InvalidInputError:
            continue
        expect(condition=False, message=f"`check` accepts {description}")


@law("likelihood")
def gradients(example: object, folder: Path) -> None:
    """Log likelihoods are differentiable in the outputs, and have their dtype and device."""
    del folder
    likelihood = cast("Likelihood", example)
    for dtype in (torch.float32, torch.float64):
        outputs = _outputs(likelihood, _CLASSES).to(dtype)
        targets = _targets(likelihood, _CLASSES)
        targets = targets if likelihood.targets == "classes" else targets.to(dtype)
        log_prob = likelihood.log_prob(outputs.requires_grad_(), targets)
        expect(
            (log_prob.dtype, log_prob.device) == (dtype, outputs.device),
            f"log likelihoods of outputs in {dtype} on {outputs.device} are in {log_prob.dtype} on {log_prob.device}",
        )
        (gradient,) = torch.autograd.grad(log_prob.sum(), outputs)
        expect(bool(gradient.isfinite().all()), f"gradients are not finite: {gradient}")


@law("likelihood")
def constant(example: object, folder: Path) -> None:
    """The outputs returned by `constant`, if any, maximize the mean log likelihood among constant outputs."""
    del folder
    likelihood = cast("Likelihood", example)
    outputs = _outputs(likelihood, _CLASSES, rows=_CONSTANT_ROWS)
    targets = _targets(likelihood, _CLASSES, rows=_CONSTANT_ROWS)
    found = likelihood.constant(outputs[:1], targets)
    if found is None:
        return
    expect(found.shape == outputs.shape[1:], f"constant outputs of shape {tuple(found.shape)}")

    def mean(values: Tensor) -> float:
        return likelihood.log_prob(values.expand(_CONSTANT_ROWS, *found.shape), targets).mean().item()

    best = mean(found)
    for step in (0.01, 0.1, 1.0):
        for change in torch.randn(20, *found.shape, generator=seeded(2), dtype=found.dtype).to(found.device):
            other = mean(found + step * change)
            expect(
                other <= best + 1e-6, f"mean log likelihood {best:.6f} of `constant`, but {other:.6f} of other outputs"
            )
