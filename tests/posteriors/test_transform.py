"""Posteriors under linear maps of units; the laws of the conformance kit compare moments with explicit matrices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.errors import InvalidInputError, LawViolationError, NotClosedError
from rebasin_core.posteriors import (
    DiagonalGaussianPosterior,
    FullGaussianPosterior,
    GaussianPrior,
    KroneckerGaussianPosterior,
    LowRankGaussianPosterior,
    MixturePosterior,
    MultiplicativeNoisePosterior,
    PointPosterior,
    SamplesPosterior,
    UnitNoise,
)
from rebasin_core.symmetry import Atom, Kind, LinearSymmetry, Slot, Symmetry, SymmetryElement
from rebasin_core.testing import flip_laws, linear_laws
from tests.posteriors.box import BoxPosterior

N, INPUTS = 4, 3
AXES = {"w": (Atom(N, "n"), Atom(INPUTS)), "b": (Atom(N, "n"),), "out": (Atom(2), Atom(N, "n"))}
LAYOUT = rc.Layout({"n": rc.Group("n", N)}, AXES)
NORMALIZED = rc.Layout({"n": rc.Group("n", N)}, {**AXES, "norm": (Atom(N, "n"),)})
KINDS = [kind for kind in Kind if kind is not Kind.FLIP]  # see `test_flips`
DEGREES = {Slot("w", 0): 1, Slot("b", 0): 1, Slot("out", 1): -1}


def element(kind: Kind, *, seed: int = 1, ones: tuple[str, ...] = ()) -> SymmetryElement:
    symmetry = Symmetry(NORMALIZED if ones else LAYOUT, (LinearSymmetry("n", kind, DEGREES, ones),))
    return SymmetryElement.random(symmetry, generator=torch.Generator().manual_seed(seed))


def tensors(seed: int, *lead: int, names: tuple[str, ...] = ("w", "b", "out")) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {n: torch.randn((*lead, *NORMALIZED.shape(n)), generator=g, dtype=torch.float64) for n in names}


def positive(seed: int) -> dict[str, Tensor]:
    return {name: tensor.abs() + 0.1 for name, tensor in tensors(seed).items()}


def dense(e: SymmetryElement, name: str) -> Tensor:
    """Return the matrix of an element on the flattened entries of a tensor."""
    (value,) = e.maps
    assert value is not None
    n = torch.eye(N, dtype=torch.float64)
    if e.symmetry.linear[0].kind is Kind.ROTATION:
        real, imag = torch.diag(value[:, 0]), torch.diag(value[:, 1])
        g = torch.cat([torch.cat([real, -imag], 1), torch.cat([imag, real], 1)])
    else:
        g = torch.diag(value) if value.dim() == 1 else value
        n = n[e.permutation.indices["n"]]
    g = n @ g
    if name == "out":
        return torch.kron(torch.eye(2, dtype=torch.float64), torch.linalg.inv(g).T)
    return torch.kron(g, torch.eye(INPUTS, dtype=torch.float64)) if name == "w" else g


def expect_covariance(q: object, r: object, e: SymmetryElement) -> None:
    assert isinstance(q, rc.posteriors.AbstractGaussianPosterior)
    assert isinstance(r, rc.posteriors.AbstractGaussianPosterior)
    whole = torch.block_diag(*(dense(e, name) for name in q.random_names))
    torch.testing.assert_close(r.covariance(), whole @ q.covariance() @ whole.T, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(r.flat_mean(), whole @ q.flat_mean(), rtol=1e-9, atol=1e-9)


def test_diagonal_gaussians_under_factors() -> None:
    q = DiagonalGaussianPosterior(tensors(0), positive(1))
    for kind in (Kind.SIGN, Kind.POSITIVE, Kind.NONZERO):
        r = q.transform(element(kind))
        assert isinstance(r, DiagonalGaussianPosterior)
        expect_covariance(q, r, element(kind))
    assert rc.GroupElement.apply(element(Kind.SIGN), q).stddev.keys() == q.stddev.keys()


def test_equal_standard_deviations_stay_independent_under_orthogonal_maps() -> None:
    """An isotropic Gaussian is invariant under rotations; here it is isotropic along the axis of the units only."""
    stddev = {"w": torch.tensor([0.5, 1.0, 2.0]).double().expand(N, INPUTS), "b": torch.full((N,), 0.3).double()}
    stddev["out"] = torch.tensor([[0.1], [0.2]]).double().expand(2, N)
    q = DiagonalGaussianPosterior(tensors(0), stddev)
    for kind in (Kind.ORTHOGONAL, Kind.ORTHOGONAL_FIXING_ONES):
        r = q.transform(element(kind))
        expect_covariance(q, r, element(kind))
        noise = q.draw_noise((2,), generator=torch.Generator().manual_seed(1))
        moved = r.from_noise(q.transform_noise(element(kind), noise))
        wanted = element(kind).apply(q.from_noise(noise))
        assert all(torch.allclose(moved[name], wanted[name]) for name in wanted)
    pairs = {**stddev, "b": torch.tensor([0.3, 0.7, 0.3, 0.7]).double()}
    q = DiagonalGaussianPosterior(tensors(0), pairs)
    expect_covariance(q, q.transform(element(Kind.ROTATION)), element(Kind.ROTATION))
    with pytest.raises(NotClosedError, match=r"entries of `b` dependent, since their standard deviations differ"):
        q.transform(element(Kind.ORTHOGONAL))
    with pytest.raises(NotClosedError, match=r"'diagonal_gaussian' .* kind 'invertible'.* group 'n'.* are random"):
        q.transform(element(Kind.INVERTIBLE))


@pytest.mark.parametrize("kind", KINDS)
def test_low_rank_gaussians_without_independent_part_are_closed(kind: Kind) -> None:
    zero = {name: torch.zeros_like(tensor) for name, tensor in tensors(0).items()}
    q = LowRankGaussianPosterior(tensors(0), zero, tensors(1, 3))
    expect_covariance(q, q.transform(element(kind)), element(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_dense_gaussians_are_closed_and_the_way_out_of_others(kind: Kind) -> None:
    t, s = tensors(0), positive(1)
    q = DiagonalGaussianPosterior({"w": t["w"], "b": t["b"]}, {"w": s["w"], "b": s["b"]}, fixed={"out": t["out"]})
    r = FullGaussianPosterior.from_gaussian(q)
    torch.testing.assert_close(r.covariance(), q.covariance())
    assert r.fixed.keys() == {"out"}
    expect_covariance(q, r.transform(element(kind)), element(kind))


@pytest.mark.parametrize("kind", [Kind.SIGN, Kind.ORTHOGONAL, Kind.ORTHOGONAL_FIXING_ONES])
def test_kronecker_gaussians_under_orthogonal_maps(kind: Kind) -> None:
    q = kronecker(seed=3)
    r = q.transform(element(kind))
    assert isinstance(r, KroneckerGaussianPosterior)
    expect_covariance(q, r, element(kind))


@pytest.mark.parametrize("kind", [Kind.POSITIVE, Kind.ROTATION, Kind.INVERTIBLE])
def test_kronecker_gaussians_under_other_maps(kind: Kind) -> None:
    """Any map keeps a covariance that is a Kronecker product; a precision of two terms is one only by chance."""
    q = kronecker(seed=3)
    with pytest.raises(NotClosedError, match=r"no Kronecker product for `w`"):
        q.transform(element(kind))
    parts = q.scale
    separable = {n: torch.outer(s[:, 0], s[0]) if s.dim() == 2 else s for n, s in parts.items()}
    q = KroneckerGaussianPosterior(q.mean, q.left, q.right, separable)
    expect_covariance(q, q.transform(element(kind)), element(kind))


def test_kronecker_gaussians_whose_basis_stays_orthogonal() -> None:
    """With unit vectors as the basis of the units, factors multiply the standard deviations."""
    q = kronecker(seed=3)
    left = {**q.left, "w": torch.eye(N).double()}
    right = {**q.right, "out": torch.eye(N).double()}
    q = KroneckerGaussianPosterior(q.mean, left, right, q.scale)
    r = q.transform(element(Kind.NONZERO))
    expect_covariance(q, r, element(Kind.NONZERO))


def kronecker(seed: int) -> KroneckerGaussianPosterior:
    g = torch.Generator().manual_seed(seed)
    factors = {}
    for name, sizes in {"w": (N, INPUTS), "b": (N,), "out": (2, N)}.items():
        roots = [torch.randn(n, n, generator=g, dtype=torch.float64) for n in sizes]
        factors[name] = [root @ root.T for root in roots]
    return KroneckerGaussianPosterior.from_precision_factors(tensors(0), factors, prior_precision=0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_single_networks_and_samples_are_closed(kind: Kind) -> None:
    e = element(kind)
    point = PointPosterior(tensors(0)).transform(e)
    for name, tensor in point.mean.items():
        torch.testing.assert_close(tensor.flatten(), dense(e, name) @ tensors(0)[name].flatten())
    samples = SamplesPosterior(tensors(1, 5)).transform(e).samples
    for name, tensor in samples.items():
        torch.testing.assert_close(tensor.flatten(1), tensors(1, 5)[name].flatten(1) @ dense(e, name).T)


def test_each_component_by_its_own_element() -> None:
    elements = [element(Kind.ORTHOGONAL, seed=1), element(Kind.ORTHOGONAL, seed=2)]
    whole = tensors(1, 2)
    moved = SamplesPosterior(whole).transform_each(elements).samples
    mixture = MixturePosterior([PointPosterior({n: t[k] for n, t in whole.items()}) for k in range(2)])
    components = mixture.transform_each(elements).components
    for k, e in enumerate(elements):
        wanted = e.apply({name: tensor[k] for name, tensor in whole.items()})
        assert all(torch.equal(moved[name][k], tensor) for name, tensor in wanted.items())
        assert all(torch.equal(components[k].mean[name], tensor) for name, tensor in wanted.items())
    with pytest.raises(InvalidInputError, match="expected 2 permutations, got 1"):
        mixture.transform_each(elements[:1])
    mixed = MixturePosterior([DiagonalGaussianPosterior(tensors(0), positive(1)), PointPosterior(tensors(1))])
    with pytest.raises(NotClosedError, match="'diagonal_gaussian'"):
        mixed.transform(elements[0])


def test_multiplicative_noise() -> None:
    """Noise on the inputs commutes with every map of the units; noise on the units only with factors."""
    inputs = UnitNoise((("w", 1),), "bernoulli", torch.full((INPUTS,), 0.5, dtype=torch.float64))
    units = UnitNoise((("w", 0), ("b", 0)), "gaussian", torch.full((N,), 0.2, dtype=torch.float64))
    noise_generator = torch.Generator().manual_seed(2)
    for sources, kinds in (([inputs], KINDS), ([inputs, units], [Kind.SIGN, Kind.POSITIVE, Kind.NONZERO])):
        q = MultiplicativeNoisePosterior(tensors(0), sources)
        noise = q.draw_noise((3,), generator=noise_generator)
        for kind in kinds:
            e = element(kind)
            moved = q.transform(e).from_noise(q.transform_noise(e, noise))
            wanted = e.apply(q.from_noise(noise))
            assert all(torch.allclose(moved[name], wanted[name]) for name in wanted)
    with pytest.raises(NotClosedError, match="mixes units of `w` that have independent noise"):
        MultiplicativeNoisePosterior(tensors(0), [units]).transform(element(Kind.ORTHOGONAL))


def test_representations_of_third_parties_are_rejected_unless_they_declare_their_fields() -> None:
    with pytest.raises(NotClosedError, match=r"'box' .* 'sign'.*its tensors `center` cannot be transformed \(`w`\)"):
        BoxPosterior(tensors(0), positive(1)).transform(element(Kind.SIGN))
    q = DeclaredBox(tensors(0), positive(1))
    e = element(Kind.NONZERO)
    noise = q.draw_noise((3,), generator=torch.Generator().manual_seed(1))
    moved, wanted = q.transform(e).from_noise(q.transform_noise(e, noise)), e.apply(q.from_noise(noise))
    assert all(torch.allclose(moved[name], wanted[name]) for name in wanted)
    constant = DeclaredBox(tensors(0), {name: torch.ones_like(t) for name, t in tensors(0).items()})
    with pytest.raises(NotClosedError, match=r"'declared_box' .* 'orthogonal'"):
        constant.transform(element(Kind.ORTHOGONAL))  # a rotated cube is not a box
    # Without maps, and for a permutation, it is permuted.
    only_permutation = SymmetryElement(e.symmetry, e.permutation, [None])
    permuted = BoxPosterior(tensors(0), positive(1)).transform(only_permutation)
    assert torch.equal(permuted.mean["b"], e.permutation.apply(tensors(0))["b"])


class DeclaredBox(BoxPosterior):
    kind = "declared_box"
    _linear_fields = frozenset({"center"})
    _scale_fields = frozenset({"radius"})


def test_fixed_parameters_buffers_and_priors_are_transformed() -> None:
    t = tensors(0)
    prior = GaussianPrior({"w": tensors(1)["w"], "b": torch.zeros(())}, {"w": torch.tensor(2.0), "b": positive(2)["b"]})
    q = DiagonalGaussianPosterior(
        {"w": t["w"]}, {"w": positive(1)["w"]}, fixed={"b": t["b"]}, buffers={"out": t["out"]}, prior=prior
    )
    e = element(Kind.NONZERO)
    r = q.transform(e)
    wanted = e.apply(t)
    assert torch.equal(r.fixed["b"], wanted["b"])
    assert torch.equal(r.buffers["out"], wanted["out"])
    assert r.prior is not None
    torch.testing.assert_close(r.prior.mean["w"], e.apply({"w": tensors(1)["w"]})["w"])
    assert not r.prior.mean["b"].any()
    # The scalar standard deviation now differs between units; the density changes by the volume only.
    ladder = {name: torch.randn(N, *LAYOUT.shape(name)[1:], dtype=torch.float64) for name in ("w", "b")}
    volume = sum(torch.linalg.slogdet(dense(e, name)).logabsdet for name in ladder)
    torch.testing.assert_close(r.prior.log_prob(e.apply(ladder)), prior.log_prob(ladder) - volume)
    # Under a rotation the prior of `b` is not diagonal: it is omitted. The point itself is transformed.
    point = PointPosterior(t, prior=prior).transform(element(Kind.ORTHOGONAL))
    assert point.prior is None
    isotropic = PointPosterior(t, prior=GaussianPrior.isotropic(t, 2.0)).transform(element(Kind.ORTHOGONAL))
    assert isotropic.prior is not None
    assert bool((isotropic.prior.stddev["b"] == 2).all())


def test_tensors_that_must_be_one() -> None:
    e = element(Kind.ORTHOGONAL, ones=("norm",))
    names = ("w", "b", "out", "norm")
    with pytest.raises(InvalidInputError, match="`norm` must be one"):
        PointPosterior(tensors(0, names=names)).transform(e)
    ones = {**tensors(0), "norm": torch.ones(N).double()}
    assert torch.equal(PointPosterior(ones).transform(e).mean["norm"], ones["norm"])
    assert PointPosterior(tensors(0), buffers={"norm": torch.ones(N)}).transform(e).buffers["norm"].tolist() == [1] * N
    random = {name: torch.zeros_like(tensor) for name, tensor in ones.items()}
    random["norm"] = torch.tensor([0.0, 0.0, 0.0, 0.1]).double()
    with pytest.raises(NotClosedError, match="`norm` must be one, but is random"):
        DiagonalGaussianPosterior(ones, random).transform(e)
    with pytest.raises(InvalidInputError, match="`norm` must be one"):
        SamplesPosterior({n: torch.stack([t, t + 0.5]) for n, t in ones.items()}).transform(e)


def test_modules_and_samples_of_posteriors() -> None:
    first = nn.Linear(3, 4)
    model = nn.Sequential(first, nn.Tanh(), nn.Linear(4, 2)).double()
    layout = rc.table_spec({"0.weight": "n, -", "0.bias": "n", "2.weight": "-, n", "2.bias": "-"}, model).layout
    degrees = {Slot("0.weight", 0): 1, Slot("0.bias", 0): 1, Slot("2.weight", 1): -1}
    symmetry = Symmetry(layout, (LinearSymmetry("n", Kind.SIGN, degrees),))
    e = SymmetryElement.random(symmetry, generator=torch.Generator().manual_seed(0))
    x = torch.randn(5, 3, dtype=torch.float64)
    moved = e.apply(model)
    bias = dict(moved.named_parameters())["0.bias"]
    assert not torch.equal(bias, first.bias)
    torch.testing.assert_close(moved(x), model(x))
    q = PointPosterior.from_module(model)
    drawn = SamplesPosterior.from_posterior(q, 3, generator=torch.Generator().manual_seed(1))
    assert drawn.num_samples == 3
    assert torch.equal(e.apply(drawn).member(2).mean["0.bias"], bias)
    with pytest.raises(InvalidInputError, match="at least one sample"):
        SamplesPosterior.from_posterior(q, 0, generator=torch.Generator())


def test_objects_that_are_only_permutable() -> None:
    class Shuffled:
        def permute(self, permutation: rc.Permutation) -> Shuffled:
            del permutation
            return self

    e = element(Kind.SIGN)
    target = Shuffled()
    assert e.permutation.apply(target) is target
    assert SymmetryElement(e.symmetry, e.permutation, [None]).apply(target) is target
    with pytest.raises(InvalidInputError, match="a method `transform`"):
        e.apply(target)


class Ignoring(DeclaredBox):
    """Permuted, although the element has linear maps."""

    @override
    def _transformed_fields(self, element: SymmetryElement) -> dict[str, dict[str, Tensor]]:
        return {field: self._permuted_field(element.permutation, field) for field in self._fields}


class WithoutScales(DeclaredBox):
    """The radii are permuted, but not multiplied."""

    _scale_fields = frozenset()

    @override
    def _transformed_field(self, element: SymmetryElement, field: str) -> dict[str, Tensor]:
        if field == "radius":
            return self._permuted_field(element.permutation, field)
        return super()._transformed_field(element, field)


class Vague(DeclaredBox):
    """An error without the names of the group and the kind."""

    @override
    def _transformed_fields(self, element: SymmetryElement) -> dict[str, dict[str, Tensor]]:
        message = "cannot transform"
        raise InvalidInputError(message)


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        (Ignoring, linear_laws.transformed_moments),
        (WithoutScales, linear_laws.transformed_moments),
        (Vague, linear_laws.closed_or_rejected),
        (Ignoring, flip_laws.flips_add_weights_to_biases),
        (Vague, flip_laws.flips_add_weights_to_biases),
    ],
)
def test_laws_detect_wrong_transformations(
    kind: type[BoxPosterior], law: Callable[[object, Path], None], tmp_path: Path
) -> None:
    right, wrong = DeclaredBox(tensors(0), positive(1)), kind(tensors(0), positive(1))
    law(right, tmp_path)
    with pytest.raises(LawViolationError):
        law(wrong, tmp_path)
