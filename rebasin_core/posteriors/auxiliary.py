"""The tensors of a posterior that are not random: buffers, fixed parameters, the prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict, final

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.prior import GaussianPrior
from rebasin_core.tensors.checks import require_finite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.tensors.names import TensorNames

# The prefixes of their names in files.
_BUFFERS = "buffers"
_FIXED = "fixed"
_PRIOR_MEAN = "prior.mean"
_PRIOR_STDDEV = "prior.stddev"


class AuxiliaryOptions(TypedDict):
    """Auxiliary tensors as keyword arguments of a posterior's constructor."""

    buffers: Mapping[str, Tensor] | None
    fixed: Mapping[str, Tensor] | None
    prior: GaussianPrior | None


@final
@dataclass(frozen=True, slots=True)
class AuxiliaryTensors:
    """Tensors that belong to a posterior and are not random.

    Attributes:
        buffers: The model's buffers.
        fixed: Parameters that are not random: of a partly stochastic network, all but the stochastic ones.
        prior: The prior that the posterior was fitted under, if it is known.
    """

    buffers: Mapping[str, Tensor]
    fixed: Mapping[str, Tensor]
    prior: GaussianPrior | None

    @classmethod
    def of(
        cls,
        buffers: Mapping[str, Tensor] | None,
        fixed: Mapping[str, Tensor] | None,
        prior: GaussianPrior | None,
    ) -> AuxiliaryTensors:
        """Return the auxiliary tensors of a posterior, detached.

        Args:
            buffers: By name; none if not given.
            fixed: By name; none if not given.
            prior: If known.

        Returns:
            The auxiliary tensors.
        """
        return cls(_detached(buffers), _detached(fixed), prior)

    @property
    def options(self) -> AuxiliaryOptions:
        """The auxiliary tensors as keyword arguments."""
        return {"buffers": self.buffers, "fixed": self.fixed, "prior": self.prior}

    def check(self, random: Iterable[str], what: str) -> None:
        """Raise if these tensors do not fit the random parameters.

        Args:
            random: Names of the random parameters.
            what: The name of the posterior, for messages.

        Raises:
            InvalidInputError: If a name is given twice, or a tensor is not finite.
        """
        require_finite(self.buffers, f"buffers of {what}")
        require_finite(self.fixed, f"fixed parameters of {what}")
        names = [*random, *self.buffers, *self.fixed]
        twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if twice:
            message = f"{twice} are given more than once: as random parameters, fixed parameters or buffers"
            raise InvalidInputError(message)

    def mapped(self, function: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]) -> AuxiliaryTensors:
        """Return the result of a function of the tensors.

        Args:
            function: Maps tensors of the parameters' shapes to such tensors.

        Returns:
            The new auxiliary tensors.
        """
        prior = None if self.prior is None else self.prior.mapped(function)
        return AuxiliaryTensors(function(self.buffers), function(self.fixed), prior)

    def named_as(self, names: TensorNames, what: str) -> AuxiliaryTensors:
        """Return these tensors as those of a network, by its names; see `Posterior.named_as`.

        Args:
            names: The names of the network's tensors.
            what: The name of the posterior, for messages.

        Returns:
            The new auxiliary tensors.
        """
        fixed, buffers = names.divide(self.fixed, self.buffers, what)
        prior = self.prior
        if prior is not None:
            prior = GaussianPrior(names.renamed(prior.mean, what), names.renamed(prior.stddev, what))
        return AuxiliaryTensors(buffers, fixed, prior)

    def expanded(self, sample_shape: Sequence[int]) -> dict[str, Tensor]:
        """Return fixed parameters and buffers as parts of samples.

        Args:
            sample_shape: Leading shape of the samples.

        Returns:
            Each ``[*sample_shape, *s]``, sharing no memory.
        """
        every = {**self.fixed, **self.buffers}
        return {name: tensor.expand((*sample_shape, *tensor.shape)).clone() for name, tensor in every.items()}

    def as_tensors(self) -> dict[str, Tensor]:
        """Return all tensors by the names they have in files."""
        parts = {_BUFFERS: self.buffers, _FIXED: self.fixed}
        if self.prior is not None:
            parts |= {_PRIOR_MEAN: self.prior.mean, _PRIOR_STDDEV: self.prior.stddev}
        return {f"{prefix}/{name}": tensor for prefix, part in parts.items() for name, tensor in part.items()}

    @classmethod
    def pop_from(cls, fields: dict[str, dict[str, Tensor]]) -> AuxiliaryTensors:
        """Remove the auxiliary tensors from the parts of a file, and return them.

        Args:
            fields: Tensors by part and name; changed.

        Returns:
            The auxiliary tensors.
        """
        buffers = fields.pop(_BUFFERS, {})
        fixed = fields.pop(_FIXED, {})
        mean = fields.pop(_PRIOR_MEAN, {})
        stddev = fields.pop(_PRIOR_STDDEV, {})
        return cls(buffers, fixed, GaussianPrior(mean, stddev) if mean else None)


def _detached(tensors: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in (tensors or {}).items()}
