"""State dicts of Bayesian layers and SWAG, by the names of their tensors."""

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
    """The names that a library of Bayesian layers gives to means and scales.

    Attributes:
        library: Its name.
        mean: Pattern of the names of means; groups ``prefix`` and ``kind`` (``weight``, ``kernel`` or ``bias``).
        scale: The name of the scale that belongs to a mean, with those groups in braces.
        stddev: Maps the stored scale to standard deviations.
        ignored: Pattern of names that repeat others, or are noise or priors.
    """

    library: str
    mean: re.Pattern[str]
    scale: str
    stddev: Callable[[Tensor], Tensor]
    ignored: re.Pattern[str]

    def fits(self, names: Mapping[str, object]) -> bool:
        """Return whether there is a mean with its scale among names.

        Args:
            names: The names of a state dict.

        Returns:
            True if so.
        """
        return any(
            (found := self.mean.search(name)) is not None and self.scale.format(**found.groupdict()) in names
            for name in names
        )

    def plain_names(self, tensors: Tensors) -> dict[str, str | None]:
        """Return which parameter of the deterministic network each tensor of a Bayesian layer belongs to.

        Args:
            tensors: A state dict.

        Returns:
            By name the parameter, for means, scales, and whatever else has their shape (noise, priors); None for
            further tensors of the layer, which have no units. Tensors of other layers are left out.
        """
        found: dict[str, str | None] = {}
        for name, tensor in tensors.items():
            mean = self.mean.search(name)
            if mean is None:
                continue
            kind = "bias" if mean["kind"] == "bias" else "weight"
            for other, value in tensors.items():
                rest = other.removeprefix(mean["prefix"])
                if other.startswith(mean["prefix"]) and mean["kind"] in rest and "." not in rest.partition(".")[2]:
                    same = value.shape == tensor.shape
                    found[other] = mean["prefix"] + kind if same else found.get(other)
            for other in tensors:
                if other.startswith(mean["prefix"]) and self.ignored.search(other) is not None:
                    found.setdefault(other, None)
        return found


# The order matters: state dicts of an earlier layout may contain the names of a later one, as copies.
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
        # The means outside the samplers are copies, which differ once the module is moved to another device.
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
        # Its `sigma` is unconstrained.
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
        layout: The names of means and scales.
        buffers: The network's buffers among them.

    Returns:
        Independent Gaussians over the parameters of the deterministic network; parameters of ordinary layers are fixed.

    Raises:
        InvalidInputError: If a mean has no scale.
    """
    mean: dict[str, Tensor] = {}
    stddev: dict[str, Tensor] = {}
    read: set[str] = set()
    for name, tensor in tensors.items():
        found = layout.mean.search(name)
        if found is None:
            continue
        scale = layout.scale.format(**found.groupdict())
        if scale not in tensors:
            message = f"`{name}` looks like a mean of {layout.library}, but there is no `{scale}`"
            raise InvalidInputError(message)
        plain = found["prefix"] + ("bias" if found["kind"] == "bias" else "weight")
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
    r"""Return the SWAG posterior with collected moments.

    Args:
        mean: Means of the iterates, by parameter name.
        squares: Means of their squares.
        deviations: Deviations from the running mean, each ``[K, numel]``; empty for SWAG-Diagonal.
        scale: Factor of the covariance; the paper's is one half.
        least_variance: Variances below it are raised to it.
        buffers: The network's buffers.

    Returns:
        A low-rank or diagonal Gaussian.

    Raises:
        InvalidInputError: If fewer than two deviations were collected.
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
        message = f"expected at least two collected deviations for a covariance, got {count}; collect longer"
        raise InvalidInputError(message)
    factor = (scale / (count - 1)) ** 0.5
    rows = {n: factor * deviations[n].detach().reshape(count, *m.shape).to(m) for n, m in mean.items()}
    return LowRankGaussianPosterior(own, diagonal, rows, buffers=kept)


def unknown_layout(tensors: Tensors) -> str:
    """Return the message for a state dict that no layout fits.

    Args:
        tensors: The state dict.

    Returns:
        The message.
    """
    known = ", ".join(layout.library for layout in LAYOUTS)
    return f"no posterior is known in tensors named {shorten(sorted(tensors))}; expected those of {known}, or of SWAG"
