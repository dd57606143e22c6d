"""The interface of posteriors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch

from rebasin_core.posteriors.transformation import isometry_of, raise_not_closed
from rebasin_core.symmetry.symmetry_element import SymmetryElement
from rebasin_core.tensors.files import write_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from torch import Tensor

    from rebasin_core.posteriors.prior import GaussianPrior
    from rebasin_core.symmetry.permutation import GroupElement, Permutation
    from rebasin_core.tensors.names import TensorNames

KIND = "posterior"
"""File type of saved posteriors, stored in their files."""


class Posterior(ABC):
    r"""Distribution over the named parameters of one network, in *weight space* (not function space).

    Parameters are named as in ``model.named_parameters()``. Buffers, such as batch-normalization statistics, are part
    of every posterior sample and are permuted with the parameters. No method modifies a posterior.

    Laws:
        - *Complete samples*: ``sample(shape)`` has all parameters and buffers, each ``[*shape, *s]``.
        - *Equivariance*: ``q.permute(g).from_noise(q.permute_noise(g, noise)) == g.apply(q.from_noise(noise))``.
        - *Moments*: mean and standard deviation of ``q.permute(g)`` are those of ``q``, permuted.
        - *Group action*: ``q.permute(g).permute(g.inverse())`` equals ``q``.
        - *Linear maps*: all of this holds for `transform` and `transform_noise` and elements of any kind under which
          the representation is closed; others raise an error.
        - *Reproducibility*: generators in equal states give equal samples. The global generator is not used.
        - *No aliasing*: in-place changes of a returned tensor do not change the posterior.
        - *Serialization*: `load` after `save` gives an equal posterior, as do pickling and `copy.deepcopy`.
    """

    kind: ClassVar[str]
    """Name of the representation in files and in the registry."""

    @property
    @abstractmethod
    def mean(self) -> dict[str, Tensor]:
        """Mean of every parameter, each ``[*s]``."""

    @property
    @abstractmethod
    def stddev(self) -> dict[str, Tensor]:
        """Marginal standard deviation of every parameter, each ``[*s]``; zero for parameters that are not random."""

    @property
    @abstractmethod
    def buffers(self) -> dict[str, Tensor]:
        """Buffers by name, each ``[*s]``."""

    @abstractmethod
    def draw_noise(self, sample_shape: Sequence[int] = (), *, generator: torch.Generator) -> dict[str, Tensor]:
        """Sample the base noise that `from_noise` transforms to posterior samples (reparameterization).

        Noise is generated on the generator's device and copied to the posterior's. A CPU generator therefore gives the
        same noise on every device.

        Args:
            sample_shape: Leading shape of the samples.
            generator: Random number generator.

        Returns:
            Noise tensors ``[*sample_shape, ...]``. A tensor with the name of a parameter is attached to it: it is
            permuted as the parameter is.
        """

    @abstractmethod
    def from_noise(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the posterior samples for given base noise.

        Args:
            noise: Noise from `draw_noise` of this posterior, or of another one with the same representation and names.
                Posteriors that use the same noise have common random numbers.

        Returns:
            Parameters and buffers, each ``[*sample_shape, *s]``.
        """

    @abstractmethod
    def permute(self, permutation: Permutation) -> Self:
        """Return the push-forward of this distribution under a group element.

        Args:
            permutation: Permutation $g$ whose layout contains all parameters and buffers.

        Returns:
            The distribution of ``g.apply(theta)``.

        Raises:
            InvalidInputError: If names or shapes do not fit the layout.
        """

    @final
    def transform(self, element: GroupElement) -> Self:
        """Return the push-forward of this distribution under a group element of any kind.

        Single networks, samples and mixtures of representations that allow it are closed under all elements. A
        diagonal Gaussian is closed under signs and scales, a full Gaussian under all elements, and a low-rank Gaussian
        if its independent part is. Flips add weights to biases, which become dependent: a diagonal Gaussian is not
        closed under them. The prior is transformed, too; it is None if the transformed one is not diagonal.

        Args:
            element: Group element whose layout contains all parameters and buffers. A permutation is applied by
                `permute`.

        Returns:
            The distribution of ``element.apply(theta)``.

        Raises:
            InvalidInputError: If names or shapes do not fit the layout, or the representation is not closed under the
                element.
        """
        if isinstance(element, SymmetryElement) and not element.linear_maps.are_trivial:
            return self._transform(element)
        return self.permute(element.permutation)

    def _transform(self, element: SymmetryElement) -> Self:
        """Return the distribution of ``element.apply(theta)``; raise unless overridden.

        Args:
            element: An element with at least one map other than the identity.

        Raises:
            NotClosedError: If the representation is not closed under the element.
        """
        raise_not_closed(self.kind, element.linear_maps.acting()[0], "it defines no such transformation")

    @abstractmethod
    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Return this posterior on another device or in another floating-point dtype.

        Args:
            device: Device of the tensors; unchanged if None.
            dtype: Dtype of the floating-point tensors; unchanged if None.

        Returns:
            A posterior that is equal up to rounding.
        """

    @abstractmethod
    def as_tensors(self) -> dict[str, Tensor]:
        """Return all tensors of the posterior by name, in the format that `save` writes and `from_tensors` reads."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Return the posterior for the tensors of a file.

        Args:
            tensors: Tensors by name, as from `as_tensors`.

        Returns:
            The posterior.

        Raises:
            FileFormatError: If the tensors are not those of this representation.
        """

    @final
    def named_as(self, names: TensorNames) -> Posterior:
        """Return this posterior with the tensor names of a network.

        Alternative names of shared tensors and prefixes of wrapper modules are replaced. Tensors that are not random
        are classified as parameters or buffers as in the network.

        Args:
            names: Names of the network's tensors.

        Returns:
            The same distribution; this object if no name changes.

        Raises:
            InvalidInputError: If a parameter has an integer dtype, or two names of one tensor have different values.
        """
        return self._named_as(names)

    def _named_as(self, names: TensorNames) -> Posterior:
        """Return the posterior with other names; unchanged unless overridden."""
        del names
        return self

    @property
    def is_point(self) -> bool:
        """Whether this is a point mass: a single network without randomness."""
        return False

    @property
    def prior(self) -> GaussianPrior | None:
        """Prior under which the posterior was fitted; None if unknown."""
        return None

    def shared_mean(self) -> Mapping[str, Tensor]:
        """Return `mean` without copying if possible; the tensors must not be modified.

        Returns:
            All parameters by name, including fixed ones.
        """
        return self.mean

    def permute_noise(  # ruff: ignore[no-self-use] - overridden by representations with other noise
        self, permutation: Permutation, noise: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the noise for which the permuted posterior returns the permuted samples.

        This implementation permutes each tensor that has the name of a tensor of the layout, and returns all others
        unchanged. Representations with other noise override it.

        Args:
            permutation: The permutation.
            noise: Noise from `draw_noise`.

        Returns:
            Noise for ``self.permute(permutation).from_noise``.
        """
        attached = {
            name: tensor for name, tensor in noise.items() if permutation.layout.key(name) in permutation.layout.axes
        }
        return {**noise, **permutation.apply(attached)}

    @final
    def transform_noise(self, element: GroupElement, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the noise for which the transformed posterior returns the transformed samples.

        Args:
            element: Group element under which this posterior is closed.
            noise: Noise from `draw_noise`.

        Returns:
            Noise for ``self.transform(element).from_noise``. Exceptions are Kronecker-factored Gaussians whose bases
            are recomputed (see `KroneckerGaussianPosterior`); their samples are independent of those before.
        """
        if isinstance(element, SymmetryElement) and not element.linear_maps.are_trivial:
            return self._transform_noise(element, noise)
        return self.permute_noise(element.permutation, noise)

    def _transform_noise(  # ruff: ignore[no-self-use] - overridden by representations with other noise
        self, element: SymmetryElement, noise: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the noise of `transform_noise` for an element with linear maps.

        This implementation transforms each tensor that has the name of a tensor of the layout by the signs and the
        orthogonal maps of the element, and returns all others unchanged.
        """
        attached = {name: tensor for name, tensor in noise.items() if element.layout.key(name) in element.layout.axes}
        return {**noise, **isometry_of(element).apply_to_deviations(attached)}

    @final
    def save(self, path: Path | str, *, meta: Mapping[str, Any] | None = None) -> None:
        """Write the posterior to a safetensors file atomically.

        Args:
            path: The file; replaced if it exists.
            meta: JSON-serializable metadata to store in the file, such as how the posterior was trained.

        Raises:
            StorageError: If the file cannot be written.
        """
        document = {"representation": self.kind, "meta": dict(meta or {})}
        write_tensors(path, self.as_tensors(), kind=KIND, document=document)

    @final
    def sample(self, sample_shape: Sequence[int] = (), *, generator: torch.Generator) -> dict[str, Tensor]:
        """Return independent posterior samples.

        Args:
            sample_shape: Leading shape of the samples; ``()`` for one sample without a leading dimension.
            generator: Random number generator.

        Returns:
            Parameters and buffers, each ``[*sample_shape, *s]``.
        """
        return self.from_noise(self.draw_noise(sample_shape, generator=generator))

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next((tensor.device for tensor in self.mean.values()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point dtype of the parameters."""
        return next((tensor.dtype for tensor in self.mean.values()), torch.get_default_dtype())
