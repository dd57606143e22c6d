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
    """Return a random permutation with one group for all axes of equal length, which is valid for any posterior."""
    tensors = {**posterior.mean, **posterior.buffers}
    sizes = {size for tensor in tensors.values() for size in tensor.shape}
    groups = {f"of{size}": Group(f"of{size}", size) for size in sizes}
    layout = Layout(groups, {n: tuple(Atom(s, f"of{s}") for s in t.shape) for n, t in tensors.items()})
    generator = seeded(seed)
    while True:
        element = Permutation.random(layout, generator=generator)
        # An element that is the identity on a group could not detect tensors that are not permuted with it.
        if all(count for name, count in element.moved.items() if groups[name].size > 1):
            return element


@law("posterior")
def complete_samples(example: object, folder: Path) -> None:
    """Samples contain all parameters and buffers, for sample shapes of zero, one and two dimensions."""
    del folder
    posterior = cast("Posterior", example)
    expected = {**posterior.mean, **posterior.buffers}
    for shape in ((), (3,), (2, 2)):
        samples = posterior.sample(shape, generator=seeded())
        expect(samples.keys() == expected.keys(), f"expected samples of {sorted(expected)}, got {sorted(samples)}")
        for name, tensor in samples.items():
            wanted = (*shape, *expected[name].shape)
            expect(tuple(tensor.shape) == wanted, f"sample `{name}` has shape {tuple(tensor.shape)}, expected {wanted}")
            expect(
                tensor.dtype == expected[name].dtype, f"sample `{name}` is {tensor.dtype}, not {expected[name].dtype}"
            )


@law("posterior")
def equivariance(example: object, folder: Path) -> None:
    """Permuting and then sampling equals sampling and then permuting, for the same noise."""
    del folder
    posterior = cast("Posterior", example)
    element = any_element(posterior)
    noise = posterior.draw_noise((4,), generator=seeded(1))
    permuted_first = posterior.permute(element).from_noise(posterior.permute_noise(element, noise))
    expect_equal(permuted_first, element.apply(posterior.from_noise(noise)), "permute and sample", tolerance=1e-12)


@law("posterior")
def permuted_moments(example: object, folder: Path) -> None:
    """Mean, standard deviation and buffers of the permuted posterior are the permuted ones."""
    del folder
    posterior = cast("Posterior", example)
    element = any_element(posterior)
    permuted = posterior.permute(element)
    for part in ("mean", "stddev", "buffers"):
        wanted = element.apply(getattr(posterior, part))
        expect_equal(getattr(permuted, part), wanted, f"permuted {part}", tolerance=1e-12)


@law("posterior")
def moments_of_samples(example: object, folder: Path) -> None:
    """Mean and standard deviation of samples are the stated ones, up to five standard errors."""
    del folder
    posterior = cast("Posterior", example)
    count = 4000
    samples = posterior.sample((count,), generator=seeded(2))
    for name, mean in posterior.mean.items():
        stddev = posterior.stddev[name]
        allowed = 5 * stddev / math.sqrt(count) + 1e-6
        expect(
            bool(((samples[name].mean(0) - mean).abs() <= allowed).all()),
            f"the mean of the samples of `{name}` is wrong",
        )
        # Five standard errors of a standard deviation, for tails up to those of a Gaussian.
        difference = (samples[name].std(0, correction=0) - stddev).abs()
        expect(
            bool((difference <= 5 * stddev / math.sqrt(2 * count) + 1e-6).all()),
            f"the standard deviation of the samples of `{name}` is wrong",
        )


@law("posterior")
def group_action(example: object, folder: Path) -> None:
    """Permuting by an element and its inverse is the identity; permuting by a composition is permuting twice."""
    del folder
    posterior = cast("Posterior", example)
    p = any_element(posterior, 1)
    q = any_element(posterior, 2)
    noise = posterior.draw_noise((2,), generator=seeded())
    permuted_noise = posterior.permute_noise(p, noise)
    back = posterior.permute(p).permute(p.inverse())
    noise_back = posterior.permute(p).permute_noise(p.inverse(), permuted_noise)
    expect_equal(back.from_noise(noise_back), posterior.from_noise(noise), "permuted and inverted", tolerance=1e-12)
    twice = posterior.permute(p).permute(q)
    once = posterior.permute(p.compose(q))
    expect_equal(twice.from_noise(noise), once.from_noise(noise), "permuted twice and composed", tolerance=1e-12)


