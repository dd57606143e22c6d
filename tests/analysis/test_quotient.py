"""Samples, chains and networks modulo their symmetries."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.posteriors.summary import SummaryKind
from rebasin_core.testing.cases import gaussian, network


def scrambled(count: int = 5, *, noise: float = 0.05) -> tuple[rc.posteriors.SamplesPosterior, list[rc.Permutation]]:
    """Return noisy copies of one network, each permuted, and the permutations."""
    case = network()
    generator = torch.Generator().manual_seed(3)
    elements = [case.spec.random_permutation(generator=generator) for _ in range(count)]
    base = {name: p.detach() for name, p in case.model.named_parameters()}
    permuted = [
        g.apply({n: t + noise * torch.randn(t.shape, generator=generator, dtype=t.dtype) for n, t in base.items()})
        for g in elements
    ]
    return rc.posteriors.SamplesPosterior({n: torch.stack([p[n] for p in permuted]) for n in base}), elements


@pytest.mark.parametrize("reference", [None, 2])
def test_permuted_copies_are_aligned_jointly(reference: int | None) -> None:
    samples, elements = scrambled()
    found = rc.align_samples(samples, network().spec, reference=reference)
    order = [g.compose(p) for g, p in zip(elements, found.permutations, strict=True)]
    assert all(p == order[0] for p in order), "all copies have the same order"
    assert found.mean_squared_distances[-1] < 0.1 * found.mean_squared_distances[0]


def test_alignments_are_cycle_consistent() -> None:
    samples, _ = scrambled(4)
    p = rc.align_samples(samples, network().spec).permutations
    cycle: rc.GroupElement = network().spec.identity()
    for a, b in ((0, 1), (1, 2), (2, 3), (3, 0)):
        cycle = cycle.compose(p[a].compose(p[b].inverse()))
    assert cycle.is_identity


def two_chains() -> tuple[rc.posteriors.SamplesPosterior, rc.PermutationSpec, rc.Permutation]:
    """Return four samples each of two chains around similar networks, and the permutation of the second chain."""
    architecture = rc.architectures.MLPArchitecture(hidden=[16, 16])
    generator = torch.Generator().manual_seed(0)
    model = architecture.build((6,), 3, generator=generator).double()
    spec = architecture.spec(model)
    first = {name: p.detach() for name, p in model.named_parameters()}

    def noise(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.std() * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)

    planted = spec.random_permutation(generator=generator)
    similar = {name: 0.7 * tensor + math.sqrt(1 - 0.7**2) * noise(tensor) for name, tensor in first.items()}
    draws = [
        {name: tensor + 0.02 * noise(tensor) for name, tensor in center.items()}
        for center in (first, planted.apply(similar))
        for _ in range(4)
    ]
    samples = {name: torch.stack([draw[name] for draw in draws]) for name in first}
    return rc.posteriors.SamplesPosterior(samples), spec, planted


def test_chains_are_aligned_although_samples_of_one_chain_dominate_the_barycenter_of_the_others() -> None:
    samples, spec, planted = two_chains()
    stuck = rc.match_many(samples, spec)
    assert all(permutation.is_identity for permutation in stuck.permutations)
    found = rc.align_samples(samples, spec)
    for k in range(4):
        assert found.permutations[k] == found.permutations[0]
        relative = found.permutations[4 + k].compose(found.permutations[0].inverse())
        assert relative == planted.inverse()
    assert found.mean_squared_distances[-1] < 0.5 * stuck.trace[-1]


def test_the_best_start_is_the_better_of_both() -> None:
    samples, spec, _ = two_chains()
    for given in (samples, scrambled()[0]):
        layout = spec if given is samples else network().spec
        last = {start: rc.match_many(given, layout, start=start).trace[-1] for start in ("identity", "first")}
        best = rc.match_many(given, layout, start="best")
        assert best.trace[-1] == pytest.approx(min(last.values()))
        assert all(b <= a + 1e-9 for a, b in zip(best.trace[1:], best.trace[2:], strict=False))


def test_an_unknown_start_is_an_error() -> None:
    samples, spec, _ = two_chains()
    with pytest.raises(
        rc.errors.InvalidInputError, match=r"expected `start` among .*'identity', 'first', 'best'.* got 'greedy'"
    ):
        rc.match_many(samples, spec, start="greedy")  # type: ignore[arg-type] # the error is tested


def test_alignment_preserves_the_predictive() -> None:
    samples, _ = scrambled()
    case = network()
    aligned = rc.align_samples(samples, case.spec).samples
    losses = [rc.barrier(q, q, rc.Task(case.model, case.data), num_points=3).loss[0] for q in (samples, aligned)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)


@pytest.mark.parametrize("kind", ["diagonal_gaussian", "low_rank_gaussian", "full_gaussian"])
def test_summary_has_the_moments_of_the_aligned_samples(kind: SummaryKind) -> None:
    samples, _ = scrambled(8)
    summary = rc.summarize(samples, network().spec, kind=kind, rank=3)
    assert summary.posterior.kind == kind
    for name, tensor in summary.aligned.samples.stddev.items():
        torch.testing.assert_close(summary.posterior.mean[name], summary.aligned.samples.mean[name])
        torch.testing.assert_close(summary.posterior.stddev[name], tensor)


def test_the_summary_of_aligned_samples_predicts_better_than_that_of_unaligned_ones() -> None:
    case = network()
    model = rc.inference.MAPInference(epochs=60, optimizer=rc.inference.OptimizerSpec(name="Adam", lr=0.05)).fit(
        case.model, case.data
    )
    trained = model.posterior
    generator = torch.Generator().manual_seed(0)
    copies = [
        case.spec.random_permutation(generator=generator).apply({
            n: t + 0.02 * torch.randn(t.shape, generator=generator, dtype=t.dtype) for n, t in trained.mean.items()
        })
        for _ in range(8)
    ]
    aligned = rc.summarize(copies, case.spec).posterior
    plain = rc.posteriors.SamplesPosterior({n: torch.stack([c[n] for c in copies]) for n in trained.mean})
    naive = rc.posteriors.DiagonalGaussianPosterior(plain.mean, plain.stddev)
    loss = [rc.barrier(q, q, rc.Task(case.model, case.data), num_points=3).loss[0] for q in (aligned, naive)]
    assert loss[0] < 0.5 * loss[1]


def test_alignment_reduces_rhat_of_permuted_chains_to_one() -> None:
    pytest.importorskip("arviz_stats", reason="ArviZ is not installed")
    samples, _ = scrambled(40)
    chains = torch.arange(40) // 10
    case = network()
    # Each chain has one permutation, as for a sampler that never jumps between modes.
    base = {name: p.detach() for name, p in case.model.named_parameters()}
    generator = torch.Generator().manual_seed(5)
    orders = [case.spec.random_permutation(generator=generator) for _ in range(4)]
    draws = [
        orders[int(k)].apply({
            n: t + 0.05 * torch.randn(t.shape, generator=generator, dtype=t.dtype) for n, t in base.items()
        })
        for k in chains
    ]
    stuck = rc.posteriors.SamplesPosterior({n: torch.stack([d[n] for d in draws]) for n in base}, chains=chains)
    aligned = rc.align_samples(stuck, case.spec)
    assert isinstance(aligned.samples, rc.posteriors.SamplesPosterior)
    before, after = rc.analysis.diagnose_chains(stuck), rc.analysis.diagnose_chains(aligned.samples)
    assert before.quantiles()[1] > 1.5
    assert after.quantiles()[1] < 1.1
    assert after.quantiles("ess")[1] > 2 * before.quantiles("ess")[1]
    assert before.autocorrelation[0] == pytest.approx(1.0)
    within = [
        rc.analysis.count_transpositions(p.compose(q.inverse()))
        for p, q in zip(aligned.permutations, aligned.permutations[1:], strict=False)
    ]
    assert [n > 0 for n in within] == [k % 10 == 9 for k in range(39)]
    with pytest.raises(rc.RebasinError, match="at least two chains"):
        rc.analysis.diagnose_chains(samples)


@pytest.mark.parametrize("reference", [None, 0])
@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid"])
def test_alignment_modulo_the_whole_group_reduces_rhat_of_equivalent_chains_to_one(
    activation: str, reference: int | None
) -> None:
    pytest.importorskip("arviz_stats", reason="ArviZ is not installed")
    torch.manual_seed(0)
    unit = {"tanh": nn.Tanh(), "relu": nn.ReLU(), "sigmoid": nn.Sigmoid()}[activation]
    model = nn.Sequential(nn.Linear(4, 6), unit, nn.Linear(6, 2)).double()
    spec = rc.trace_spec(model, torch.randn(3, 4, dtype=torch.float64))
    generator = torch.Generator().manual_seed(5)
    elements = [rc.SymmetryElement.random(spec.symmetry, generator=generator) for _ in range(4)]
    chains = torch.arange(32) // 8
    draws = [
        elements[int(chain)].apply({
            n: p.detach() + 0.03 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
            for n, p in model.named_parameters()
        })
        for chain in chains
    ]
    samples = rc.posteriors.SamplesPosterior({n: torch.stack([d[n] for d in draws]) for n in draws[0]}, chains=chains)
    medians: dict[str, float] = {}
    for symmetry in ("permutation", "full"):
        aligned = rc.align_samples(samples, spec, symmetry=symmetry, reference=reference, max_rounds=2)
        assert isinstance(aligned.samples, rc.posteriors.SamplesPosterior)
        medians[symmetry] = rc.analysis.diagnose_chains(aligned.samples).quantiles()[1]
        distances = rc.analysis.chain_distances(aligned.samples)
        if symmetry == "full":
            assert distances[0, 1] < 1.2 * distances[0, 0]
    assert medians["permutation"] > 1.4
    assert medians["full"] < 1.1


def test_symmetries_are_an_option_of_some_matchers_only() -> None:
    samples, _ = scrambled(3)
    with pytest.raises(rc.RebasinError, match="`symmetry` is an option of the matchers `weight`"):
        rc.align_samples(samples, network().spec, matcher="gradient", symmetry="full")


def test_transpositions_are_counted() -> None:
    spec = rc.table_spec({"w": "units"}, {"w": torch.zeros(5)})
    cycle = rc.Permutation(spec.layout, {"units": torch.tensor([1, 2, 0, 4, 3])})
    assert rc.analysis.count_transpositions(cycle) == 3


def test_information_of_separate_modes_is_the_logarithm_of_the_group_order() -> None:
    spec = rc.table_spec({"w": "units"}, {"w": torch.zeros(4)})
    apart = rc.posteriors.DiagonalGaussianPosterior({"w": torch.arange(4.0)}, {"w": torch.full((4,), 0.01)})
    found = rc.analysis.permutation_information(apart, spec, num_samples=16, num_permutations=200)
    assert found.log_order == pytest.approx(math.log(24))
    # One in 24 uniform permutations is the identity, so the lower bound is nearly tight.
    assert found.lower == pytest.approx(math.log(24), abs=0.3)
    assert found.upper == pytest.approx(math.log(24), abs=1e-6)


def test_information_of_overlapping_modes_equals_a_quadrature() -> None:
    spec = rc.table_spec({"w": "units"}, {"w": torch.zeros(2)})
    mean = torch.tensor([0.0, 1.0])
    q = rc.posteriors.DiagonalGaussianPosterior({"w": mean}, {"w": torch.ones(2)})
    found = rc.analysis.permutation_information(q, spec, num_samples=400, num_permutations=12)
    # The symmetrized density is a mixture of two Gaussians whose means are sqrt(2) apart.
    z = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    shift = math.sqrt(2)
    one, other = (torch.distributions.Normal(m, 1.0).log_prob(z) for m in (0.0, shift))
    mixture = torch.logaddexp(one, other) - math.log(2)
    exact = torch.trapezoid(one.exp() * (one - mixture), z).item()
    assert found.lower == pytest.approx(exact, abs=5 * found.lower_stderr + 0.02)
    assert found.upper == pytest.approx(exact, abs=5 * found.upper_stderr + 0.01)


def test_information_requires_a_density() -> None:
    case = network()
    with pytest.raises(rc.RebasinError, match="has no density"):
        rc.analysis.permutation_information(rc.as_posterior(case.model), case.spec)


def test_bad_samples_are_errors() -> None:
    spec = network().spec
    single: Any = gaussian(0)
    with pytest.raises(rc.RebasinError, match="got none"):
        rc.align_samples([], spec)
    with pytest.raises(rc.RebasinError, match="expected `reference` from 0 to 4, got 9"):
        rc.align_samples(scrambled()[0], spec, reference=9)
    with pytest.raises(rc.RebasinError, match="got one `DiagonalGaussianPosterior`; put several networks into a list"):
        rc.align_samples(single, spec)
    with pytest.raises(rc.RebasinError, match="at least two samples"):
        rc.summarize(scrambled(1)[0], spec)


def test_the_invariant_elbo_exceeds_the_standard_elbo() -> None:
    case = network()
    still = rc.inference.OptimizerSpec(name="SGD", lr=1e-12)
    options: dict[str, Any] = {"epochs": 1, "estimator": "weights", "prior_scale": 1.0, "optimizer": still}
    data = [(torch.cat([x for x, _ in case.data]), torch.cat([y for _, y in case.data]))]
    plain = rc.inference.MeanFieldVI(**options).fit(case.model, data)
    method = rc.inference.MeanFieldVI(**options, num_permutations=8)
    bound = method.fit(case.model, data, spec=case.spec)
    # The information is at most log 9; the loss is a mean over 40 examples.
    assert 0 < plain.history[0] - bound.history[0] <= math.log(9) / 40 + 1e-6


def permuted_modules(count: int = 3) -> tuple[list[nn.Module], rc.PermutationSpec]:
    """Return permuted copies of one network with batch normalization."""
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        model(torch.randn(64, 4, generator=torch.Generator().manual_seed(0)).double())
    spec = rc.trace_spec(model.eval(), torch.zeros(2, 4).double())
    generator = torch.Generator().manual_seed(1)
    return [spec.random_permutation(generator=generator).apply(model) for _ in range(count)], spec


@pytest.mark.parametrize("form", ["points", "modules", "state_dicts"])
def test_align_samples_equals_match_many_for_all_forms_of_networks(form: str) -> None:
    modules, spec = permuted_modules()
    forms: dict[str, list[Any]] = {
        "points": [rc.as_posterior(module) for module in modules],
        "modules": list(modules),
        "state_dicts": [module.state_dict() for module in modules],
    }
    given = forms[form]
    found = rc.align_samples(given, spec)
    expected = rc.match_many(given, spec, matcher="weight", start="best", max_rounds=10)
    assert found.permutations == expected.permutations
    assert found.mean_squared_distances == pytest.approx(expected.trace)
    assert found.mean_squared_distances[-1] < 1e-12 < found.mean_squared_distances[0]
    assert isinstance(found.samples, rc.posteriors.SamplesPosterior)
    assert found.samples.buffers["1.num_batches_tracked"].item() == 1
    by_reference = rc.align_samples(given, spec, reference=1)
    assert by_reference.mean_squared_distances[-1] < 1e-12
    assert rc.summarize(given, spec).posterior.stddev["0.weight"].max() < 1e-7


def scrambled_gaussians(count: int = 3) -> list[rc.posteriors.LowRankGaussianPosterior]:
    """Return permuted copies of one low-rank Gaussian (SWAG)."""
    case = network()
    generator = torch.Generator().manual_seed(2)
    mean = {name: p.detach() for name, p in case.model.named_parameters()}
    diagonal = {n: 0.05 * torch.rand(t.shape, generator=generator).to(t) for n, t in mean.items()}
    factor = {n: 0.05 * torch.randn(2, *t.shape, generator=generator).to(t) for n, t in mean.items()}
    base = rc.posteriors.LowRankGaussianPosterior(mean, diagonal, factor)
    return [case.spec.random_permutation(generator=generator).apply(base) for _ in range(count)]


@pytest.mark.parametrize("reference", [None, 1])
@pytest.mark.parametrize("form", ["list", "mixture"])
def test_mixtures_of_gaussians_are_aligned(reference: int | None, form: str) -> None:
    case = network()
    parts = scrambled_gaussians()
    given: Any = (
        parts if form == "list" else rc.posteriors.MixturePosterior(parts, weights=torch.tensor([1.0, 2.0, 1.0]))
    )
    found = rc.align_samples(given, case.spec, reference=reference)
    assert isinstance(found.samples, rc.posteriors.MixturePosterior)
    assert found.mean_squared_distances[0] > 1.0
    assert found.mean_squared_distances[-1] == pytest.approx(0.0, abs=1e-12)
    first, *others = found.samples.components
    for other in others:
        assert rc.wasserstein_distance(first, other) < 1e-5, "the aligned components are equal"
    loss = [
        rc.score(q, rc.Task(case.model, case.data), num_samples=2000).nll
        for q in (rc.posteriors.MixturePosterior(parts), found.samples)
    ]
    assert loss[0] == pytest.approx(loss[1], abs=0.02)


@pytest.mark.parametrize("kind", ["diagonal_gaussian", "low_rank_gaussian", "full_gaussian"])
def test_the_summary_of_a_mixture_has_its_moments(kind: SummaryKind) -> None:
    case = network()
    parts = [*scrambled_gaussians(2), rc.posteriors.PointPosterior(scrambled_gaussians()[0].mean)]
    found = rc.summarize(
        rc.posteriors.MixturePosterior(parts, weights=torch.tensor([1.0, 2.0, 1.0])), case.spec, kind=kind, rank=2
    )
    mixture = found.aligned.samples
    assert found.posterior.kind == kind
    for name, tensor in mixture.stddev.items():
        torch.testing.assert_close(found.posterior.mean[name], mixture.mean[name])
        torch.testing.assert_close(found.posterior.stddev[name], tensor)


def test_the_full_summary_of_a_mixture_has_its_covariance() -> None:
    case = network()
    parts = scrambled_gaussians(2)
    found = rc.summarize(parts, case.spec, kind="full_gaussian")
    assert isinstance(found.posterior, rc.posteriors.FullGaussianPosterior)
    first, second = found.aligned.samples.components
    assert isinstance(first, rc.posteriors.LowRankGaussianPosterior)
    assert isinstance(second, rc.posteriors.LowRankGaussianPosterior)
    shift = (first.flat_mean() - second.flat_mean()) / 2
    expected = (first.covariance() + second.covariance()) / 2 + torch.outer(shift, shift)
    torch.testing.assert_close(found.posterior.covariance(), expected)


def test_an_unsupported_summary_is_an_error_with_its_reason() -> None:
    noise = rc.posteriors.UnitNoise((("layers.0.weight", 0),), "bernoulli", torch.full((5,), 0.5).double())
    mean = {name: p.detach() for name, p in network().model.named_parameters()}
    parts = [rc.posteriors.MultiplicativeNoisePosterior(mean, [noise])] * 2
    assert rc.summarize(parts, network().spec, kind="low_rank_gaussian").posterior.kind == "low_rank_gaussian"
    with pytest.raises(rc.RebasinError, match="got a component of kind 'multiplicative_noise'"):
        rc.summarize(parts, network().spec, kind="full_gaussian")
