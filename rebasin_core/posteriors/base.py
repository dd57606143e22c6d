"""The interface of posteriors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch

from rebasin_core.tensors.files import write_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from torch import Tensor

    from rebasin_core.posteriors.prior import GaussianPrior
    from rebasin_core.symmetry.permutation import Permutation
    from rebasin_core.tensors.names import TensorNames

KIND = "posterior"
"""The kind that the file of a posterior states."""


class Posterior(ABC):
    r"""A distribution over the named parameters of one network, in *weight space*.

    Parameters are keyed by the names of ``model.named_parameters()``. Buffers (normalization statistics) belong to the
    posterior too: permutations act on them, and they are never random. A posterior is a value: no method changes it.

    Laws:
        - *Complete samples*: ``sample(shape)`` holds every parameter and buffer, each of shape ``[*shape, *s]``.
        - *Equivariance*: for shared noise, ``permute(g).from_noise(permute_noise(g, noise)) == g(from_noise(noise))``.
        - *Moments*: the mean and the standard deviation of ``permute(g)`` are the permuted ones of the original.
        - *Group action*: permuting by ``g`` and then by its inverse gives the same distribution back.
        - *Repeatable*: equal generators in equal states give equal samples; the global generator is not touched.
        - *No aliasing*: changing a tensor of the result in place does not change the posterior.
        - *Round trip*: `save` then `load` gives an equal posterior, and so do pickling and `copy.deepcopy`.
    """

    kind: ClassVar[str]
    """The name of the representation, in files and in the registry."""

    @property
    @abstractmethod
    def mean(self) -> dict[str, Tensor]:
        """The mean of every parameter, each ``[*s]``."""

    @property
    @abstractmethod
    def stddev(self) -> dict[str, Tensor]:
        """The marginal standard deviation of every parameter, each ``[*s]``; zero where it is not random."""

    @property
    @abstractmethod
    def buffers(self) -> dict[str, Tensor]:
        """The buffers, each ``[*s]``."""

    @abstractmethod
    def draw_noise(self, sample_shape: Sequence[int] = (), *, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the noise from which `from_noise` makes samples.

        Noise is drawn on the generator's device and then moved to the posterior's, so that a CPU generator gives the
        same noise on every device.

        Args:
            sample_shape: Leading shape of the samples.
            generator: The source of randomness.

        Returns:
            Noise tensors ``[*sample_shape, ...]``; those named like a parameter are attached to it.
        """

    @abstractmethod
    def from_noise(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the samples that correspond to noise.

        Args:
            noise: From `draw_noise` of this posterior, or of another one of the same kind and names: sharing noise
                gives common random numbers.

        Returns:
            Parameters and buffers, each ``[*sample_shape, *s]``.
        """

    @abstractmethod
    def permute(self, permutation: Permutation) -> Self:
        """Return the push-forward of this distribution under a group element.

        Args:
            permutation: A group element whose layout names all parameters and buffers.

        Returns:
            The permuted distribution.

        Raises:
            InvalidInputError: If the layout does not fit.
        """

    @abstractmethod
    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Return this posterior on another device or in another floating dtype.

        Args:
            device: The device of its tensors; None keeps it.
            dtype: The dtype of its floating tensors; None keeps it.

        Returns:
            An equal posterior, to rounding.
        """

    @abstractmethod
    def as_tensors(self) -> dict[str, Tensor]:
        """Return all tensors of the posterior, as `save` writes them and `from_tensors` reads them."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Return the posterior whose file holds these tensors.

        Args:
            tensors: As read from a file.

        Returns:
            The posterior.

        Raises:
            FileFormatError: If the tensors are not those of this representation.
        """

    @final
    def named_as(self, names: TensorNames) -> Posterior:
        """Return this posterior over the tensors of a network, by the names that the network has for them.

        Second names of a tensor and the prefixes of wrapping modules are replaced, and tensors that are not random are
        divided into parameters and buffers as the network has them.

        Args:
            names: The names of the network's tensors.

        Returns:
            The same distribution; this object where nothing is named otherwise.

        Raises:
            InvalidInputError: If a parameter holds integers, or two names of one tensor have different values.
        """
        return self._named_as(names)

    def _named_as(self, names: TensorNames) -> Posterior:
        """Return the posterior by other names; overridden by representations that can."""
        del names
        return self

    @property
    def is_point(self) -> bool:
        """Whether this is a single network without randomness, of which one sample is enough."""
        return False

    @property
    def prior(self) -> GaussianPrior | None:
        """The prior that the posterior was fitted under, if it is known."""
        return None

    def shared_mean(self) -> Mapping[str, Tensor]:
        """Return `mean` without copying where possible: to be read, not written.

        Returns:
            Parameters, fixed ones included, by name.
        """
        return self.mean

    def permute_noise(  # ruff: ignore[no-self-use] - overridden where noise is attached otherwise
        self, permutation: Permutation, noise: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the noise from which the permuted posterior makes the permuted samples.

        Args:
            permutation: A group element.
            noise: From `draw_noise`.

        Returns:
            Entries that are named like a tensor of the layout are permuted with it; all others are unchanged. A
            representation whose noise is attached otherwise overrides this method.
        """
        attached = {name: tensor for name, tensor in noise.items() if name in permutation.layout.axes}
        return {**noise, **permutation.apply(attached)}

    @final
    def save(self, path: Path | str, *, meta: Mapping[str, Any] | None = None) -> None:
        """Write the posterior to a safetensors file, atomically.

        Args:
            path: The file; replaced if it exists.
            meta: Anything JSON can hold (how it was trained), kept in the file.

        Raises:
            StorageError: If it cannot be written.
        """
        document = {"representation": self.kind, "meta": dict(meta or {})}
        write_tensors(path, self.as_tensors(), kind=KIND, document=document)

    @final
    def sample(self, sample_shape: Sequence[int] = (), *, generator: torch.Generator) -> dict[str, Tensor]:
        """Return independent samples of all parameters, and the buffers.

        Args:
            sample_shape: Leading shape; empty for one sample without a leading dimension.
            generator: The source of randomness.

        Returns:
            Parameters and buffers, each ``[*sample_shape, *s]``.
        """
        return self.from_noise(self.draw_noise(sample_shape, generator=generator))

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next((tensor.device for tensor in self.mean.values()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The floating dtype of the parameters."""
        return next((tensor.dtype for tensor in self.mean.values()), torch.get_default_dtype())