@law("posterior")
def reproducibility(example: object, folder: Path) -> None:
    """Equal generator states give equal samples, and the global generator is not used."""
    del folder
    posterior = cast("Posterior", example)
    state = torch.get_rng_state()
    first = posterior.sample((2,), generator=seeded(4))
    second = posterior.sample((2,), generator=seeded(4))
    expect_equal(first, second, "two samples with the same seed")
    expect(torch.equal(state, torch.get_rng_state()), "the global generator was used")


@law("posterior")
def no_aliasing(example: object, folder: Path) -> None:
    """In-place changes of returned tensors do not change the posterior."""
    del folder
    posterior = cast("Posterior", example)
    before = [copied(posterior.mean), copied(posterior.buffers), copied(posterior.sample(generator=seeded()))]
    permuted = posterior.permute(any_element(posterior))
    for returned in (
        posterior.mean,
        posterior.stddev,
        posterior.buffers,
        posterior.sample(generator=seeded()),
        permuted.mean,
    ):
        for tensor in returned.values():
            tensor.zero_()
    after = [posterior.mean, posterior.buffers, posterior.sample(generator=seeded())]
    for now, then in zip(after, before, strict=True):
        expect_equal(now, then, "after in-place changes of returned tensors")


@law("posterior")
def serialization(example: object, folder: Path) -> None:
    """`load` after `save` gives an equal posterior."""
    posterior = cast("Posterior", example)
    posterior.save(folder / "posterior.safetensors", meta={"note": "kit"})
    tensors, document = read_tensors(folder / "posterior.safetensors", kind="posterior")
    expect(
        document.get("representation") == posterior.kind,
        f"the representation in the file is {document.get('representation')!r}",
    )
    back = type(posterior).from_tensors(tensors).to(device=posterior.device)
    expect_equal(back.as_tensors(), posterior.as_tensors(), "read back")
    noise = posterior.draw_noise((2,), generator=seeded())
    # Up to rounding: the order of summation may depend on the memory layout.
    expect_equal(back.from_noise(noise), posterior.from_noise(noise), "samples after loading", tolerance=1e-12)


@law("posterior")
def copies_are_equal(example: object, folder: Path) -> None:
    """Pickling and deep copying give equal posteriors."""
    del folder
    posterior = cast("Posterior", example)
    pickled = pickle.loads(pickle.dumps(posterior))  # ruff: ignore[suspicious-pickle-usage] - written one line before
    for description, back in (("pickled", pickled), ("copied", copy.deepcopy(posterior))):
        expect(type(back) is type(posterior), f"the {description} posterior is a {type(back).__name__}")
        expect_equal(back.as_tensors(), posterior.as_tensors(), description)


@law("posterior")
def dtype_conversion(example: object, folder: Path) -> None:
    """Converting the dtype gives an equal posterior up to rounding; integer buffers are not converted."""
    del folder
    posterior = cast("Posterior", example)
    single = posterior.to(dtype=torch.float32)
    expect(single.dtype == torch.float32, f"expected float32, got {single.dtype}")
    expect_equal(single.mean, posterior.mean, "mean in float32", tolerance=1e-5)
    for name, buffer in posterior.buffers.items():
        kept = single.buffers[name].is_floating_point() == buffer.is_floating_point()
        expect(kept, f"the buffer `{name}` changed from {buffer.dtype} to {single.buffers[name].dtype}")


