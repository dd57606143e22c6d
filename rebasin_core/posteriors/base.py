"""The interface of posteriors, and the capabilities that some of them have."""

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

    from rebasin_core.symmetry.permutation import Permutation

KIND = "posterior"
"""What the file of a posterior says that it holds."""


class Posterior(ABC):
    r"""A distribution over the named parameters of one network, in *weight space*.

    Parameters are keyed by the names of ``model.named_parameters()``; buffers (normalisation statistics) ride along,
    are moved by permutations, and are never random. A posterior is a value: no method changes it.

    Laws:
        - *Complete samples*: ``sample(shape)`` holds every parameter and buffer, each of shape ``[*shape, *s]``.
        - *Equivariance*: for shared noise, ``permute(g).from_noise(permute_noise(g, noise)) == g(from_noise(noise))``.
        - *Moments move*: the mean and the standard deviation of ``permute(g)`` are those of the original, moved.
        - *Group action*: permuting by ``g`` and then by its inverse gives the same distribution back.
        - *Repeatable*: equal generators in equal states give equal samples; the global generator is not touched.
        - *No aliasing*: changing a tensor of the result in place does not change the posterior.
        - *Round trip*: `save` then `load` gives an equal posterior.
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
        """The buffers that ride along, each ``[*s]``."""

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
        """Return the samples that noise stands for.

        Args:
            noise: As drawn by `draw_noise`, of this posterior or of another one of the same kind and names: sharing
                noise gives common random numbers.

        Returns:
            Parameters and buffers, each ``[*sample_shape, *s]``.
        """

    @abstractmethod
    def permute(self, permutation: Permutation) -> Self:
        """Return the push-forward of this distribution under a group element.

        Args:
            permutation: A group element whose layout names all parameters and buffers.

        Returns:
            The moved distribution.

        Raises:
            InvalidInputError: If the layout does not fit.
        """

    @abstractmethod
    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Return this posterior on another device or in another floating dtype.

        Args:
            device: Where its tensors shall lie; None leaves them.
            dtype: The dtype of its floating tensors; None leaves them.

        Returns:
            An equal posterior, to rounding.
        """

    @abstractmethod
    def as_tensors(self) -> dict[str, Tensor]:
        """Return all that the posterior is made of, as `save` writes it and `from_tensors` reads it."""

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

    def shared_mean(self) -> Mapping[str, Tensor]:
        """Return `mean`, not copied where it need not be: to be read, not to be written into.

        Returns:
            Parameters, fixed ones included, by name.
        """
        return self.mean

    def permute_noise(  # ruff: ignore[no-self-use] - overridden where noise is attached otherwise
        self, permutation: Permutation, noise: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the noise from which the moved posterior makes the moved samples.

        Args:
            permutation: A group element.
            noise: As drawn by `draw_noise`.

        Returns:
            Entries that are named like a tensor of the layout are moved with it; all others stay. A representation
            whose noise is attached otherwise overrides this.
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


class AbstractLogDensity(ABC):
    """A posterior with a density.

    Laws:
        - *Invariance*: ``permute(g).log_prob(g(x)) == log_prob(x)``, and the entropy does not change.
    """

    @abstractmethod
    def log_prob(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the log density at parameters.

        Args:
            parameters: Every random parameter, each ``[*lead, *s]``; buffers are ignored.

        Returns:
            ``[*lead]``, in nats, summed over all entries.
        """

    @abstractmethod
    def entropy(self) -> Tensor:
        """Return the differential entropy, a scalar in nats, summed over all entries."""


class AbstractGeodesic(ABC):
    r"""A posterior whose 2-Wasserstein geodesics to others of its kind are known in closed form.

    Laws:
        - *Ends*: ``geodesic(other, 0)`` is this posterior and ``geodesic(other, 1)`` is the other one.
        - *Constant speed*: $W_2(q_0, q_t) = t \, W_2(q_0, q_1)$.
    """

    @abstractmethod
    def geodesic(self, other: Posterior, t: float) -> Posterior:
        """Return the point at ``t`` on the 2-Wasserstein geodesic to another posterior.

        Args:
            other: A posterior of the same kind and names.
            t: In [0, 1].

        Returns:
            The posterior there, whose noise is compatible with the ends' (common random numbers).

        Raises:
            InvalidInputError: If the other posterior is of another kind or has other tensors.
        """


class AbstractCoupling(ABC):
    r"""A posterior with a path to others of its kind that stays within the kind, and is no 2-Wasserstein geodesic.

    Samples of both ends are coupled by their noise, and move on straight lines.

    Laws:
        - *Ends*: ``coupled(other, 0)`` is this posterior and ``coupled(other, 1)`` is the other one.
        - *Mean*: linear in t.
    """

    @abstractmethod
    def coupled(self, other: Posterior, t: float) -> Posterior:
        """Return the point at ``t`` on the path to another posterior.

        Args:
            other: A posterior of the same kind and names.
            t: In [0, 1].

        Returns:
            The posterior there, whose noise is compatible with the ends' (common random numbers).

        Raises:
            InvalidInputError: If the other posterior is of another kind or has other tensors.
        """
