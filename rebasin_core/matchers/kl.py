"""KL matching by the Kullback-Leibler divergence between independent Gaussians."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

import torch
from typing_extensions import override

from rebasin_core.matchers.channel import AbstractChannelMatcher, require_positive_stddev

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.bilinear.terms import Channels
    from rebasin_core.posteriors.base import Posterior


@final
class KLMatcher(AbstractChannelMatcher):
    r"""Aligns distributions: minimizes $\mathrm{KL}(P_\# q_1 \| q_0)$ or $\mathrm{KL}(q_0 \| P_\# q_1)$.

    Permutations do not change log-determinants. For independent Gaussians the objective is therefore a sum of bilinear
    assignment problems, weighted by precisions. For the first direction the channels of reference and candidate are

    $$ \left(-\tfrac{1}{2 S_0^2},\; \tfrac{M_0}{S_0^2}\right) \quad\text{and}\quad
       \left(S_1^2 + M_1^2,\; M_1\right) $$

    and for the second direction the roles are exchanged.

    Raises:
        ConfigError: If an option is invalid.
        InvalidInputError: On matching, if a standard deviation is zero.

    References:
        S. Rossi, A. Singh, T. Hannagan (2023), "On permutation symmetries in Bayesian neural network posteriors: a
        variational perspective", NeurIPS, arXiv 2310.10171 (on the choice of divergence).

    Examples:
        >>> import torch
        >>> from rebasin_core.posteriors import DiagonalGaussianPosterior
        >>> from rebasin_core.specs import table_spec
        >>> mean, stddev = {"b": torch.tensor([1.0, 0.0])}, {"b": torch.ones(2)}
        >>> spec = table_spec({"b": "hidden"}, mean)
        >>> q = DiagonalGaussianPosterior(mean, stddev)
        >>> r = DiagonalGaussianPosterior({"b": torch.tensor([0.0, 1.0])}, stddev)
        >>> KLMatcher().match(q, r, spec).apply(r).mean["b"].tolist()
        [1.0, 0.0]
    """

    name: Literal["kl"] = "kl"

    direction: Literal["candidate_to_reference", "reference_to_candidate"] = "candidate_to_reference"
    r"""``candidate_to_reference`` minimizes $\mathrm{KL}(P_\# q_1 \| q_0)$, ``reference_to_candidate``
    $\mathrm{KL}(q_0 \| P_\# q_1)$."""

    @override
    def _channels(self, reference: Posterior, candidate: Posterior) -> tuple[Channels, Channels]:
        for posterior, role in ((reference, "reference"), (candidate, "candidate")):
            require_positive_stddev(posterior, role)
        if self.direction == "candidate_to_reference":
            return _natural(reference), _moments(candidate)
        return _moments(reference), _natural(candidate)


def _moments(posterior: Posterior) -> Channels:
    """Return the channels of the first argument of the divergence, in float64."""
    mean = _double(posterior.mean)
    stddev = _double(posterior.stddev)
    return {name: torch.stack([stddev[name].square() + m.square(), m]) for name, m in mean.items()}


def _natural(posterior: Posterior) -> Channels:
    """Return the channels of the second argument of the divergence."""
    mean = _double(posterior.mean)
    stddev = _double(posterior.stddev)
    return {name: torch.stack([torch.full_like(m, -0.5), m]) / stddev[name].square() for name, m in mean.items()}


def _double(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # In float64, since squares and precisions vary over many orders of magnitude.
    return {name: tensor.double() for name, tensor in tensors.items()}
