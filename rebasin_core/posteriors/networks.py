"""Posteriors that consist of single networks: their networks, and posteriors of the same kind with others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.capabilities import AbstractEmpirical
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.posteriors.samples import SamplesPosterior

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.posteriors.base import Posterior


def networks_of(posterior: Posterior) -> list[dict[str, Tensor]] | None:
    """Return the tensors of each network of a posterior.

    Args:
        posterior: Any posterior.

    Returns:
        Parameters and buffers of a single network or of each sample; None if the posterior has a density.
    """
    if posterior.is_point:
        return [{**posterior.mean, **posterior.buffers}]
    if not isinstance(posterior, AbstractEmpirical):
        return None
    members = (posterior.member(index) for index in range(posterior.num_samples))
    return [{**member.mean, **member.buffers} for member in members]


def with_networks(posterior: Posterior, networks: Sequence[Mapping[str, Tensor]]) -> Posterior:
    """Return a posterior with other networks.

    Args:
        posterior: A posterior for which `networks_of` returns networks.
        networks: The same number of networks, with its tensors and possibly further parameters.

    Returns:
        The posterior with the same weights, without a prior. Tensors that all samples shared are shared if they are
        still equal.

    Raises:
        InvalidInputError: If the number of networks differs, or the posterior has a density.
    """
    own = networks_of(posterior)
    if own is None or len(own) != len(networks):
        count = "a posterior with a density" if own is None else f"{len(own)} networks"
        message = f"expected the number of networks before, got {len(networks)} for {count}"
        raise InvalidInputError(message)
    buffers = posterior.buffers
    if isinstance(posterior, SamplesPosterior):
        return _with_samples(posterior, networks)
    points = [
        PointPosterior(
            {name: tensor for name, tensor in network.items() if name not in buffers},
            buffers={name: network[name] for name in buffers},
        )
        for network in networks
    ]
    if isinstance(posterior, AbstractEmpirical):
        return SamplesPosterior.from_points(points, weights=posterior.weights)
    return points[0]


def _with_samples(samples: SamplesPosterior, networks: Sequence[Mapping[str, Tensor]]) -> SamplesPosterior:
    stacked = {name: torch.stack([network[name] for network in networks]) for name in networks[0]}
    buffers, shared = samples.sample_buffers, samples.shared_buffers
    equal = {name for name, tensor in stacked.items() if bool((tensor == tensor[:1]).all())}
    fixed = equal & samples.fixed.keys()
    still_shared = equal & shared.keys()
    return SamplesPosterior(
        {name: tensor for name, tensor in stacked.items() if name not in {*buffers, *shared, *fixed}},
        weights=samples.weights,
        chains=samples.chains,
        sample_buffers={name: stacked[name] for name in (*buffers, *shared) if name not in still_shared},
        buffers={name: networks[0][name] for name in shared if name in still_shared},
        fixed={name: networks[0][name] for name in samples.fixed if name in fixed},
    )
