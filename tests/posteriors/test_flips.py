"""Posteriors under flips of logistic units, which add weights to a bias."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import rebasin_core as rc
from rebasin_core.errors import NotClosedError
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
from rebasin_core.posteriors.gaussian import AbstractGaussianPosterior
from rebasin_core.symmetry import Atom, Kind, LinearSymmetry, Permutation, Shift, Slot, Symmetry, SymmetryElement

N = 4
UNITS = Atom(N, "n")
AXES = {"w": (UNITS, Atom(3)), "b": (UNITS,), "out": (Atom(2), UNITS), "add": (Atom(2),)}
LAYOUT = rc.Layout({"n": rc.Group("n", N)}, AXES)
FLIPS = LinearSymmetry(
    "n", Kind.FLIP, dict.fromkeys((Slot("w", 0), Slot("b", 0), Slot("out", 1)), 1), shifts=(Shift("out", 0, "add"),)
)
SIGNS = torch.tensor([-1.0, 1.0, -1.0, 1.0]).double()
ELEMENT = SymmetryElement(Symmetry(LAYOUT, (FLIPS,)), Permutation(LAYOUT, {"n": torch.tensor([2, 0, 3, 1])}), [SIGNS])


def tensors(seed: int, *lead: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {n: torch.randn((*lead, *LAYOUT.shape(n)), generator=g, dtype=torch.float64) for n in AXES}


def positive(seed: int) -> dict[str, Tensor]:
    return {name: tensor.abs() + 0.1 for name, tensor in tensors(seed).items()}


def by_hand(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Flip units 0 and 2, then permute."""
    order = [2, 0, 3, 1]
    return {
        "w": (given["w"] * SIGNS[:, None])[..., order, :],
        "b": (given["b"] * SIGNS)[..., order],
        "out": (given["out"] * SIGNS)[..., order],
        "add": given["add"] + given["out"][..., 0] + given["out"][..., 2],
    }


def whole_matrix() -> Tensor:
    """Return the matrix of the element on all parameters."""
    sizes = {name: tensor.numel() for name, tensor in tensors(0).items()}
    total = sum(sizes.values())
    parts = torch.eye(total, dtype=torch.float64).split([*sizes.values()], dim=1)
    units = {name: part.reshape(total, *LAYOUT.shape(name)) for name, part in zip(sizes, parts, strict=True)}
    return torch.cat([tensor.reshape(total, -1) for tensor in by_hand(units).values()], dim=1).T


