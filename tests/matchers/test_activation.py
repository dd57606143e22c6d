"""Activation matching, against correlations by hand and on networks with shared streams, convolutions and heads."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

import rebasin_core as rc
from rebasin_core.errors import ConfigError, InvalidInputError


def test_one_layer_is_solved_by_the_correlations() -> None:
    architecture = rc.architectures.MLPArchitecture(hidden=[7])
    first, second = (
        architecture.build((5,), 3, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1)
    )
    x = torch.randn(90, 5, generator=torch.Generator().manual_seed(2)).double()
    data = [(part, torch.zeros(len(part))) for part in x.split(40)]
    found = rc.match(first, second, architecture.spec(first), "activation", task=rc.Task(first, data))
    z = [(x @ dict(m.named_parameters())["layers.0.weight"].T).T.detach() for m in (first, second)]
    correlation = torch.corrcoef(torch.cat(z))[:7, 7:]
    expected = linear_sum_assignment(correlation.numpy(), maximize=True)[1]
    assert found.permutation.indices["hidden.0"].tolist() == expected.tolist()
    assert found.objective == pytest.approx(correlation[range(7), expected].sum().item())


def test_gradients_are_those_of_autograd() -> None:
    architecture = rc.architectures.MLPArchitecture(hidden=[7, 6])
    models = [architecture.build((5,), 3, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1)]
    x = torch.randn(90, 5, generator=torch.Generator().manual_seed(2)).double()
    y = torch.arange(90) % 3
    data = list(zip(x.split(40), y.split(40), strict=True))
    found = rc.match(models[0], models[1], architecture.spec(models[0]), "gradient", task=rc.Task(models[0], data))
    gradients = []
    for model in models:
        w = dict(model.named_parameters())
        outputs = (x @ w["layers.0.weight"].T + w["layers.0.bias"]).detach().requires_grad_()
        deeper = outputs.relu() @ w["layers.1.weight"].T + w["layers.1.bias"]
        logits = deeper.relu() @ w["layers.2.weight"].T + w["layers.2.bias"]
        loss = nn.functional.cross_entropy(logits, y, reduction="sum")
        gradients.append(torch.autograd.grad(loss, (outputs, deeper)))
    for layer, size in enumerate((7, 6)):
        correlation = torch.corrcoef(torch.cat([g[layer].T for g in gradients]))[:size, size:].nan_to_num()
        expected = linear_sum_assignment(correlation.numpy(), maximize=True)[1]
        index = found.permutation.indices[f"hidden.{layer}"]
        assert correlation[range(size), index].sum() == pytest.approx(correlation[range(size), expected].sum().item())
    assert all(p.grad is None for p in models[0].parameters())


@pytest.mark.parametrize("matcher", ["activation", "gradient"])
@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        (rc.architectures.CifarResNetArchitecture(depth=8, norm="batch"), (3, 16, 16)),
        (rc.architectures.ViTArchitecture(width=16, heads=2, depth=1, patch=8), (3, 16, 16)),
    ],
    ids=["residual", "heads"],
)
def test_planted_permutations_of_deep_networks(
    architecture: rc.Architecture, shape: tuple[int, ...], matcher: str
) -> None:
    model = architecture.build(shape, 10, generator=torch.Generator().manual_seed(0)).eval()
    spec = architecture.spec(model)
    planted = spec.random_permutation(generator=torch.Generator().manual_seed(1))
    x = torch.randn(64, *shape, generator=torch.Generator().manual_seed(2))
    permuted = planted.apply(model)
    found = rc.match(model, permuted, spec, matcher, task=rc.Task(model, [(x, torch.arange(64) % 10)]))
    assert found.permutation == planted.inverse()


def test_constant_units_have_zero_correlation() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        dict(model.named_parameters())["0.weight"][1] = 0
    spec = rc.table_spec({"0.weight": "a, -", "0.bias": "a", "2.weight": "-, a", "2.bias": "-"}, model)
    data = [(torch.randn(30, 3), torch.zeros(30))]
    assert rc.match(model, model, spec, "activation", task=rc.Task(model, data)).permutation.is_identity


def test_small_gradients_are_compared_like_large_ones() -> None:
    architecture = rc.architectures.MLPArchitecture(hidden=[7])
    model = architecture.build((5,), 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        dict(model.named_parameters())["layers.1.bias"].add_(
            torch.tensor([25.0, 0.0, 0.0])
        )  # confident predictions: gradients of 1e-10
    spec = architecture.spec(model)
    planted = spec.random_permutation(generator=torch.Generator().manual_seed(1))
    data = [(torch.randn(90, 5, generator=torch.Generator().manual_seed(2)), torch.zeros(90).long())]
    found = rc.match(model, planted.apply(model), spec, "gradient", task=rc.Task(model, data))
    assert found.permutation == planted.inverse()


def test_missing_inputs_are_reported() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    spec = rc.table_spec({"0.weight": "a, -", "0.bias": "a", "2.weight": "-, a", "2.bias": "-"}, model)
    with pytest.raises(InvalidInputError, match="pass `task`"):
        rc.match(model, model, spec, "activation")
    frozen = rc.table_spec(dict.fromkeys(["0.weight", "2.weight"], "-, -") | {"0.bias": "-", "2.bias": "-"}, model)
    data = [(torch.zeros(2, 3), torch.zeros(2).long())]
    for name in ("activation", "gradient"):
        # All axes are fixed, so the identity is the only permutation; every other matcher returns it, too.
        assert rc.match(model, model, frozen, name, task=rc.Task(model, data)).permutation.is_identity
    rows = {"0.weight": "-, a", "0.bias": "-", "2.weight": "-, -", "2.bias": "-"}
    inputs = rc.table_spec(rows, model)  # no product computes these units
    with pytest.raises(InvalidInputError, match="use `weight`"):
        rc.match(model, model, inputs, "activation", task=rc.Task(model, data))


@pytest.mark.parametrize("name", sorted(rc.default_registry().names("matcher")))
def test_every_matcher_returns_the_identity_if_all_axes_are_fixed(name: str) -> None:
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    data = [(inputs, torch.arange(8) % 2)]
    for layers in ([nn.Linear(3, 2)], [nn.Linear(3, 1), nn.Tanh(), nn.Linear(1, 2)]):
        first, second = nn.Sequential(*layers), nn.Sequential(*layers)
        spec = rc.trace_spec(first, inputs)
        posteriors = [
            rc.posteriors.DiagonalGaussianPosterior(q.mean, {n: t.abs() + 0.1 for n, t in q.mean.items()})
            for q in (rc.as_posterior(first), rc.as_posterior(second))
        ]
        found = rc.match(posteriors[0], posteriors[1], spec, name, task=rc.Task(first, data))
        assert found.permutation.is_identity
        assert found.objective >= found.identity_objective
    with pytest.raises(ConfigError, match="metric: expected 'correlation' or 'covariance', got 'cosine'"):
        rc.matchers.ActivationMatcher(metric="cosine")
