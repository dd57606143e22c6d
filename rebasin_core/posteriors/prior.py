"""The prior that a posterior was fitted under: permutations act on it as on the parameters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.tensors.checks import require_finite, require_same_names
from rebasin_core.tensors.frozen import FrozenMapping
from rebasin_core.tensors.statistics import gaussian_kl, isotropic_kl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor

    from rebasin_core.symmetry.layout import Layout


@final
@dataclass(frozen=True, slots=True)
class GaussianPrior:
    r"""Independent Gaussians over parameters, $\mathcal N(\mu, \mathrm{diag}(\sigma^2))$.

    A prior that is equal for all units of a layer does not change under permutations (it is *exchangeable*). A prior
    with a mean or a scale for each entry (a pretrained mean, MOPED, relevance determination) does change. It has to be
    permuted with the parameters: otherwise the evidence lower bound of the permuted posterior differs.

    Attributes:
        mean: $\mu$ by parameter name; each a scalar for all entries, or of the parameter's shape.
        stddev: $\sigma$ by parameter name, positive; the same.

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
                    f"the prior's standard deviation of `{name}` is {stddev.min().item():.3g}; expected above zero"
                )
                raise InvalidInputError(message)
        # Looked up at every step of training, where asking the device each time would be slow.
        object.__setattr__(self, "_centered", frozenset(name for name, mean in self.mean.items() if not mean.any()))

    @classmethod
    def isotropic(cls, names: Iterable[str], scale: float) -> GaussianPrior:
        """Return the centered prior with one scale for all entries.

        Args:
            names: Of the parameters.
            scale: Its standard deviation, positive.

        Returns:
            The prior.

        Raises:
            InvalidInputError: If the scale is not positive and finite.
        """
        ones = {name: torch.tensor(float(scale)) for name in names}
        return cls({name: torch.zeros(()) for name in ones}, ones)

    def log_prob(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the log density at parameters.

        Args:
            parameters: At least the parameters of the prior, each ``[*s]``.

        Returns:
            A scalar, in nats, summed over all entries; differentiable.
        """
        terms: list[Tensor] = []
        for name, centre in self.mean.items():
            value = parameters[name]
            # Unchecked: at parameters that diverged the density is NaN, which whoever trains reports in their words.
            normal = torch.distributions.Normal(centre.to(value), self.stddev[name].to(value), validate_args=False)
            terms.append(normal.log_prob(value).sum())
        return torch.stack(terms).sum()

    def kl(self, mean: Mapping[str, Tensor], stddev: Mapping[str, Tensor]) -> Tensor:
        r"""Return $\mathrm{KL}(q \,\|\, p)$ of independent Gaussians $q$ from this prior.

        Args:
            mean: Means of $q$.
            stddev: Standard deviations of $q$, positive.

        Returns:
            A scalar, in nats, summed over all entries; differentiable.
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
        """Return the prior with a function applied to its tensors; scalars are kept.

        Args:
            function: Maps tensors of the parameters' shapes to such tensors.

        Returns:
            The new prior.
        """
        return GaussianPrior(_mapped(self.mean, function), _mapped(self.stddev, function))

    def is_exchangeable(self, layout: Layout) -> bool:
        """Return whether no permutation of a layout changes the prior.

        Args:
            layout: The symmetries.

        Returns:
            True if random group elements leave it as it is.
        """
        if not any(tensor.dim() for part in (self.mean, self.stddev) for tensor in part.values()):
            return True
        generator = torch.Generator().manual_seed(0)
        element = Permutation.random(layout, generator=generator)
        return all(
            torch.equal(tensor, _mapped({name: tensor}, element.apply)[name])
            for part in (self.mean, self.stddev)
            for name, tensor in part.items()
            if name in layout.axes
        )


def _mapped(
    tensors: Mapping[str, Tensor], function: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
) -> dict[str, Tensor]:
    whole = {name: tensor for name, tensor in tensors.items() if tensor.dim()}
    return {**tensors, **function(whole)}