@law("posterior")
def invariant_density(example: object, folder: Path) -> None:
    """The log density, if there is one, and the entropy are invariant under permutation."""
    del folder
    if not isinstance(example, AbstractLogDensity):
        return
    posterior = cast("Posterior", example)
    element = any_element(posterior)
    sample = posterior.sample((3,), generator=seeded())
    permuted = cast("AbstractLogDensity", posterior.permute(element))
    expect_equal(
        {"d": permuted.log_prob(element.apply(sample))}, {"d": example.log_prob(sample)}, "log density", tolerance=1e-8
    )
    expect_equal({"h": permuted.entropy()}, {"h": example.entropy()}, "entropy", tolerance=1e-8)


@law("posterior")
def covariance_of_samples(example: object, folder: Path) -> None:
    """For Gaussians, the covariance of samples is the stated one, over all parameters jointly."""
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
    expect(worst <= 1, f"the error of the sample covariance is {worst:.1f} times five standard errors")


@law("posterior")
def permuted_covariance(example: object, folder: Path) -> None:
    """For Gaussians, permuting permutes rows and columns of the covariance, and distances are invariant."""
    del folder
    if not isinstance(example, AbstractGaussianPosterior):
        return
    element = any_element(example)
    mean = {name: example.mean[name] for name in example.random_names}
    numbered = torch.arange(sum(t.numel() for t in mean.values()))
    positions = dict(zip(mean, numbered.split([t.numel() for t in mean.values()]), strict=True))
    permuted = element.apply({name: positions[name].reshape(tensor.shape) for name, tensor in mean.items()})
    order = torch.cat([permuted[name].flatten() for name in example.random_names])
    expected = example.covariance()[order][:, order]
    expect_equal({"c": example.permute(element).covariance()}, {"c": expected}, "permuted covariance", tolerance=1e-10)
    other = example.permute(any_element(example, 7))
    before = wasserstein_distance(example, other)
    after = wasserstein_distance(example.permute(element), other.permute(element))
    expect(abs(before - after) <= 1e-6 * (1 + before), f"permuting both changed the distance {before} to {after}")


@law("posterior")
def permuted_auxiliary_tensors(example: object, folder: Path) -> None:
    """Fixed parameters and the prior are permuted, too, and are saved and loaded."""
    if not isinstance(example, AbstractAttachedPosterior):
        return
    element = any_element(example)
    permuted = example.permute(element)
    example.save(folder / "posterior.safetensors")
    back = type(example).load(folder / "posterior.safetensors")
    expect(set(back.random_names) == set(example.random_names), "the random parameters differ after loading")
    if example.prior is None:
        return
    for name, tensor in example.prior.stddev.items():
        wanted = element.apply({name: tensor})[name] if tensor.dim() else tensor
        for description, posterior, expected in (("permuted", permuted, wanted), ("loaded", back, tensor)):
            expect(posterior.prior is not None, f"the {description} posterior has no prior")
            given = {} if posterior.prior is None else dict(posterior.prior.stddev)
            expect(
                torch.equal(given[name].cpu(), expected.cpu()),
                f"the {description} prior scale of `{name}` is wrong",
            )


@law("posterior")
def order_of_names(example: object, folder: Path) -> None:
    """The posterior does not depend on the order of the tensors in its file."""
    del folder
    posterior = cast("Posterior", example)
    reordered = type(posterior).from_tensors(dict(reversed(posterior.as_tensors().items())))
    noise = posterior.draw_noise((3,), generator=seeded())
    expect_equal(reordered.from_noise(noise), posterior.from_noise(noise), "in reversed order")


@law("posterior")
def independent_gaussian_entries(example: object, folder: Path) -> None:
    """Entries of an independent Gaussian have the fourth moment of a Gaussian, and no correlation."""
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
    expect(worst <= 5 * math.sqrt(96 / count), f"the fourth moment of an entry differs by {worst:.2f} from 3")
    correlation = entries.T @ entries / count
    largest = (correlation - correlation.diag().diag()).abs().max().item()
    expect(largest <= 5 / math.sqrt(count), f"two entries have the correlation {largest:.3f}")


@law("posterior")
def mixtures_have_components(example: object, folder: Path) -> None:
    """The mean of a mixture is the weighted mean of its components."""
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