def expect_close(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    for name, tensor in b.items():
        torch.testing.assert_close(a[name], tensor, rtol=1e-9, atol=1e-9)


def full() -> FullGaussianPosterior:
    return FullGaussianPosterior.from_gaussian(LowRankGaussianPosterior(tensors(0), positive(1), tensors(2, 2)))


def low_rank() -> LowRankGaussianPosterior:
    """Return a Gaussian whose weights after the units have no independent part."""
    diagonal = positive(1)
    return LowRankGaussianPosterior(tensors(0), {**diagonal, "out": 0 * diagonal["out"]}, tensors(2, 2))


@pytest.mark.parametrize("make", [full, low_rank])
def test_covariances_are_transformed_by_the_matrix_on_all_parameters(
    make: Callable[[], AbstractGaussianPosterior],
) -> None:
    q = make()
    r = q.transform(ELEMENT)
    assert type(r) is type(q)
    matrix = whole_matrix()
    torch.testing.assert_close(r.covariance(), matrix @ q.covariance() @ matrix.T, rtol=1e-9, atol=1e-9)
    expect_close(r.mean, by_hand(q.mean))
    noise = q.draw_noise((3,), generator=torch.Generator().manual_seed(4))
    expect_close(r.from_noise(q.transform_noise(ELEMENT, noise)), by_hand(q.from_noise(noise)))


def test_networks_and_samples() -> None:
    expect_close(PointPosterior(tensors(0)).transform(ELEMENT).mean, by_hand(tensors(0)))
    samples = SamplesPosterior(tensors(0, 5))
    expect_close(samples.transform(ELEMENT).samples, by_hand(tensors(0, 5)))
    mixture = MixturePosterior([PointPosterior(tensors(0)), full()]).transform(ELEMENT)
    expect_close(mixture.components[0].mean, by_hand(tensors(0)))
    back = samples.transform(ELEMENT).transform(ELEMENT.inverse())
    expect_close(back.samples, tensors(0, 5))


def kronecker() -> KroneckerGaussianPosterior:
    g = torch.Generator().manual_seed(3)
    factors: dict[str, list[Tensor]] = {}
    for name in AXES:
        roots = [torch.randn(n, n, generator=g, dtype=torch.float64) for n in LAYOUT.shape(name)]
        factors[name] = [root @ root.T for root in roots]
    return KroneckerGaussianPosterior.from_precision_factors(tensors(0), factors, prior_precision=0.5)


NOISE = UnitNoise((("out", 1),), "bernoulli", torch.full((N,), 0.5, dtype=torch.float64))


@pytest.mark.parametrize(
    "posterior",
    [
        DiagonalGaussianPosterior(tensors(0), positive(1)),
        LowRankGaussianPosterior(tensors(0), positive(1), tensors(2, 2)),
        kronecker(),
        MultiplicativeNoisePosterior(tensors(0), [NOISE]),
    ],
    ids=lambda posterior: posterior.kind,
)
def test_independent_weights_and_biases_do_not_stay_independent(posterior: Posterior) -> None:
    with pytest.raises(
        NotClosedError,
        match=rf"'{posterior.kind}' .* kind 'flip'.* group 'n': it adds entries of `out` to `add`, which makes the two "
        r"dependent; convert it with `SamplesPosterior.from_posterior`",
    ):
        posterior.transform(ELEMENT)
    # The ways out.
    drawn = SamplesPosterior.from_posterior(posterior, 3, generator=torch.Generator().manual_seed(0))
    expect_close(drawn.transform(ELEMENT).samples, by_hand(drawn.samples))
    if isinstance(posterior, AbstractGaussianPosterior):
        expect_close(FullGaussianPosterior.from_gaussian(posterior).transform(ELEMENT).mean, by_hand(posterior.mean))


def test_weights_without_noise_keep_entries_independent() -> None:
    stddev = positive(1)
    stddev["out"].zero_()
    prior = GaussianPrior({name: torch.tensor(0.0) for name in AXES}, {name: torch.tensor(1.0) for name in AXES})
    q = DiagonalGaussianPosterior(tensors(0), stddev, prior=prior)
    r = q.transform(ELEMENT)
    expect_close(r.mean, by_hand(tensors(0)))
    order = [2, 0, 3, 1]
    expect_close(r.stddev, {"w": stddev["w"][order], "b": stddev["b"][order], "add": stddev["add"]})
    assert r.prior is None
    noise = q.draw_noise((3,), generator=torch.Generator().manual_seed(4))
    expect_close(r.from_noise(q.transform_noise(ELEMENT, noise)), by_hand(q.from_noise(noise)))


@pytest.mark.parametrize("random", [("out",), ("add",)])
def test_only_one_of_weight_and_bias_is_random(random: tuple[str, ...]) -> None:
    mean = tensors(0)
    fixed = {name: tensor for name, tensor in mean.items() if name not in random}
    q = FullGaussianPosterior.from_gaussian(
        DiagonalGaussianPosterior(
            {name: mean[name] for name in random}, {name: positive(1)[name] for name in random}, fixed=fixed
        )
    )
    with pytest.raises(NotClosedError, match="adds entries of `out` to `add`, and only one of the two is random"):
        q.transform(ELEMENT)


def test_both_are_random_or_both_are_fixed() -> None:
    mean = tensors(0)
    for random in (("out", "add"), ("w", "b")):
        fixed = {name: tensor for name, tensor in mean.items() if name not in random}
        q = FullGaussianPosterior.from_gaussian(
            DiagonalGaussianPosterior(
                {name: mean[name] for name in random}, {name: positive(1)[name] for name in random}, fixed=fixed
            )
        )
        expect_close(q.transform(ELEMENT).mean, by_hand(mean))
