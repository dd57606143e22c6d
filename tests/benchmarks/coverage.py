"""Coverage of confidence intervals from the stated Monte Carlo errors, compared with closed forms and quadrature.

For each case, sampler and number of samples: 200 independent repetitions of a loss, and of the signed excess along a
path. Prints Markdown. `--only loss|excess|trial` and `--cases` select parts.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import t as student
from tabulate import tabulate
from torch import Tensor, nn

import rebasin_core as rc
from rebasin_core.barriers import MarginalizedBarrier
from rebasin_core.evaluation import EvaluationOptions, Evaluator, GaussianLikelihood, Likelihood
from rebasin_core.posteriors import DiagonalGaussianPosterior

REPETITIONS, EXAMPLES, POINTS = 200, 60, 5
SAMPLES = (8, 16, 64, 256)
SAMPLERS = {
    # Same samples as `loop`, in less time.
    "weights": EvaluationOptions(method="vectorized"),
    "weights, antithetic": EvaluationOptions(method="vectorized", antithetic=True),
    "local": EvaluationOptions(method="local", antithetic=False),
    "local, antithetic (auto)": EvaluationOptions(),
    "local, antithetic, adaptive": EvaluationOptions(allocation="adaptive"),
}
LEVELS = (0.6827, 0.95)


@dataclass(frozen=True)
class Case:
    """Two Gaussian posteriors over one linear layer, with the exact loss of the predictive."""

    inputs: Tensor
    targets: Tensor
    means: tuple[Tensor, Tensor]
    stddevs: tuple[Tensor, Tensor]
    likelihood: Likelihood
    exact: Callable[[Tensor, Tensor], float]

    @property
    def task(self) -> rc.Task:
        model = nn.Linear(self.inputs.shape[1], len(self.means[0]), bias=False).double()
        return rc.Task(model, [(self.inputs, self.targets)], likelihood=self.likelihood)

    def at(self, t: float) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation on the 2-Wasserstein geodesic: both are linear in t."""
        mean, other_mean = self.means
        stddev, other_stddev = self.stddevs
        return (1 - t) * mean + t * other_mean, (1 - t) * stddev + t * other_stddev

    def loss(self, t: float) -> float:
        return self.exact(*self.at(t))

    @property
    def excess(self) -> float:
        """The largest excess at the interior points of the path."""
        points = [index / (POINTS - 1) for index in range(1, POINTS - 1)]
        return max(self.loss(t) - (1 - t) * self.loss(0.0) - t * self.loss(1.0) for t in points)

    def posterior(self, endpoint: int) -> DiagonalGaussianPosterior:
        return DiagonalGaussianPosterior({"weight": self.means[endpoint]}, {"weight": self.stddevs[endpoint]})


def linear(
    *, stddevs: tuple[float, float], residual: float, size: int = 5, scale: float = 0.3, shift: float = 0.0
) -> Case:
    """Regression: the predictive is Gaussian, and variances add up."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(EXAMPLES, size, generator=g).double()
    mean = torch.randn(1, size, generator=g).double()
    y = x @ mean.T + residual * scale * torch.randn(EXAMPLES, 1, generator=g).double()

    def exact(weight: Tensor, stddev: Tensor) -> float:
        variance = x.square() @ stddev.square().T + scale**2
        return (0.5 * (y - x @ weight.T).square() / variance + 0.5 * (2 * math.pi * variance).log()).mean().item()

    pair = tuple(torch.full_like(mean, value) for value in stddevs)
    return Case(x, y, (mean - shift, mean + shift), (pair[0], pair[1]), GaussianLikelihood(scale=scale), exact)


def classes(*, stddevs: tuple[float, float], slopes: tuple[float, float], noise: float) -> Case:
    """Two classes with one weight each: the logit difference is Gaussian; the predictive is a Gauss-Hermite sum."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(EXAMPLES, 1, generator=g).double()
    y = (x[:, 0] + noise * torch.randn(EXAMPLES, generator=g).double() > 0).long()
    rule = np.polynomial.hermite_e.hermegauss(200)
    nodes = torch.from_numpy(rule[0])
    weights = torch.from_numpy(rule[1])

    def exact(weight: Tensor, stddev: Tensor) -> float:
        sign = (2 * y - 1).double()
        mean = (weight[1] - weight[0]) * x[:, 0] * sign
        scale = stddev.square().sum().sqrt() * x[:, 0].abs()
        probability = torch.sigmoid(mean[:, None] + scale[:, None] * nodes) @ (weights / weights.sum())
        return -probability.log().mean().item()

    means = tuple(torch.tensor([[-slope / 2], [slope / 2]]).double() for slope in slopes)
    pair = tuple(torch.full((2, 1), value).double() for value in stddevs)
    return Case(x, y, (means[0], means[1]), (pair[0], pair[1]), Likelihood.of("categorical"), exact)


