"""Adaptive allocation, compared with closed forms and with equal numbers of samples."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.errors import ConfigError, InvalidInputError
from rebasin_core.evaluation import EvaluationOptions, Evaluator, LossEstimate
from rebasin_core.evaluation.allocation import Allocation, Stratum
from rebasin_core.evaluation.networks import Sampling
from rebasin_core.evaluation.predictive import HeldTask
from rebasin_core.evaluation.stratified import StratifiedPredictor

SCALE = 0.3
ADAPTIVE = EvaluationOptions(allocation="adaptive")


def regression() -> tuple[rc.posteriors.DiagonalGaussianPosterior, list[tuple[torch.Tensor, torch.Tensor]]]:
    """y = theta x, where x is close to 0 for most examples, so that theta has little effect on them."""
    x = torch.cat([torch.linspace(0.01, 0.05, 380), torch.linspace(1, 2, 20)]).double()[:, None]
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    y = 0.3 * x + SCALE * torch.randn(400, 1, generator=torch.Generator().manual_seed(1)).double()
    q = rc.posteriors.DiagonalGaussianPosterior(
        {"weight": torch.full((1, 1), 0.5)}, {"weight": torch.full((1, 1), 0.4)}
    )
    return q.to(dtype=torch.float64), list(zip(x[order].split(90), y[order].split(90), strict=True))


def exact() -> float:
    q, data = regression()
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    variance = (q.stddev["weight"] * x).square() + SCALE**2
    return (0.5 * ((y - q.mean["weight"] * x).square() / variance + (2 * math.pi * variance).log())).mean().item()


def found(seed: int, num_samples: int = 32, metric: Any = "nll", options: EvaluationOptions = ADAPTIVE) -> LossEstimate:
    q, data = regression()
    task = rc.Task(nn.Linear(1, 1, bias=False), data, rc.evaluation.GaussianLikelihood(scale=SCALE))
    evaluator = Evaluator(task, q, num_samples=num_samples, seed=seed, options=options)
    return evaluator.loss(q, metric=metric)


@pytest.mark.statistics
def test_stated_errors_cover_the_closed_form() -> None:
    # 190 +- 3.1 of 200 are expected within 1.96 standard errors; seeds are fixed.
    estimates = [found(seed) for seed in range(200)]
    inside = sum(abs(e.loss - e.bias - exact()) < 1.96 * e.stderr for e in estimates)
    assert 175 <= inside <= 200
    stddev = torch.tensor([e.loss for e in estimates]).std().item()
    # The small pilot occasionally misses an uncertain example; the error of that run is large and has a note.
    trusted = [e for e in estimates if not e.notes]
    assert len(trusted) > 150
    assert torch.tensor([e.stderr for e in trusted]).median().item() == pytest.approx(stddev, rel=0.5)


def test_examples_stay_in_order() -> None:
    q, data = regression()
    estimate = found(0, num_samples=4000)
    x, y = (torch.cat(parts)[:, 0] for parts in zip(*data, strict=True))
    variance = (0.4 * x).square() + SCALE**2
    losses = 0.5 * ((y - 0.5 * x).square() / variance + (2 * math.pi * variance).log())
    assert (estimate.example_losses - losses).abs().max() < 0.05
    # The Gibbs loss of a linear model has a closed form, too.
    gibbs = 0.5 * (((y - 0.5 * x).square() + (0.4 * x).square()) / SCALE**2 + math.log(2 * math.pi * SCALE**2))
    by_gibbs = found(0, num_samples=4000, metric="gibbs")
    assert by_gibbs.gibbs == pytest.approx(gibbs.mean().item(), abs=5 * by_gibbs.stderr)
    assert q.mean["weight"].item() == 0.5


Classes = tuple[nn.Module, rc.posteriors.DiagonalGaussianPosterior, list[tuple[torch.Tensor, torch.Tensor]]]


def classes(rows: int = 300) -> Classes:
    g = torch.Generator().manual_seed(3)
    model = rc.architectures.MLPArchitecture(hidden=[8]).build((5,), 3, generator=g).double()
    mean = {name: parameter.detach() for name, parameter in model.named_parameters()}
    posterior = rc.posteriors.DiagonalGaussianPosterior(
        mean, {name: torch.full_like(t, 0.3) for name, t in mean.items()}
    )
    x = 2 * torch.randn(rows, 5, generator=g).double()
    return model, posterior, list(zip(x.split(100), model(x).detach().argmax(1).split(100), strict=True))


def digits() -> Classes:
    """A trained network whose predictions are confident for most examples."""
    data = rc.build("dataset", "digits").load()
    model = rc.architectures.MLPArchitecture(hidden=[32]).build(
        data.input_shape, 10, generator=torch.Generator().manual_seed(0)
    )
    method = rc.inference.MeanFieldVI(
        epochs=10, kl_weight=0.1, optimizer=rc.inference.OptimizerSpec(name="Adam", lr=1e-2)
    )
    posterior = method.fit(model, data.train.batches(100, shuffle_seed=0)).posterior
    assert isinstance(posterior, rc.posteriors.DiagonalGaussianPosterior)
    return model, posterior, list(data.test.batches(200))


def test_scores_agree_with_even_allocation_within_errors() -> None:
    model, posterior, data = classes()
    adaptive, even = (
        rc.score(posterior, rc.Task(model, data), num_samples=n, evaluation=options)
        for n, options in ((64, ADAPTIVE), (2000, None))
    )
    assert adaptive.nll == pytest.approx(even.nll, abs=5 * adaptive.nll_stderr)
    for name in ("accuracy", "brier", "ece", "entropy", "mutual_information"):
        assert adaptive.values[name] == pytest.approx(even.values[name], abs=0.02), name


def test_barrier_has_smaller_errors_and_is_zero_between_equal_posteriors() -> None:
    model, posterior, data = digits()
    spec = rc.architectures.MLPArchitecture(hidden=[32]).spec(model)
    candidate = spec.random_permutation(generator=torch.Generator().manual_seed(0)).apply(posterior)
    shared: dict[str, Any] = {"task": rc.Task(model, data), "num_points": 3}
    same = rc.barrier(posterior, posterior, num_samples=16, estimator=estimator(), **shared)
    assert same.excess == pytest.approx((0.0, 0.0, 0.0), abs=1e-7)
    assert same.height_stderr < 1e-7
    adaptive, even, many = (
        rc.barrier(posterior, candidate, num_samples=n, estimator=e, **shared)
        for n, e in ((64, estimator()), (64, None), (1024, None))
    )
    assert adaptive.location == 0.5
    # About a third of the variance for the same number of samples.
    assert adaptive.height_stderr < 0.75 * even.height_stderr
    assert adaptive.height == pytest.approx(many.height, abs=4 * math.hypot(adaptive.height_stderr, many.height_stderr))


def test_an_endpoint_without_noise() -> None:
    model, posterior, data = classes()
    sharp = rc.posteriors.DiagonalGaussianPosterior(
        posterior.mean, {n: torch.zeros_like(t) for n, t in posterior.mean.items()}
    )
    for chosen in (estimator(), None):
        curve = rc.barrier(sharp, posterior, rc.Task(model, data), num_points=3, num_samples=16, estimator=chosen)
        assert curve.stderr[0] < 1e-12
        assert curve.stderr[2] > 0


def estimator(**more: Any) -> dict[str, Any]:
    return {"name": "marginalized", "evaluation": {"allocation": "adaptive"}, **more}


def test_unsupported_combinations_raise() -> None:
    model, posterior, data = classes(20)

    def barrier(of: rc.Posterior, chosen: dict[str, Any]) -> None:
        rc.barrier(of, of, rc.Task(model, data), estimator=chosen)

    with pytest.raises(InvalidInputError, match="such as nll and gibbs, got 'brier'"):
        barrier(posterior, estimator(metric="brier"))
    with pytest.raises(InvalidInputError, match="cannot be combined with `reset`, `repair` or `calibrated`"):
        barrier(posterior, {"name": "reset", "estimator": estimator()})
    samples = rc.posteriors.SamplesPosterior({name: tensor[None] for name, tensor in posterior.mean.items()})
    with pytest.raises(InvalidInputError, match="got a 'samples' posterior"):
        barrier(samples, estimator())
    with pytest.raises(InvalidInputError, match="at least 8 samples"):
        barrier(posterior, estimator(num_samples=4))
    unknown: dict[str, Any] = {"allocation": "fair"}
    q, numbers = regression()
    with pytest.raises(InvalidInputError, match="cannot be combined with groups of samples, kept outputs"):
        rc.score(q, rc.Task(nn.Linear(1, 1, bias=False), numbers, likelihood="gaussian"), evaluation=ADAPTIVE)
    with pytest.raises(ConfigError, match="allocation: expected 'even' or 'adaptive', got 'fair'"):
        EvaluationOptions(**unknown)


def predictor(num_samples: int, metric: str = "nll", *, copies: int = 1) -> tuple[StratifiedPredictor, rc.Posterior]:
    q, data = regression()
    data = [(x.repeat(copies, 1), y.repeat(copies, 1)) for x, y in data]
    task = rc.Task(nn.Linear(1, 1, bias=False), data, rc.evaluation.GaussianLikelihood(scale=SCALE))
    return StratifiedPredictor(HeldTask.of(task, q), Sampling(num_samples, options=ADAPTIVE), metric=metric), q


def test_the_pilot_has_one_bounded_number_for_every_example() -> None:
    pilot = predictor(32)[0].pilot(predictor(32)[1])
    assert pilot.sample_influence.shape == (400,)
    # Of two pairs with likelihoods a and b: tanh(log(a / b) / 2) = (a - b) / (a + b).
    assert pilot.sample_influence.abs().max() < 1
    other = predictor(32, "gibbs")[0].pilot(predictor(32)[1])
    assert other.sample_influence.shape == (400,)
    # An average of unbounded numbers is not bounded, and the Gibbs loss is larger.
    assert other.sample_influence.abs().max() > 1
    assert other.loss > pilot.loss


def test_predictions_of_strata_are_put_together() -> None:
    stratified, q = predictor(32)
    pilot = stratified.pilot(q)
    allocation = stratified.allocate(pilot.sample_influence, pilot.example_losses)
    found = stratified.predictions(q, allocation)
    assert len(allocation.strata) > 2
    assert (found.score_name, found.paired, found.independent) == ("mean_squared_error", True, True)
    assert found.targets is not None
    assert torch.equal(found.targets, torch.cat([y for _, y in regression()[1]]))
    for stratum, part in found.parts:
        assert part.log_prob.shape == (stratum.num_samples, len(stratum.rows))
        torch.testing.assert_close(found.log_prob[:, stratum.rows], part.log_prob[: len(found.log_prob)])
        torch.testing.assert_close(found.prediction[stratum.rows], part.prediction)
        torch.testing.assert_close(found.score[stratum.rows], part.score)
    whole = LossEstimate.of(found)
    assert (whole.score_name, whole.independent) == ("mean_squared_error", True)
    assert whole.effective_samples is not None
    assert whole.bias_errors is not None
    for stratum, part in found.parts:
        own = LossEstimate.of(part)
        torch.testing.assert_close(whole.effective_samples[stratum.rows], own.effective_samples)
        torch.testing.assert_close(whole.bias_errors[stratum.rows], own.bias_errors)
    assert LossEstimate.of(found, metric="gibbs").effective_samples is None


def test_no_two_strata_and_no_pilot_share_their_noise() -> None:
    stratified, q = predictor(32)
    pilot = stratified.pilot(q)
    inputs, targets = regression()[1][-1]
    x, y = inputs[-1:], targets[-1:]
    # The same example in every stratum: its samples differ.
    strata = [Stratum(torch.tensor([row]), [(x, y)], 8) for row in range(3)]
    found = stratified.predictions(q, Allocation(strata)).log_prob
    assert len({tuple(column) for column in found.T.tolist()}) == 3
    alone = HeldTask.of(
        rc.Task(nn.Linear(1, 1, bias=False), [(x, y)], rc.evaluation.GaussianLikelihood(scale=SCALE)), q
    )
    by_pilot = StratifiedPredictor(alone, Sampling(32, options=ADAPTIVE)).pilot(q)
    assert pilot.loss != by_pilot.loss
    losses = [LossEstimate.of(part).loss for _, part in stratified.predictions(q, Allocation(strata)).parts]
    assert by_pilot.loss not in losses
