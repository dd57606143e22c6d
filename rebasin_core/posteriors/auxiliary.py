"""Auxiliary tensors of a posterior: buffers, fixed parameters and prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict, final

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.prior import GaussianPrior
from rebasin_core.tensors.checks import require_finite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.symmetry.permutation import Permutation
    from rebasin_core.symmetry.symmetry_element import SymmetryElement
    from rebasin_core.tensors.names import TensorNames

# Prefixes of the names in files.
_BUFFERS = "buffers"
_FIXED = "fixed"
_PRIOR_MEAN = "prior.mean"
_PRIOR_STDDEV = "prior.stddev"


class AuxiliaryOptions(TypedDict):
    """Auxiliary tensors as keyword arguments of the constructor of a posterior."""

    buffers: Mapping[str, Tensor] | None
    fixed: Mapping[str, Tensor] | None
    prior: GaussianPrior | None


@final
@dataclass(frozen=True, slots=True)
class AuxiliaryTensors:
    """Tensors of a posterior that are not random, and are permuted with its parameters.

    Attributes:
        buffers: Buffers of the model by name, each ``[*s]``.
        fixed: Parameters that are not random, by name, each ``[*s]``; in a partly stochastic network, all others.
        prior: Prior under which the posterior was fitted; None if unknown.
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
        """Return auxiliary tensors that are detached from the autograd graph.

        Args:
            buffers: Buffers by name; empty if None.
            fixed: Fixed parameters by name; empty if None.
            prior: Prior; None if unknown.

        Returns:
            The auxiliary tensors.
        """
        return cls(_detached(buffers), _detached(fixed), prior)

    @property
    def options(self) -> AuxiliaryOptions:
        """The auxiliary tensors as keyword arguments."""
        return {"buffers": self.buffers, "fixed": self.fixed, "prior": self.prior}

    def check(self, random: Iterable[str], label: str) -> None:
        """Raise if these tensors do not fit the random parameters.

        Args:
            random: Names of the random parameters.
            label: Name of the posterior, for messages.

        Raises:
            InvalidInputError: If a name occurs twice, or a tensor is not finite.
        """
        require_finite(self.buffers, f"buffers of {label}")
        require_finite(self.fixed, f"fixed parameters of {label}")
        names = [*random, *self.buffers, *self.fixed]
        repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if repeated:
            message = (
                "expected each name once among random parameters, fixed parameters and buffers, got "
                f"{repeated} more than once"
            )
            raise InvalidInputError(message)

    def mapped(self, function: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]) -> AuxiliaryTensors:
        """Apply a function to buffers, fixed parameters, and mean and standard deviation of the prior.

        Args:
            function: Function from tensors by name to new tensors by name.

        Returns:
            The new auxiliary tensors.
        """
        prior = None if self.prior is None else self.prior.mapped(function)
        return AuxiliaryTensors(function(self.buffers), function(self.fixed), prior)

    def permuted(self, permutation: Permutation) -> AuxiliaryTensors:
        """Apply a permutation to buffers, fixed parameters and the prior.

        Args:
            permutation: The permutation.

        Returns:
            The new auxiliary tensors.
        """
        prior = None if self.prior is None else self.prior.permuted(permutation)
        return AuxiliaryTensors(permutation.apply(self.buffers), permutation.apply(self.fixed), prior)

    def transformed(self, element: SymmetryElement) -> AuxiliaryTensors:
        """Apply a group element with linear maps to buffers, fixed parameters and the prior.

        Args:
            element: The group element.

        Returns:
            The new auxiliary tensors; without a prior if the transformed one is not diagonal.
        """
        prior = None if self.prior is None else self.prior.transformed(element)
        buffers = element.apply_to_deviations(self.buffers)
        return AuxiliaryTensors(buffers, element.apply_to_deviations(self.fixed), prior)

    def named_as(self, names: TensorNames, label: str) -> AuxiliaryTensors:
        """Return these tensors with the names of a network; see `Posterior.named_as`.

        Args:
            names: Names of the network's tensors.
            label: Name of the posterior, for messages.

        Returns:
            The new auxiliary tensors.
        """
        fixed, buffers = names.divide(self.fixed, self.buffers, label)
        prior = self.prior
        if prior is not None:
            prior = GaussianPrior(names.renamed(prior.mean, label), names.renamed(prior.stddev, label))
        return AuxiliaryTensors(buffers, fixed, prior)

    def expanded(self, sample_shape: Sequence[int]) -> dict[str, Tensor]:
        """Return fixed parameters and buffers, repeated for each sample.

        Args:
            sample_shape: Leading shape of the samples.

        Returns:
            Copies by name, each ``[*sample_shape, *s]``.
        """
        every = {**self.fixed, **self.buffers}
        return {name: tensor.expand((*sample_shape, *tensor.shape)).clone() for name, tensor in every.items()}

    def as_tensors(self) -> dict[str, Tensor]:
        """Return all tensors by their names in files."""
        parts = {_BUFFERS: self.buffers, _FIXED: self.fixed}
        if self.prior is not None:
            parts |= {_PRIOR_MEAN: self.prior.mean, _PRIOR_STDDEV: self.prior.stddev}
        return {f"{prefix}/{name}": tensor for prefix, part in parts.items() for name, tensor in part.items()}

    @classmethod
    def pop_from(cls, fields: dict[str, dict[str, Tensor]]) -> AuxiliaryTensors:
        """Remove the auxiliary tensors from the content of a file, and return them.

        Args:
            fields: Tensors by prefix and name; modified in place.

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
