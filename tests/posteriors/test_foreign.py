"""Objects and files of other libraries: synthetic ones, and real ones if the libraries are installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.testing.examples.foreign import stand_in

SOFT = torch.nn.functional.softplus


def bayesian(names: dict[str, str], *, copies: dict[str, str] | None = None) -> dict[str, torch.Tensor]:
    """Return a state dict with a Bayesian layer `fc` and a deterministic layer `out`."""
    generator = torch.Generator().manual_seed(0)
    weight, rho = torch.randn(3, 2, generator=generator), torch.randn(3, 2, generator=generator)
    tensors = {f"fc.{names['mean']}": weight, f"fc.{names['scale']}": rho}
    tensors |= {f"fc.{copy}": torch.full((3, 2), 9.0) for copy in (copies or {})}
    return {**tensors, "out.weight": torch.ones(1, 3), "norm.running_mean": torch.zeros(3)}


LAYOUTS: dict[str, tuple[dict[str, str], dict[str, str], Callable[[torch.Tensor], torch.Tensor]]] = {
    "bayesian-torch": ({"mean": "mu_weight", "scale": "rho_weight"}, {"eps_weight": ""}, SOFT),
    "bayesian-torch convolution": ({"mean": "mu_kernel", "scale": "rho_kernel"}, {}, SOFT),
    "torch-uncertainty": (
        {"mean": "weight_mu", "scale": "weight_sigma"},
        {"weight_sampler.mu": "", "weight_sampler.sigma": ""},
        SOFT,
    ),
    "blitz": ({"mean": "weight_sampler.mu", "scale": "weight_sampler.rho"}, {"weight_mu": "", "weight_rho": ""}, SOFT),
    "torchbnn": ({"mean": "weight_mu", "scale": "weight_log_sigma"}, {}, torch.exp),
}


@pytest.mark.parametrize("library", LAYOUTS)
def test_bayesian_layers_have_the_names_of_the_deterministic_network(library: str) -> None:
    names, copies, function = LAYOUTS[library]
    state = bayesian(names, copies=copies)
    posterior = rc.posteriors.from_state_dict(state)
    assert isinstance(posterior, rc.posteriors.DiagonalGaussianPosterior)
    assert posterior.random_names == ("fc.weight",)
    assert set(posterior.mean) == {"fc.weight", "out.weight"}
    assert set(posterior.buffers) == {"norm.running_mean"}
    assert torch.equal(posterior.mean["fc.weight"], state[f"fc.{names['mean']}"])
    assert torch.equal(posterior.stddev["fc.weight"], function(state[f"fc.{names['scale']}"]))


@pytest.mark.parametrize("wrapped", [False, True])
def test_swag_statistics_give_the_covariance_of_the_paper(*, wrapped: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    iterates = torch.randn(6, 3, 2, generator=generator)
    mean, squares = iterates.mean(0), iterates.square().mean(0)
    deviations = (iterates - mean).flatten(1)[:4]
    if wrapped:
        prefix = "swag_stats.fc.weight"
        state = {f"{prefix}_mean": mean, f"{prefix}_sq_mean": squares, f"{prefix}_covariance_sqrt": deviations}
    else:
        state = {
            "base.fc.weight_mean": mean,
            "base.fc.weight_sq_mean": squares,
            "base.fc.weight_cov_mat_sqrt": deviations,
            "base.norm.running_mean": torch.zeros(3),
            "n_models": torch.tensor([6]),
        }
    posterior = rc.posteriors.from_state_dict(state)
    assert isinstance(posterior, rc.posteriors.LowRankGaussianPosterior)
    assert posterior.random_names == ("fc.weight",)
    expected = 0.5 * torch.diag((squares - mean.square()).flatten()) + 0.5 * deviations.T @ deviations / 3
    torch.testing.assert_close(posterior.covariance(), expected, rtol=1e-4, atol=1e-6)
    assert set(posterior.buffers) == (set() if wrapped else {"norm.running_mean"})


def test_an_averaged_model_is_a_point_mass() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    averaged = torch.optim.swa_utils.AveragedModel(model)
    posterior = rc.as_posterior(averaged)
    assert isinstance(posterior, rc.posteriors.PointPosterior)
    assert set(posterior.mean) == {name for name, _ in model.named_parameters()}
    assert set(posterior.buffers) == {name for name, _ in model.named_buffers()}


def test_an_optimizer_without_names_requires_the_model() -> None:
    model = nn.Linear(2, 3)
    group = {"params": list(model.parameters()), "hess": torch.ones(9), "ess": 100.0, "weight_decay": 1e-3}
    ivon = stand_in("ivon._ivon", "IVON")(param_groups=[group])
    with pytest.raises(rc.RebasinError, match="expected `model` for IVON"):
        rc.as_posterior(ivon)
    with pytest.raises(rc.RebasinError, match="expected the model that IVON optimizes, got one without 2 of its"):
        rc.as_posterior(ivon, model=nn.Linear(2, 3))
    del group["hess"]
    with pytest.raises(rc.RebasinError, match=r"expected \['hess'\] in the parameter groups of IVON"):
        rc.as_posterior(ivon, model=model)


def test_layers_of_an_unknown_version_raise() -> None:
    layer = stand_in("bayesian_torch.layers.linear", "LinearReparameterization", nn.Module)()
    layer.register_parameter("center_weight", nn.Parameter(torch.zeros(3, 2)))
    with pytest.raises(rc.RebasinError, match="layers of bayesian-torch, got none; the version of the library"):
        rc.as_posterior(nn.Sequential(layer))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"fc.weight": torch.zeros(2)}, "or SWAG, got tensors named `fc.weight`"),
        (
            {"a.mu_weight": torch.zeros(2), "a.rho_weight": torch.zeros(2), "b.mu_weight": torch.zeros(2)},
            "expected `b.rho_weight` for the mean `b.mu_weight`",
        ),
        (
            {"w_mean": torch.zeros(2), "w_sq_mean": torch.zeros(2), "v_sq_mean": torch.zeros(2)},
            r"got incomplete ones of \['v'\]",
        ),
    ],
)
def test_state_dicts_that_cannot_be_read_raise(state: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(rc.RebasinError, match=message):
        rc.posteriors.from_state_dict(state)


def test_writing_back_to_a_module_raises() -> None:
    model = nn.Linear(2, 3)
    with pytest.raises(rc.RebasinError, match="but not write to it"):
        rc.write_back(model, rc.as_posterior(model))


def test_stacked_samples_of_another_program(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    arrays: dict[str, Any] = {
        f"net.{n}": np.random.default_rng(0).normal(size=(2, 5, *p.shape)) for n, p in model.named_parameters()
    }
    np.savez(tmp_path / "chains.npz", **arrays)
    posterior = rc.posteriors.load_samples(tmp_path / "chains.npz", model=model, prefix="net.")
    assert posterior.num_samples == 10
    assert posterior.chains.tolist() == [0] * 5 + [1] * 5
    assert torch.equal(posterior.samples["0.weight"][7], torch.from_numpy(arrays["net.0.weight"][1, 2]))
    only_last: dict[str, Any] = {"1.weight": arrays["net.1.weight"][0]}
    np.savez(tmp_path / "last.npz", **only_last)
    partly = rc.posteriors.load_samples(tmp_path / "last.npz", model=model)
    assert partly.random_names == ("1.weight",)
    np.savez(tmp_path / "objects.npz", w=np.array([object()], dtype=object))
    with pytest.raises(rc.RebasinError, match=r"Expected an \.npz"):
        rc.posteriors.load_samples(tmp_path / "objects.npz")
    np.savez(tmp_path / "other.npz", lost=np.zeros((3, 2)))
    with pytest.raises(rc.RebasinError, match=r"expected parameters of the model .*, got \['lost'\]"):
        rc.posteriors.load_samples(tmp_path / "other.npz", model=model)
    shape: dict[str, Any] = {"0.weight": np.zeros((3, 7))}
    np.savez(tmp_path / "shape.npz", **shape)
    with pytest.raises(rc.RebasinError, match=r"`0.weight` has shape \(3, 7\)"):
        rc.posteriors.load_samples(tmp_path / "shape.npz", model=model)


def test_real_layers_of_bayesian_torch() -> None:
    library: Any = pytest.importorskip("bayesian_torch.models.dnn_to_bnn", reason="bayesian-torch is not installed")
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    options = {"prior_mu": 0.0, "prior_sigma": 1.0, "posterior_mu_init": 0.0, "posterior_rho_init": -3.0}
    library.dnn_to_bnn(model, {**options, "type": "Reparameterization", "moped_enable": False, "moped_delta": 0.5})
    posterior = rc.as_posterior(model)
    assert isinstance(posterior, rc.posteriors.DiagonalGaussianPosterior)
    assert set(posterior.random_names) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([model(x) for _ in range(4000)])
    plain = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    samples = posterior.sample((4000,), generator=torch.Generator().manual_seed(0))
    outputs = torch.vmap(lambda tensors: torch.func.functional_call(plain, tensors, (x,)))(samples)
    error = 5 * expected.std(0) / 4000**0.5 * 2**0.5
    assert bool(((outputs.mean(0) - expected.mean(0)).abs() < error).all())


def test_real_layers_of_blitz() -> None:
    library: Any = pytest.importorskip("blitz.modules", reason="blitz is not installed")
    layer = library.BayesianLinear(3, 2)
    posterior = rc.as_posterior(nn.Sequential(layer))
    assert torch.equal(posterior.mean["0.weight"], layer.weight_sampler.mu.detach())
    assert torch.allclose(posterior.stddev["0.weight"], torch.log1p(layer.weight_sampler.rho.detach().exp()))


def test_real_layers_of_torch_uncertainty() -> None:
    layers: Any = pytest.importorskip("torch_uncertainty.layers.bayesian", reason="torch-uncertainty is not installed")
    torch.manual_seed(0)
    layer = layers.BayesLinear(3, 2)
    posterior = rc.as_posterior(nn.Sequential(layer))
    sampled = torch.stack([layer(torch.eye(3)) for _ in range(4000)]).detach().std(0).T
    exact = (posterior.stddev["0.weight"].square() + posterior.stddev["0.bias"].square().unsqueeze(1)).sqrt()
    torch.testing.assert_close(sampled, exact, rtol=0.1, atol=0)


def test_real_swag_of_torch_uncertainty() -> None:
    methods: Any = pytest.importorskip("torch_uncertainty.methods", reason="torch-uncertainty is not installed")
    torch.manual_seed(0)
    core = nn.Linear(3, 2)
    wrapped = methods.SWAG(core, cycle_start=0, cycle_length=1, max_num_models=4)
    for epoch in range(6):
        with torch.no_grad():
            for parameter in core.parameters():
                parameter.add_(torch.randn_like(parameter))
        wrapped.update_wrapper(epoch)
    posterior = rc.as_posterior(wrapped)
    assert isinstance(posterior, rc.posteriors.LowRankGaussianPosterior)
    moments = {
        name.removeprefix("model.swag_stats."): t.flatten()
        for name, t in wrapped.swag_stats.items()
        if "cov" not in name
    }
    factor = wrapped.swag_stats["model.swag_stats.weight_covariance_sqrt"].T
    mean, squares = moments["weight_mean"], moments["weight_sq_mean"]
    torch.testing.assert_close(posterior.mean["weight"].flatten(), mean)
    variance = (squares - mean.square()).clamp_min(1e-6) / 2 + factor.square().sum(1) / (2 * (factor.shape[1] - 1))
    torch.testing.assert_close(posterior.stddev["weight"].flatten().square(), variance, rtol=1e-4, atol=1e-6)


def test_real_ivon_is_read_and_written() -> None:
    library: Any = pytest.importorskip("ivon", reason="ivon-opt is not installed")
    model = nn.Linear(3, 2)
    optimizer = library.IVON(model.parameters(), lr=0.1, ess=50.0)
    for _ in range(3):
        with optimizer.sampled_params(train=True):
            model(torch.ones(4, 3)).square().mean().backward()
        optimizer.step()
    posterior = rc.as_posterior(optimizer, model=model)
    assert isinstance(posterior, rc.posteriors.DiagonalGaussianPosterior)
    spec = rc.table_spec({"weight": "units, -", "bias": "units"}, posterior.mean)
    permuted = posterior.permute(spec.random_permutation(generator=torch.Generator().manual_seed(1)))
    rc.write_back(optimizer, permuted, model=model)
    assert torch.equal(model.weight.detach(), permuted.mean["weight"])
    restored = rc.as_posterior(optimizer, model=model)
    torch.testing.assert_close(restored.stddev["weight"], permuted.stddev["weight"])


def test_real_guides_of_pyro() -> None:
    pyro: Any = pytest.importorskip("pyro", reason="pyro is not installed")
    guides: Any = pytest.importorskip("pyro.infer.autoguide")

    def model() -> None:
        for name, shape in {"net.weight": (2, 3), "net.bias": (2,)}.items():
            prior = pyro.distributions.Normal(torch.zeros(shape), 1.0).to_event(len(shape))
            pyro.sample(name, prior)

    low_rank = guides.AutoLowRankMultivariateNormal(model, rank=2)
    low_rank()
    posterior = rc.as_posterior(low_rank, model=nn.Linear(3, 2))
    assert isinstance(posterior, rc.posteriors.LowRankGaussianPosterior)
    assert posterior.random_names == ("weight", "bias")
    exact = low_rank.get_posterior().covariance_matrix
    torch.testing.assert_close(posterior.covariance(), exact.detach(), rtol=1e-4, atol=1e-6)
    normal = guides.AutoNormal(model)
    normal()
    assert torch.equal(rc.as_posterior(normal, model=nn.Linear(3, 2)).stddev["bias"], normal.scales.net.bias.detach())
