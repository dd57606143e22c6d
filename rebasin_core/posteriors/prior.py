"""Gaussian priors, which are permuted with the parameters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import InvalidInputError, NotClosedError
from rebasin_core.posteriors.transformation import acting_on, transformed_scales
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.symmetry.stack_action import applied_to_axes
from rebasin_core.tensors.checks import require_finite, require_same_names
from rebasin_core.tensors.frozen import FrozenMapping
from rebasin_core.tensors.statistics import gaussian_kl, isotropic_kl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor

    from rebasin_core.symmetry.layout import Layout
    from rebasin_core.symmetry.symmetry_element import SymmetryElement

_KIND = "prior"


@final
@dataclass(frozen=True, slots=True)
class GaussianPrior:
    r"""Gaussian prior $\mathcal N(\mu, \mathrm{diag}(\sigma^2))$ over parameters.

    A prior that is the same for all units of a layer is *exchangeable*: permutations do not change it. A prior with a
    mean or a scale for each entry (a pretrained mean, MOPED, automatic relevance determination) is permuted with the
    parameters. Otherwise the permuted posterior would have another evidence lower bound (ELBO).

    Attributes:
        mean: Mean $\mu$ by parameter name, each a scalar or of the parameter's shape ``[*s]``.
        stddev: Standard deviation $\sigma$ by parameter name, positive, each a scalar or ``[*s]``.

    Raises:
        InvalidInputError: On construction, if names differ, or a standard deviation is not positive and finite.

    Examples:
        >>> prior = GaussianPrior.isotropic(["w"], 2.0)
        >>> prior.kl({"w": torch.zeros(1)}, {"w": 2 * torch.ones(1)}).item()
        0.0
    """

    mean: Mapping[str, Tensor]
    stddev: Mapping[str, Tensor]
    _centered: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Freeze the mappings and check them."""
        for part in ("mean", "stddev"):
            object.__setattr__(self, part, FrozenMapping({n: t.detach() for n, t in getattr(self, part).items()}))
        require_same_names(self.mean, self.stddev, "the prior's standard deviation")
        require_finite({**self.mean}, "the prior's mean")
        require_finite({**self.stddev}, "the prior's standard deviation")
        for name, stddev in self.stddev.items():
            if not bool((stddev > 0).all()):
                message = (
                    f"expected a positive prior standard deviation of `{name}`, got a minimum of "
                    f"{stddev.min().item():.3g}"
                )
                raise InvalidInputError(message)
        # Computed once: a test in every training step would synchronize with the device.
        object.__setattr__(self, "_centered", frozenset(name for name, mean in self.mean.items() if not mean.any()))

    @classmethod
    def isotropic(cls, names: Iterable[str], scale: float) -> GaussianPrior:
        r"""Return the prior $\mathcal N(0, \sigma^2 I)$.

        Args:
            names: Names of the parameters.
            scale: Standard deviation $\sigma$ of all entries, positive.

        Returns:
            The prior.

        Raises:
            InvalidInputError: If the scale is not positive and finite.
        """
        ones = {name: torch.tensor(float(scale)) for name in names}
        return cls({name: torch.zeros(()) for name in ones}, ones)

    def log_prob(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the log density at given parameters.

        Args:
            parameters: All parameters of the prior, each ``[*s]``; others are ignored.

        Returns:
            Log density over all parameters, a differentiable scalar in nats.
        """
        terms: list[Tensor] = []
        for name, center in self.mean.items():
            value = parameters[name]
            # Not validated: parameters that diverged give NaN, and the training loop raises `DivergenceError`.
            normal = torch.distributions.Normal(center.to(value), self.stddev[name].to(value), validate_args=False)
            terms.append(normal.log_prob(value).sum())
        return torch.stack(terms).sum()

    def kl(self, mean: Mapping[str, Tensor], stddev: Mapping[str, Tensor]) -> Tensor:
        r"""Return $\mathrm{KL}(q \,\|\, p)$ of a diagonal Gaussian $q$ and this prior $p$.

        Args:
            mean: Means of $q$ by parameter name, each ``[*s]``.
            stddev: Standard deviations of $q$ by parameter name, each ``[*s]``, positive.

        Returns:
            Divergence over all parameters of the prior, a differentiable scalar in nats.
        """
        terms: list[Tensor] = []
        for name, center in self.mean.items():
            m = mean[name]
            s = stddev[name]
            scale = self.stddev[name].to(m)
            if scale.dim():
                terms.append(gaussian_kl(m, s, center.to(m), scale))
            else:
                terms.append(isotropic_kl(m if name in self._centered else m - center.to(m), s, scale))
        return torch.stack(terms).sum()

    def mapped(self, function: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]) -> GaussianPrior:
        """Apply a function to the tensors of the prior that have the shapes of the parameters; keep scalars.

        Args:
            function: Function from tensors by name to new tensors by name.

        Returns:
            The new prior.
        """
        return GaussianPrior(_mapped(self.mean, function), _mapped(self.stddev, function))

    def permuted(self, permutation: Permutation) -> GaussianPrior:
        """Return the prior after a permutation of the parameters.

        Args:
            permutation: The permutation. Scalars of parameters in stacks are exchanged with them.

        Returns:
            The permuted prior.
        """
        return GaussianPrior(_permuted(self.mean, permutation), _permuted(self.stddev, permutation))

    def transformed(self, element: SymmetryElement) -> GaussianPrior | None:
        """Return the prior after a transformation of the parameters.

        Args:
            element: A group element with linear maps.

        Returns:
            The transformed prior; None if its entries are not independent, since an orthogonal map mixes entries of
            different standard deviations, an invertible map acts on a parameter, or a flip adds weights to a bias.

        Raises:
            InvalidInputError: If a parameter has another shape than in the layout.
        """
        if any(linear.shifts for linear in element.linear_maps.acting()):
            return None
        parts = [dict(self.mean), dict(self.stddev)]
        for name in self.mean:
            if acting_on(element, name):
                shape = element.layout.shape(element.layout.names.of(name) or name)
                for part in parts:
                    part[name] = part[name].expand(shape)
        mean, stddev = parts
        try:
            scales = transformed_scales(_KIND, element, _whole(stddev), gaussian=True)
        except NotClosedError:
            return None
        return GaussianPrior({**mean, **element.apply_to_deviations(_whole(mean))}, {**stddev, **scales})

    def is_exchangeable(self, layout: Layout) -> bool:
        """Return whether permutations of a layout leave the prior unchanged, by a cyclic shift and a random one.

        Args:
            layout: The permutation symmetries.

        Returns:
            True if neither permutation changes the prior.
        """
        if not layout.stacks and not any(t.dim() for part in (self.mean, self.stddev) for t in part.values()):
            return True
        # A random permutation of a small group may be the identity. The shift has no fixed point.
        shifted = {name: index.roll(1, -1) for name, index in Permutation.identity(layout).indices.items()}
        elements = Permutation(layout, shifted), Permutation.random(layout, generator=torch.Generator().manual_seed(0))
        return all(self._is_invariant(element) for element in elements)

    def _is_invariant(self, element: Permutation) -> bool:
        """Return whether a permutation leaves the prior unchanged."""
        for part in (self.mean, self.stddev):
            own = {name: tensor for name, tensor in part.items() if element.layout.key(name) in element.layout.axes}
            permuted = _permuted(own, element)
            if not all(torch.equal(tensor, permuted[name]) for name, tensor in own.items()):
                return False
        return True


def _permuted(tensors: Mapping[str, Tensor], permutation: Permutation) -> dict[str, Tensor]:
    stacked = permutation.layout.stacks
    scalars = {n: t for n, t in tensors.items() if not t.dim() and permutation.layout.key(n) in stacked}
    exchanged = applied_to_axes(permutation, scalars, lambda _: range(0))
    return {**tensors, **exchanged, **permutation.apply(_whole(tensors))}


def _mapped(
    tensors: Mapping[str, Tensor], function: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
) -> dict[str, Tensor]:
    return {**tensors, **function(_whole(tensors))}


def _whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that are not scalars."""
    return {name: tensor for name, tensor in tensors.items() if tensor.dim()}
