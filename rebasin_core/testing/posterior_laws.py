"""The laws of posteriors."""

from __future__ import annotations

import copy
import math
import pickle  # ruff: ignore[suspicious-pickle-import] - the law is about it
from typing import TYPE_CHECKING, cast

import torch

from rebasin_core.posteriors.attached import AbstractAttachedPosterior
from rebasin_core.posteriors.capabilities import AbstractIndependentGaussian, AbstractLogDensity, AbstractMixture
from rebasin_core.posteriors.divergence import wasserstein_distance
from rebasin_core.posteriors.gaussian import AbstractGaussianPosterior
from rebasin_core.symmetry.axis import Atom, Group
from rebasin_core.symmetry.layout import Layout
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.tensors.files import read_tensors
from rebasin_core.tensors.modules import copied
from rebasin_core.testing.law import expect, expect_equal, law, seeded

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from rebasin_core.posteriors.base import Posterior


def any_element(posterior: Posterior, seed: int = 0) -> Permutation:
    """Return a random permutation of all axes of equal length together: any such action is fair on a distribution."""
    tensors = {**posterior.mean, **posterior.buffers}
    sizes = {size for tensor in tensors.values() for size in tensor.shape}
    groups = {f"of{size}": Group(f"of{size}", size) for size in sizes}
    layout = Layout(groups, {n: tuple(Atom(s, f"of{s}") for s in t.shape) for n, t in tensors.items()})
    generator = seeded(seed)
    while True:
        element = Permutation.random(layout, generator=generator)
        # An element that leaves a group in place would hide what does not move with it.
        if all(moved for name, moved in element.moved.items() if groups[name].size > 1):
            return element


@law("posterior")
def complete_samples(example: object, folder: Path) -> None:
    """Samples hold every parameter and buffer, for scalar, flat and nested sample shapes."""
    del folder
    posterior = cast("Posterior", example)
    expected = {**posterior.mean, **posterior.buffers}
    for shape in ((), (3,), (2, 2)):
        samples = posterior.sample(shape, generator=seeded())
        expect(samples.keys() == expected.keys(), f"samples name {sorted(samples)}, expected {sorted(expected)}")
        for name, tensor in samples.items():
            wanted = (*shape, *expected[name].shape)
            expect(tuple(tensor.shape) == wanted, f"sample `{name}` has shape {tuple(tensor.shape)}, expected {wanted}")
            expect(
                tensor.dtype == expected[name].dtype, f"sample `{name}` is {tensor.dtype}, not {expected[name].dtype}"
            )


@law("posterior")
def equivariance(example: object, folder: Path) -> None:
    """Permuting and then sampling equals sampling and then permuting, for shared noise."""
    del folder
    posterior = cast("Posterior", example)
    element = any_element(posterior)
    noise = posterior.draw_noise((4,), generator=seeded(1))
    moved_first = posterior.permute(element).from_noise(posterior.permute_noise(element, noise))
    expect_equal(moved_first, element.apply(posterior.from_noise(noise)), "permute and sample", tolerance=1e-12)


@law("posterior")
def moments_move(example: object, folder: Path) -> None:
    """Mean, standard deviation and buffers of the moved distribution are the moved ones."""
    del folder
    posterior = cast("Posterior", example)
    element = any_element(posterior)
    moved = posterior.permute(element)
    for part in ("mean", "stddev", "buffers"):
        expect_equal(getattr(moved, part), element.apply(getattr(posterior, part)), f"moved {part}", tolerance=1e-12)


@law("posterior")
def moments_of_samples(example: object, folder: Path) -> None:
    """The mean and standard deviation of many samples are the stated ones, to five standard errors."""
    del folder
    posterior = cast("Posterior", example)
    count = 4000
    samples = posterior.sample((count,), generator=seeded(2))
    for name, mean in posterior.mean.items():
        stddev = posterior.stddev[name]
        allowed = 5 * stddev / math.sqrt(count) + 1e-6
        expect(bool(((samples[name].mean(0) - mean).abs() <= allowed).all()), f"the samples' mean of `{name}` is off")
        # Five standard errors of a standard deviation, for tails up to those of a Gaussian.
        spread = (samples[name].std(0, correction=0) - stddev).abs()
        expect(
            bool((spread <= 5 * stddev / math.sqrt(2 * count) + 1e-6).all()), f"the samples' spread of `{name}` is off"
        )


@law("posterior")
def group_action(example: object, folder: Path) -> None:
    """Permuting by an element and its inverse gives the distribution back; composition is permuting twice."""
    del folder
    posterior = cast("Posterior", example)
    p = any_element(posterior, 1)
    q = any_element(posterior, 2)
    noise = posterior.draw_noise((2,), generator=seeded())
    there = posterior.permute_noise(p, noise)
    back = posterior.permute(p).permute(p.inverse())
    noise_back = posterior.permute(p).permute_noise(p.inverse(), there)
    expect_equal(back.from_noise(noise_back), posterior.from_noise(noise), "there and back", tolerance=1e-12)
    twice = posterior.permute(p).permute(q)
    once = posterior.permute(p.compose(q))
    expect_equal(twice.from_noise(noise), once.from_noise(noise), "twice and composed", tolerance=1e-12)