CASES = {
    "regression, easy": linear(stddevs=(0.05, 0.1), residual=1.0, shift=0.03),
    "regression, wide": linear(stddevs=(0.2, 0.4), residual=1.0, shift=0.1),
    "regression, residuals of 4 s.d.": linear(stddevs=(0.05, 0.1), residual=4.0),
    "classes, easy": classes(stddevs=(0.3, 0.6), slopes=(1.0, 3.0), noise=0.8),
    "classes, wide": classes(stddevs=(2.0, 4.0), slopes=(4.0, 12.0), noise=0.8),
}


@dataclass(frozen=True)
class Repetition:
    """The estimates of one repetition."""

    value: float
    stderr: float
    bias: float
    intervals: tuple[tuple[float, float], ...]
    warned: bool


def losses(case: Case, options: EvaluationOptions, samples: int) -> Iterator[Repetition]:
    posterior = case.posterior(1)
    for seed in range(REPETITIONS):
        found = Evaluator(case.task, posterior, num_samples=samples, seed=seed, options=options).loss(posterior)
        intervals = tuple(found.interval(level) for level in LEVELS)
        yield Repetition(found.loss, found.stderr, found.bias, intervals, bool(found.notes))


def excesses(case: Case, options: EvaluationOptions, samples: int) -> Iterator[Repetition]:
    endpoints = case.posterior(0), case.posterior(1)
    estimator = MarginalizedBarrier(num_points=POINTS, num_samples=samples, evaluation=options)
    for seed in range(REPETITIONS):
        curve = estimator.estimate(*endpoints, case.task, generator=torch.Generator().manual_seed(seed))
        intervals = tuple(curve.interval(level) for level in LEVELS)
        warned = any("error of the barrier cannot be trusted" in note for note in curve.notes)
        yield Repetition(curve.interior_excess, curve.interior_excess_stderr, curve.height_bias, intervals, warned)


def row(truth: float, repetitions: Sequence[Repetition]) -> list[str]:
    values = torch.tensor([one.value for one in repetitions], dtype=torch.float64)
    covered = [[low <= truth <= high for low, high in one.intervals] for one in repetitions]
    uncorrected = [abs(one.value - truth) < 1.96 * one.stderr for one in repetitions]
    missed = [not own[1] and not one.warned for own, one in zip(covered, repetitions, strict=True)]

    def percentage(flags: Sequence[bool]) -> str:
        return f"{100 * sum(flags) / len(flags):.0f}"

    return [
        f"{truth:.4f}",
        f"{values.mean().item() - truth:+.4f}",
        f"{sum(one.bias for one in repetitions) / len(repetitions):+.4f}",
        f"{values.std().item():.4f}",
        f"{torch.tensor([one.stderr for one in repetitions]).median().item():.4f}",
        percentage([own[0] for own in covered]),
        percentage([own[1] for own in covered]),
        percentage(uncorrected),
        percentage([one.warned for one in repetitions]),
        percentage(missed),
    ]


HEADERS = [
    "case", "sampler", "S", "truth", "bias", "stated bias", "s.d.", "stated s.e.", "68 %", "95 %", "95 %, uncorrected",
    "warned", "missed, no warning",
]  # fmt: skip


