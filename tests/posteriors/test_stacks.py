"""Posteriors over the experts of a module list: they are permuted as their samples are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import rebasin_core as rc
from rebasin_core.errors import InvalidInputError, NotClosedError
from rebasin_core.posteriors import (
    DiagonalGaussianPosterior,
    FullGaussianPosterior,
    GaussianPrior,
    KroneckerGaussianPosterior,
    LowRankGaussianPosterior,
    MixturePosterior,
    MultiplicativeNoisePosterior,
    PointPosterior,
    Posterior,
    SamplesPosterior,
    UnitNoise,
)
from rebasin_core.symmetry import SymmetryElement
from tests.symmetry.experts import TABLE, Mixture, element, tensors_of


def mean() -> dict[str, Tensor]:
    return tensors_of(Mixture())


def drawn(seed: int, *lead: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {name: torch.randn((*lead, *t.shape), generator=g, dtype=t.dtype) for name, t in mean().items()}


def positive(seed: int) -> dict[str, Tensor]:
    return {name: t.abs() + 0.1 for name, t in drawn(seed).items()}


def kronecker() -> KroneckerGaussianPosterior:
    g = torch.Generator().manual_seed(5)

    def factor(size: int) -> Tensor:
        root = torch.randn(size, size, generator=g, dtype=torch.float64)
        return root @ root.T

    factors = {n: [factor(size) for size in (t.shape[:1] + t.shape[1:])] for n, t in mean().items()}
    return KroneckerGaussianPosterior.from_precision_factors(mean(), factors)


def full() -> FullGaussianPosterior:
    return FullGaussianPosterior(mean(), drawn(8, sum(t.numel() for t in mean().values())))


POSTERIORS: dict[str, Callable[[], Posterior]] = {
    "point": lambda: PointPosterior(mean()),
    "diagonal": lambda: DiagonalGaussianPosterior(mean(), positive(1)),
    "low rank": lambda: LowRankGaussianPosterior(mean(), positive(2), drawn(3, 2)),
    "samples": lambda: SamplesPosterior(drawn(4, 3)),
    "kronecker": kronecker,
    "full": full,
    "mixture": lambda: MixturePosterior([
        DiagonalGaussianPosterior(mean(), positive(1)),
        DiagonalGaussianPosterior(drawn(6), positive(2)),
    ]),
}


@pytest.mark.parametrize("name", POSTERIORS)
def test_samples_of_the_permuted_posterior_are_permuted_samples(name: str) -> None:
    q, p = POSTERIORS[name](), element()
    noise = q.draw_noise((4,), generator=torch.Generator().manual_seed(9))
    permuted = q.permute(p).from_noise(q.permute_noise(p, noise))
    expected = p.apply(q.from_noise(noise))
    assert permuted.keys() == expected.keys()
    assert all(torch.allclose(permuted[key], tensor, atol=1e-12) for key, tensor in expected.items())


@pytest.mark.parametrize("name", POSTERIORS)
def test_moments_are_permuted(name: str) -> None:
    q, p = POSTERIORS[name](), element()
    after = p.apply(q)
    for moment in ("mean", "stddev"):
        expected = p.apply(getattr(q, moment))
        assert all(torch.allclose(getattr(after, moment)[key], t, atol=1e-12) for key, t in expected.items())


def test_file_of_a_permuted_posterior_is_read_back(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("q") / "q.safetensors"
    q = element().apply(POSTERIORS["diagonal"]())
    q.save(path)
    read = rc.load_posterior(path)
    assert all(torch.equal(read.mean[name], tensor) for name, tensor in q.mean.items())


def test_noise_of_units_of_one_expert_is_rejected() -> None:
    noise = [UnitNoise((("experts.0.up.weight", 0),), "gaussian", torch.full((5,), 0.3, dtype=torch.float64))]
    q = MultiplicativeNoisePosterior(mean(), noise)
    with pytest.raises(InvalidInputError, match="it is one of the stack"):
        q.permute(element())


def test_signs_of_hidden_units_act_on_diagonal_gaussians_and_rotations_do_not() -> None:
    q = DiagonalGaussianPosterior(mean(), positive(1))
    signs = rc.table_spec(TABLE, mean(), kinds={"hidden": "sign"}).symmetry
    drawn_signs = SymmetryElement.random(signs, generator=torch.Generator().manual_seed(1))
    after = q.transform(drawn_signs)
    expected = drawn_signs.apply(q.mean)
    assert all(torch.equal(after.mean[name], tensor) for name, tensor in expected.items())
    expected_stddev = drawn_signs.permutation.apply(q.stddev)
    assert all(torch.equal(after.stddev[name], tensor) for name, tensor in expected_stddev.items())
    rotations = rc.table_spec(TABLE, mean(), kinds={"hidden": "orthogonal"}).symmetry
    with pytest.raises(NotClosedError, match=r"experts.\{expert\}.up.weight"):
        q.transform(SymmetryElement.random(rotations, generator=torch.Generator().manual_seed(1)))


def test_scalars_of_a_prior_are_exchanged_with_the_experts() -> None:
    scales = {name: torch.tensor(1.0 + number, dtype=torch.float64) for number, name in enumerate(mean())}
    prior = GaussianPrior({name: torch.zeros((), dtype=torch.float64) for name in mean()}, scales)
    q, p = DiagonalGaussianPosterior(mean(), positive(1), prior=prior), element()
    permuted = q.permute(p).prior
    assert permuted is not None
    for new, old in enumerate(p.indices["expert"].tolist()):
        assert permuted.stddev[f"experts.{new}.up.bias"] == scales[f"experts.{old}.up.bias"]
    assert not prior.is_exchangeable(p.layout)
    equal = GaussianPrior(dict(prior.mean), {name: torch.ones_like(t) for name, t in scales.items()})
    assert equal.is_exchangeable(p.layout)


def test_a_prior_that_differs_between_two_exchangeable_tensors_is_found() -> None:
    """Of two tensors, half of all random permutations are the identity."""
    parameters = {"experts.0.w": torch.zeros(3), "experts.1.w": torch.zeros(3)}
    layout = rc.table_spec({"experts.{expert}.w": "-"}, parameters).layout
    zeros = {name: torch.zeros(()) for name in parameters}
    prior = GaussianPrior(zeros, {"experts.0.w": torch.tensor(1.0), "experts.1.w": torch.tensor(2.0)})
    assert not prior.is_exchangeable(layout)