@law("posterior")
def repeatable(example: object, folder: Path) -> None:
    """Equal generators give equal samples, and the global generator is left alone."""
    del folder
    posterior = cast("Posterior", example)
    state = torch.get_rng_state()
    first = posterior.sample((2,), generator=seeded(4))
    second = posterior.sample((2,), generator=seeded(4))
    expect_equal(first, second, "two draws with the same seed")
    expect(torch.equal(state, torch.get_rng_state()), "the global generator was used")


@law("posterior")
def no_aliasing(example: object, folder: Path) -> None:
    """Changing what a posterior returned does not change the posterior."""
    del folder
    posterior = cast("Posterior", example)
    before = [copied(posterior.mean), copied(posterior.buffers), copied(posterior.sample(generator=seeded()))]
    moved = posterior.permute(any_element(posterior))
    for returned in (
        posterior.mean,
        posterior.stddev,
        posterior.buffers,
        posterior.sample(generator=seeded()),
        moved.mean,
    ):
        for tensor in returned.values():
            tensor.zero_()
    after = [posterior.mean, posterior.buffers, posterior.sample(generator=seeded())]
    for now, then in zip(after, before, strict=True):
        expect_equal(now, then, "after changing what was returned")


@law("posterior")
def round_trip(example: object, folder: Path) -> None:
    """Saving and reading gives an equal posterior."""
    posterior = cast("Posterior", example)
    posterior.save(folder / "posterior.safetensors", meta={"note": "kit"})
    tensors, document = read_tensors(folder / "posterior.safetensors", kind="posterior")
    expect(document.get("representation") == posterior.kind, f"the file says {document.get('representation')!r}")
    back = type(posterior).from_tensors(tensors).to(device=posterior.device)
    expect_equal(back.as_tensors(), posterior.as_tensors(), "read back")
    noise = posterior.draw_noise((2,), generator=seeded())
    # To rounding: how a sum is ordered may depend on where in memory its terms lie.
    expect_equal(back.from_noise(noise), posterior.from_noise(noise), "samples of what was read", tolerance=1e-12)


@law("posterior")
def copies_are_equal(example: object, folder: Path) -> None:
    """Pickling and deep copies give an equal posterior, for use in other processes."""
    del folder
    posterior = cast("Posterior", example)
    pickled = pickle.loads(pickle.dumps(posterior))  # ruff: ignore[suspicious-pickle-usage] - written one line before
    for what, back in (("pickled", pickled), ("copied", copy.deepcopy(posterior))):
        expect(type(back) is type(posterior), f"{what} it is a {type(back).__name__}")
        expect_equal(back.as_tensors(), posterior.as_tensors(), what)


@law("posterior")
def moves_between_dtypes(example: object, folder: Path) -> None:
    """Another dtype gives an equal posterior, to rounding; integer buffers stay integers."""
    del folder
    posterior = cast("Posterior", example)
    single = posterior.to(dtype=torch.float32)
    expect(single.dtype == torch.float32, f"asked for float32, got {single.dtype}")
    expect_equal(single.mean, posterior.mean, "mean in float32", tolerance=1e-5)
    for name, buffer in posterior.buffers.items():
        kept = single.buffers[name].is_floating_point() == buffer.is_floating_point()
        expect(kept, f"the buffer `{name}` changed from {buffer.dtype} to {single.buffers[name].dtype}")


@law("posterior")
def density_is_invariant(example: object, folder: Path) -> None:
    """Where there is a density, it moves with the distribution, and the entropy does not change."""
    del folder
    if not isinstance(example, AbstractLogDensity):
        return
    posterior = cast("Posterior", example)
    element = any_element(posterior)
    sample = posterior.sample((3,), generator=seeded())
    moved = cast("AbstractLogDensity", posterior.permute(element))
    expect_equal(
        {"d": moved.log_prob(element.apply(sample))}, {"d": example.log_prob(sample)}, "log density", tolerance=1e-8
    )
    expect_equal({"h": moved.entropy()}, {"h": example.entropy()}, "entropy", tolerance=1e-8)