def table(quantity: str, cases: Sequence[str]) -> None:
    estimate = losses if quantity == "loss" else excesses
    rows = []
    for name in cases:
        case = CASES[name]
        truth = case.loss(1.0) if quantity == "loss" else case.excess
        for sampler, options in SAMPLERS.items():
            for samples in SAMPLES:
                rows.append([name, sampler, str(samples), *row(truth, list(estimate(case, options, samples)))])
                print(quantity, *rows[-1], sep=" | ", flush=True)
    print(f"\n### {quantity}\n")
    print(tabulate(rows, HEADERS, tablefmt="github", disable_numparse=True, colalign=("left", "left")), flush=True)


def log_likelihoods(case: Case, samples: int, generator: torch.Generator) -> Tensor:
    """Log likelihoods ``[S, N]`` of weight samples, computed without the library."""
    noise = torch.randn((samples, *case.means[1].shape), generator=generator).double()
    outputs = (case.means[1] + case.stddevs[1] * noise) @ case.inputs.T
    assert isinstance(case.likelihood, GaussianLikelihood)
    scale = case.likelihood.scale
    return -0.5 * ((case.targets[:, 0] - outputs[:, 0]) / scale).square() - math.log(scale * math.sqrt(2 * math.pi))


def value(logs: Tensor) -> Tensor:
    return (math.log(len(logs)) - torch.logsumexp(logs, 0)).mean()


def delta(logs: Tensor, _: torch.Generator) -> tuple[float, float]:
    shares = logs.softmax(0) * len(logs)
    return (shares.var(0).mean() / (2 * len(logs))).item(), shares.mean(1).std().item() / math.sqrt(len(logs))


def jackknife(logs: Tensor, _: torch.Generator) -> tuple[float, float]:
    count = len(logs)
    without = torch.stack([value(torch.cat([logs[:left], logs[left + 1 :]])) for left in range(count)])
    squares = (without - without.mean()).square().sum().item()
    return (count - 1) * (without.mean() - value(logs)).item(), math.sqrt((count - 1) / count * squares)


def grouped(logs: Tensor, generator: torch.Generator) -> tuple[float, float]:
    """Jackknife over eight groups of samples."""
    groups = torch.stack([torch.logsumexp(part, 0) for part in logs.chunk(8)])
    return jackknife(groups, generator)


def bootstrap(logs: Tensor, generator: torch.Generator) -> tuple[float, float]:
    resamples = torch.randint(len(logs), (200, len(logs)), generator=generator)
    values = torch.stack([value(logs[rows]) for rows in resamples])
    return (values.mean() - value(logs)).item(), values.std().item()


def cells(case: Case, samples: int) -> Iterator[str]:
    """Yield the true bias, then for each method its bias, its error relative to the true one, and the 95 % coverage."""
    g = torch.Generator().manual_seed(samples)
    repetitions = [log_likelihoods(case, samples, g) for _ in range(REPETITIONS)]
    values = torch.stack([value(logs) for logs in repetitions])
    truth = case.loss(1.0)
    yield f"{values.mean().item() - truth:+.4f}"
    for method in (delta, jackknife, grouped, bootstrap):
        pairs = torch.tensor([method(logs, g) for logs in repetitions], dtype=torch.float64)
        biases, errors = pairs.unbind(1)
        quantile = float(student.ppf(0.975, (8 if method is grouped else samples) - 1))
        coverage = ((values - biases - truth).abs() < quantile * errors).double().mean()
        yield f"{biases.mean():+.4f}, {errors.mean() / values.std():.2f}, {100 * coverage:.0f} %"


def trial(cases: Sequence[str]) -> None:
    """Compare estimates of bias and standard error on the same log likelihoods of weight samples."""
    rows = [
        [name, str(samples), *cells(CASES[name], samples)]
        for name in cases
        if name.startswith("regression")
        for samples in SAMPLES
    ]
    headers = ["case", "S", "bias", "delta method", "jackknife", "jackknife, 8 groups", "bootstrap"]
    print("\n### trial\n")
    print(tabulate(rows, headers, tablefmt="github", disable_numparse=True), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["trial", "loss", "excess"], action="append")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", rc.RebasinWarning)
    for part in arguments.only or ("trial", "loss", "excess"):
        if part == "trial":
            trial(arguments.cases)
        else:
            table(part, arguments.cases)


if __name__ == "__main__":
    main()
