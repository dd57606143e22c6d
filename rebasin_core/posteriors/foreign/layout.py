"""Tensor names of Bayesian layers and SWAG in the state dicts of other libraries."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, final

import torch
from torch.nn import functional

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.diagonal_gaussian import DiagonalGaussianPosterior
from rebasin_core.posteriors.low_rank_gaussian import LowRankGaussianPosterior
from rebasin_core.tensors.checks import shorten
from rebasin_core.tensors.modules import copied

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from rebasin_core.posteriors.base import Posterior

Tensors: TypeAlias = "Mapping[str, Tensor]"


@final
@dataclass(frozen=True, slots=True)
class BayesianLayout:
    """Names of means and scales in the Bayesian layers of a library.

    Attributes:
        library: Name of the library.
        mean: Pattern of the names of means, with groups ``prefix`` and ``kind`` (``weight``, ``kernel`` or ``bias``).
        scale: Format string of the name of the corresponding scale, with these groups.
        stddev: Function from stored scales to standard deviations.
        ignored: Pattern of the names of copies, noise and priors, which are not read.
    """

    library: str
    mean: re.Pattern[str]
    scale: str
    stddev: Callable[[Tensor], Tensor]
    ignored: re.Pattern[str]

    def fits(self, names: Mapping[str, object]) -> bool:
        """Return whether a state dict has a mean and the corresponding scale.

        Args:
            names: Names of the state dict.

        Returns:
            Whether it has.
        """
        return any(
            (match := self.mean.search(name)) is not None and self.scale.format(**match.groupdict()) in names
            for name in names
        )

    def plain_names(self, tensors: Tensors) -> dict[str, str | None]:
        """Return the parameter of the deterministic network to which each tensor of a Bayesian layer belongs.

        Args:
            tensors: A state dict.

        Returns:
            Mapping from tensor names to parameter names, for means, scales and other tensors of their shape (noise,
            priors); to None for other tensors of Bayesian layers. Tensors of other layers are omitted.
        """
        parameters: dict[str, str | None] = {}
        for name, tensor in tensors.items():
            mean = self.mean.search(name)
            if mean is None:
                continue
            kind = "bias" if mean["kind"] == "bias" else "weight"
            for other, value in tensors.items():
                rest = other.removeprefix(mean["prefix"])
                if other.startswith(mean["prefix"]) and mean["kind"] in rest and "." not in rest.partition(".")[2]:
                    same = value.shape == tensor.shape
                    parameters[other] = mean["prefix"] + kind if same else parameters.get(other)
            for other in tensors:
                if other.startswith(mean["prefix"]) and self.ignored.search(other) is not None:
                    parameters.setdefault(other, None)
        return parameters


# In this order: state dicts of an earlier layout may contain copies with the names of a later one.
LAYOUTS: tuple[BayesianLayout, ...] = (
    BayesianLayout(
        "bayesian-torch",
        re.compile(r"^(?P<prefix>(?:.*\.)?)mu_(?P<kind>weight|kernel|bias)$"),
        "{prefix}rho_{kind}",
        functional.softplus,
        re.compile(r"(^|\.)(eps|prior)_(weight|kernel|bias)(_mu|_sigma)?$"),
    ),
    BayesianLayout(
        "blitz",
        # Means outside the samplers are copies, which are outdated after the module changes its device.
        re.compile(r"^(?P<prefix>(?:.*\.)?)(?P<kind>weight|bias)_sampler\.mu(?=$)"),
        "{prefix}{kind}_sampler.rho",
        functional.softplus,
        re.compile(r"(^|\.)((weight|bias)_(mu|rho|sigma)|(weight|bias)_sampler\.eps_w|.*prior_dist.*)$"),
    ),
    BayesianLayout(
        "torchbnn",
        re.compile(r"^(?P<prefix>(?:.*\.)?)(?P<kind>weight|bias)_mu$"),
        "{prefix}{kind}_log_sigma",
        torch.exp,
        re.compile(r"(^|\.)(weight|bias)_eps$"),
    ),
    BayesianLayout(
        "torch-uncertainty",
        # In torch-uncertainty, `sigma` is unconstrained (the argument of softplus).
        re.compile(r"^(?P<prefix>(?:.*\.)?)(?P<kind>weight|bias)_mu$"),
        "{prefix}{kind}_sigma",
        functional.softplus,
        re.compile(r"(^|\.)((weight|bias)_sampler\..*|(weight|bias)_prior_dist\..*|lprior|lvposterior)$"),
    ),
)


def from_bayesian_layers(tensors: Tensors, layout: BayesianLayout, buffers: Tensors) -> DiagonalGaussianPosterior:
    """Return the posterior in the state dict of a network with Bayesian layers.

    Args:
        tensors: The state dict.
        layout: Names of means and scales.
        buffers: Buffers in the state dict, by name.

    Returns:
        Diagonal Gaussian over the parameters of the deterministic network; parameters of other layers are fixed.

    Raises:
        InvalidInputError: If a mean has no corresponding scale.
    """
    mean: dict[str, Tensor] = {}
    stddev: dict[str, Tensor] = {}
    read: set[str] = set()
    for name, tensor in tensors.items():
        match = layout.mean.search(name)
        if match is None:
            continue
        scale = layout.scale.format(**match.groupdict())
        if scale not in tensors:
            message = f"expected `{scale}` for the mean `{name}` of {layout.library}, got no such tensor"
            raise InvalidInputError(message)
        plain = match["prefix"] + ("bias" if match["kind"] == "bias" else "weight")
        mean[plain] = tensor.detach().clone()
        stddev[plain] = layout.stddev(tensors[scale].detach())
        read |= {name, scale}
    rest = {n: t for n, t in tensors.items() if n not in read and layout.ignored.search(n) is None}
    fixed = {n: t.detach().clone() for n, t in rest.items() if n not in buffers}
    return DiagonalGaussianPosterior(
        mean, stddev, fixed=fixed, buffers={n: t.detach().clone() for n, t in rest.items() if n in buffers}
    )


def from_swag_moments(
    mean: Tensors, squares: Tensors, deviations: Tensors, *, scale: float, least_variance: float, buffers: Tensors
) -> Posterior:
    r"""Return the SWAG posterior for moments of the iterates.

    Args:
        mean: Means of the iterates by parameter name.
        squares: Means of the squared iterates by parameter name.
        deviations: Deviations from the running mean by parameter name, each ``[K, numel]``; empty for SWAG-Diagonal.
        scale: Factor of the covariance, positive; 1/2 in the paper.
        least_variance: Lower bound to which variances are clamped.
        buffers: Buffers of the network by name.

    Returns:
        Low-rank Gaussian, or diagonal Gaussian without deviations.

    Raises:
        InvalidInputError: If there is only one deviation.
    """
    diagonal = {
        name: (scale * (squares[name].reshape(m.shape) - m.square()).clamp_min(least_variance)).sqrt()
        for name, m in mean.items()
    }
    own = copied(mean)
    kept = copied(buffers)
    if not deviations:
        return DiagonalGaussianPosterior(own, diagonal, buffers=kept)
    count = min(len(tensor) for tensor in deviations.values())
    if count < 2:
        message = f"expected at least 2 deviations for a covariance, got {count}; collect more iterates"
        raise InvalidInputError(message)
    factor = (scale / (count - 1)) ** 0.5
    rows = {n: factor * deviations[n].detach().reshape(count, *m.shape).to(m) for n, m in mean.items()}
    return LowRankGaussianPosterior(own, diagonal, rows, buffers=kept)


def unknown_layout(tensors: Tensors) -> str:
    """Return the error message for a state dict that fits no layout.

    Args:
        tensors: The state dict.

    Returns:
        The message.
    """
    known = ", ".join(layout.library for layout in LAYOUTS)
    return f"expected the tensors of {known} or SWAG, got tensors named {shorten(sorted(tensors))}"