@law("posterior")
def covariance_of_samples(example: object, folder: Path) -> None:
    """For Gaussians, the covariance of many samples is the stated one, over all parameters together."""
    del folder
    if not isinstance(example, AbstractGaussianPosterior):
        return
    count = 20_000
    samples = example.sample((count,), generator=seeded(3))
    flat = torch.cat([samples[name].reshape(count, -1) for name in example.random_names], dim=1)
    got = torch.cov(flat.T)
    expected = example.covariance()
    # An entry of the sample covariance has the variance (s_ii s_jj + s_ij^2) / count; five of its standard deviations.
    allowed = 5 * ((expected.diag()[:, None] * expected.diag() + expected.square()) / count).sqrt() + 1e-12
    worst = ((got - expected).abs() / allowed).max().item()
    expect(worst <= 1, f"the covariance of the samples is off by {worst:.1f} times what chance allows")


@law("posterior")
def covariance_moves(example: object, folder: Path) -> None:
    """For Gaussians, the moved covariance is the covariance with rows and columns moved, and distances stay."""
    del folder
    if not isinstance(example, AbstractGaussianPosterior):
        return
    element = any_element(example)
    mean = {name: example.mean[name] for name in example.random_names}
    counted = torch.arange(sum(t.numel() for t in mean.values()))
    places = dict(zip(mean, counted.split([t.numel() for t in mean.values()]), strict=True))
    moved = element.apply({name: places[name].reshape(tensor.shape) for name, tensor in mean.items()})
    order = torch.cat([moved[name].flatten() for name in example.random_names])
    expected = example.covariance()[order][:, order]
    expect_equal({"c": example.permute(element).covariance()}, {"c": expected}, "moved covariance", tolerance=1e-10)
    other = example.permute(any_element(example, 7))
    before = wasserstein_distance(example, other)
    after = wasserstein_distance(example.permute(element), other.permute(element))
    expect(abs(before - after) <= 1e-6 * (1 + before), f"moving both changed their distance from {before} to {after}")


@law("posterior")
def auxiliary_tensors_move(example: object, folder: Path) -> None:
    """Fixed parameters and the prior move too, and are written and read back."""
    if not isinstance(example, AbstractAttachedPosterior):
        return
    element = any_element(example)
    moved = example.permute(element)
    example.save(folder / "posterior.safetensors")
    back = type(example).load(folder / "posterior.safetensors")
    expect(set(back.random_names) == set(example.random_names), "other parameters are random after reading back")
    if example.prior is None:
        return
    for name, tensor in example.prior.stddev.items():
        wanted = element.apply({name: tensor})[name] if tensor.dim() else tensor
        for what, posterior, expected in (("moved", moved, wanted), ("read back", back, tensor)):
            expect(posterior.prior is not None, f"the prior of the {what} posterior is gone")
            given = {} if posterior.prior is None else dict(posterior.prior.stddev)
            expect(
                torch.equal(given[name].cpu(), expected.cpu()), f"the prior's scale of `{name}` is wrong when {what}"
            )


@law("posterior")
def order_of_names_does_not_matter(example: object, folder: Path) -> None:
    """Read from a file whose tensors stand in another order, it is the same distribution."""
    del folder
    posterior = cast("Posterior", example)
    turned = type(posterior).from_tensors(dict(reversed(posterior.as_tensors().items())))
    noise = posterior.draw_noise((3,), generator=seeded())
    expect_equal(turned.from_noise(noise), posterior.from_noise(noise), "in another order")


@law("posterior")
def independent_gaussian_entries(example: object, folder: Path) -> None:
    """Entries that are stated to be independent Gaussians have Gaussian tails and no correlation."""
    del folder
    if not isinstance(example, AbstractIndependentGaussian) or not example.noisy_names:
        return
    count = 20_000
    samples = example.sample((count,), generator=seeded(4))
    noise: list[Tensor] = []
    for name in sorted(example.noisy_names):
        stddev = example.stddev[name]
        standardized = (samples[name] - example.mean[name]) / stddev
        noise.append(standardized.reshape(count, -1)[:, (stddev > 0).flatten()][:, :2])
    entries = torch.cat(noise, dim=1)
    # The fourth moment of a Gaussian is 3, its estimate has the variance 96 / count.
    worst = (entries.pow(4).mean(0) - 3).abs().max().item()
    expect(worst <= 5 * math.sqrt(96 / count), f"the fourth moment of an entry is off by {worst:.2f}")
    correlation = entries.T @ entries / count
    largest = (correlation - correlation.diag().diag()).abs().max().item()
    expect(largest <= 5 / math.sqrt(count), f"two entries have the correlation {largest:.3f}")


@law("posterior")
def mixtures_have_components(example: object, folder: Path) -> None:
    """The mean of a mixture is the weighted mean of its components, and each can be permuted on its own."""
    del folder
    if not isinstance(example, AbstractMixture):
        return
    components = example.components
    weights = example.weights
    expect(len(weights) == len(components), f"{len(weights)} weights for {len(components)} components")
    for name, mean in example.mean.items():
        parts = torch.stack([q.mean[name] for q in components])
        average = torch.tensordot(weights.to(parts), parts, dims=1)
        expect_equal({name: average}, {name: mean}, "mean of the components", tolerance=1e-6)
