"""Training by IVON, compared with exact posteriors and with a loop of the library; needs ivon-opt."""

import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch

import rebasin_core as rc

pytest.importorskip("ivon", reason="ivon-opt is not installed")
pytest.importorskip("rebasin_ivon", reason="rebasin-ivon is not installed")

import ivon
from rebasin_ivon import IVONInference

from rebasin_core.errors import ConfigError, DivergenceError, PluginError
from rebasin_core.inference import ScheduleSpec
from rebasin_core.testing import Check, conformance_checks

Batches = list[tuple[torch.Tensor, torch.Tensor]]


@pytest.mark.parametrize("check", conformance_checks("rebasin-ivon"), ids=str)
def test_law_holds(check: Check) -> None:
    check.run()


def regression(*sizes: int) -> Batches:
    """Return observations 1 of each of two weights, five of each."""
    inputs = torch.eye(2).double().repeat(5, 1)
    return [(part, torch.ones(len(part), 1).double()) for part in inputs.split(list(sizes))]


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_the_posterior_is_the_exact_one_of_regression(temperature: float) -> None:
    precision = 5 + 1 / 0.3**2
    mean, stddev = 5 / precision, (temperature / precision) ** 0.5
    method = IVONInference(
        epochs=600, learning_rate=0.05, prior_scale=0.3, temperature=temperature, samples=4, hessian_momentum=0.99,
        schedule=ScheduleSpec(name="CosineAnnealingLR", T_max=600),
    )  # fmt: skip
    model = torch.nn.Linear(2, 1, bias=False).double()
    found = method.fit(model, regression(8, 2), likelihood=rc.evaluation.GaussianLikelihood(scale=1.0)).posterior
    torch.testing.assert_close(found.mean["weight"], torch.full((1, 2), mean).double(), rtol=0, atol=0.35 * stddev)
    torch.testing.assert_close(found.stddev["weight"], torch.full((1, 2), stddev).double(), rtol=0.25, atol=0)


def test_training_equals_a_loop_of_the_library() -> None:
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(8, 3, generator=generator), torch.arange(8) % 2) for _ in range(3)]
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    method = IVONInference(epochs=4, learning_rate=0.2, prior_scale=0.5, samples=2, initial_hessian=0.3)
    found = method.fit(model, data, generator=torch.Generator().manual_seed(7)).posterior

    with torch.random.fork_rng():
        torch.manual_seed(7)
        optimizer = ivon.IVON(
            model.parameters(), lr=0.2, ess=24, hess_init=0.3, beta2=0.999, weight_decay=1 / (24 * 0.25), mc_samples=2
        )
        for inputs, targets in data * 4:
            for _ in range(2):
                with optimizer.sampled_params(train=True):
                    optimizer.zero_grad()
                    torch.nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    expected = rc.as_posterior(optimizer, model=model)
    for name, tensor in expected.mean.items():
        torch.testing.assert_close(found.mean[name], tensor, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.stddev[name], expected.stddev[name], rtol=1e-4, atol=1e-6)


def test_a_parameter_without_influence_keeps_its_prior() -> None:
    class Unused(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = torch.nn.Linear(2, 1, bias=False)
            self.unused = torch.nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.used(x)
            return out

    method = IVONInference(epochs=2000, prior_scale=0.3, hessian_momentum=0.9, learning_rate=0.05)
    data = regression(10)
    found = method.fit(Unused().double(), data, likelihood=rc.evaluation.GaussianLikelihood(scale=1.0)).posterior
    torch.testing.assert_close(found.stddev["unused"], torch.full((3,), 0.3).double(), rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IVONInference(learning_rate=0), "learning_rate: expected a value greater than 0, got 0"),
        (lambda: IVONInference(momentum=1), "momentum: expected a value less than 1, got 1"),
        (lambda: IVONInference(temperature=float("inf")), "temperature"),
        (lambda: IVONInference(beta1=0.9), "beta1: unknown option"),
    ],
)
def test_invalid_options_raise(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_divergence_raises() -> None:
    data = [(torch.ones(4, 2), torch.ones(4, 1))]
    with pytest.raises(DivergenceError, match="set `clip_radius`"):
        IVONInference(learning_rate=1e30).fit(torch.nn.Linear(2, 1), data, likelihood="gaussian")


@pytest.mark.parametrize("library", [None, ModuleType("ivon")], ids=["missing", "another"])
def test_a_missing_library_is_named(library: ModuleType | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ivon", library)
    with pytest.raises(PluginError, match="pip install ivon-opt"):
        IVONInference().fit(torch.nn.Linear(1, 2), [(torch.ones(8, 1), torch.zeros(8, dtype=torch.int64))])
