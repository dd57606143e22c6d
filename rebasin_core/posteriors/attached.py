"""Base class of posteriors whose state is tensors attached to parameters."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, TypeAlias, TypeVar, final

import torch
from typing_extensions import override

from rebasin_core.errors import FileFormatError, InvalidInputError
from rebasin_core.posteriors.auxiliary import AuxiliaryTensors
from rebasin_core.posteriors.base import KIND, Posterior
from rebasin_core.posteriors.checks import require_same_tensors
from rebasin_core.posteriors.interpolation import interpolate, interpolate_buffers
from rebasin_core.posteriors.transformation import require_closed, require_untransformed, transformed_scales
from rebasin_core.tensors.checks import require_finite
from rebasin_core.tensors.files import OF_DAMAGED_TENSORS, read_tensors
from rebasin_core.tensors.modules import copied

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Self

    from torch import Tensor

    from rebasin_core.posteriors.capabilities import PosteriorPath
    from rebasin_core.posteriors.prior import GaussianPrior
    from rebasin_core.symmetry.permutation import Permutation
    from rebasin_core.symmetry.symmetry_element import SymmetryElement
    from rebasin_core.tensors.names import TensorNames

Q = TypeVar("Q", bound="AbstractAttachedPosterior")
Fields: TypeAlias = "Mapping[str, Mapping[str, Tensor]]"
"""Tensors of a posterior by the name of the field (``mean``, ``stddev``) and of the parameter."""
# Prefix of unattached tensors in files.
_UNATTACHED = "free"


class AbstractAttachedPosterior(Posterior):
    """Base class of posteriors whose state is tensors ``[*lead, *s]``, each attached to a parameter of shape ``s``.

    A subclass passes its *fields* to ``super().__init__``: mean, standard deviation, samples and so on, each a mapping
    from parameter names to tensors. This class validates, permutes, converts and saves them. The subclass implements
    moments and samples of its random parameters, to which this class adds fixed parameters and buffers, and `_rebuild`,
    which constructs a posterior from fields.

    Args:
        fields: For each field, tensors ``[*lead, *s]`` by parameter name; the first field has all random parameters.
        auxiliary: Buffers, fixed parameters and prior; none if None.
        unattached: Tensors that belong to no parameter, such as sample weights; none if None.

    Raises:
        InvalidInputError: If a field has unknown parameters, a name occurs twice, or a tensor contains NaN or infinity.
    """

    _buffer_fields: ClassVar[frozenset[str]] = frozenset()
    """Names of the fields whose tensors are attached to buffers instead of random parameters."""

    def __init__(
        self,
        fields: Fields,
        *,
        auxiliary: AuxiliaryTensors | None = None,
        unattached: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._fields = {field: {n: t.detach() for n, t in tensors.items()} for field, tensors in fields.items()}
        self._auxiliary = auxiliary or AuxiliaryTensors.of(None, None, None)
        self._unattached = {name: tensor.detach() for name, tensor in (unattached or {}).items()}
        label = type(self).__name__
        random = next(iter(self._fields.values()))
        names = list(random)
        for field, tensors in self._fields.items():
            if field in self._buffer_fields:
                names += tensors
            elif tensors.keys() - random.keys():
                unknown = sorted(tensors.keys() - random.keys())
                message = f"expected `{field}` of {label} to have random parameters only, got {unknown}"
                raise InvalidInputError(message)
            require_finite(tensors, f"`{field}` of {label}")
        self._auxiliary.check(names, label)

    def _mean(self) -> dict[str, Tensor]:
        """Return copies of the means of the random parameters, each ``[*s]``; by default the field ``mean``."""
        return copied(self._fields["mean"])

    @abstractmethod
    def _stddev(self) -> dict[str, Tensor]:
        """Return the marginal standard deviations of the random parameters.

        Returns:
            New tensors by parameter name, each ``[*s]``.
        """

    @abstractmethod
    def _from_noise(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return samples of the random parameters for given base noise.

        Args:
            noise: Noise from `draw_noise`.

        Returns:
            Samples by parameter name, each ``[*sample_shape, *s]``.
        """

    @classmethod
    @abstractmethod
    def _rebuild(cls, fields: Fields, unattached: Mapping[str, Tensor], auxiliary: AuxiliaryTensors) -> Self:
        """Construct a posterior from its parts, after permutation, conversion or loading.

        Args:
            fields: For each field, tensors ``[*lead, *s]`` by parameter name.
            unattached: Tensors that belong to no parameter.
            auxiliary: Buffers, fixed parameters and prior.

        Returns:
            The posterior.

        Raises:
            KeyError: If a field is missing.
        """

    _linear_fields: ClassVar[frozenset[str]] = frozenset()
    """Names of the fields that linear maps transform as they transform the parameters: means, samples, factors."""
    _scale_fields: ClassVar[frozenset[str]] = frozenset()
    """Names of the fields that are scales of independent, symmetric noise: standard deviations, radii."""
    _has_gaussian_scales: ClassVar[bool] = False
    """Whether the noise of the scale fields is Gaussian: orthogonal maps preserve it if its scales are equal."""

    def _permuted_field(self, permutation: Permutation, field: str) -> dict[str, Tensor]:
        """Return a permuted field. Override it if a tensor has only some of the axes of its parameter."""
        return permutation.apply(self._fields[field])

    def _permuted_unattached(self, permutation: Permutation) -> dict[str, Tensor]:
        """Return the unattached tensors, permuted. Override it if one of them has an axis that is permuted."""
        del permutation
        return self._unattached

    def _transformed_fields(self, element: SymmetryElement) -> Fields:
        """Return all fields, transformed by an element with linear maps. Override it for fields of other kinds."""
        return {field: self._transformed_field(element, field) for field in self._fields}

    def _transformed_field(self, element: SymmetryElement, field: str) -> dict[str, Tensor]:
        tensors = self._fields[field]
        if field in self._linear_fields | self._buffer_fields:
            return element.apply_to_deviations(tensors)
        if field in self._scale_fields:
            return transformed_scales(self.kind, element, tensors, gaussian=self._has_gaussian_scales)
        require_untransformed(self.kind, element, tensors, field)
        return self._permuted_field(element.permutation, field)

    @final
    @property
    @override
    def device(self) -> torch.device:
        return self._any_tensor().device

    @final
    @property
    @override
    def dtype(self) -> torch.dtype:
        return self._any_tensor().dtype

    def _any_tensor(self) -> Tensor:
        """Return a floating-point tensor of the posterior, without a copy."""
        tensors = (
            t for named in (*self._fields.values(), self._fixed) for t in named.values() if t.is_floating_point()
        )
        return next(tensors, torch.zeros(()))

    @final
    @property
    @override
    def mean(self) -> dict[str, Tensor]:
        return {**self._mean(), **copied(self._fixed)}

    @final
    @override
    def shared_mean(self) -> Mapping[str, Tensor]:
        return {**(self._fields.get("mean") or self._mean()), **self._fixed}

    @final
    @property
    @override
    def stddev(self) -> dict[str, Tensor]:
        return {**self._stddev(), **{name: tensor.new_zeros(tensor.shape) for name, tensor in self._fixed.items()}}

    @property
    @override
    def buffers(self) -> dict[str, Tensor]:
        return copied(self._auxiliary.buffers)

    @final
    @property
    def random_names(self) -> tuple[str, ...]:
        """Names of the random parameters; all others are fixed."""
        return tuple(next(iter(self._fields.values())))

    @final
    @property
    def random_mean(self) -> dict[str, Tensor]:
        """Means of the random parameters, each ``[*s]``."""
        return self._mean()

    @final
    @property
    def fixed(self) -> dict[str, Tensor]:
        """Parameters that are not random, each ``[*s]``."""
        return copied(self._fixed)

    @final
    @property
    def unattached(self) -> dict[str, Tensor]:
        """Tensors that belong to no parameter, by name."""
        return copied(self._unattached)

    @final
    @property
    @override
    def prior(self) -> GaussianPrior | None:
        return self._auxiliary.prior

    @override
    def from_noise(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        samples = self._from_noise(noise)
        if not samples:  # without random parameters, the sample shape is that of an empty noise tensor
            return self._auxiliary.expanded(noise[""].shape[:-1])
        name = self.random_names[0]
        lead = samples[name].dim() - self._dimensions(name)
        return {**samples, **self._auxiliary.expanded(samples[name].shape[:lead])}

    def _dimensions(self, name: str) -> int:
        """Return the number of dimensions of a random parameter."""
        return next(iter(self._fields.values()))[name].dim()

    @final
    @override
    def permute(self, permutation: Permutation) -> Self:
        permutation.layout.check({**next(iter(self._fields.values())), **self._fixed, **self.buffers}, self.kind)
        fields = {field: self._permuted_field(permutation, field) for field in self._fields}
        return self._rebuild(fields, self._permuted_unattached(permutation), self._auxiliary.permuted(permutation))

    @final
    @override
    def _transform(self, element: SymmetryElement) -> Self:
        element.layout.check({**next(iter(self._fields.values())), **self._fixed, **self.buffers}, self.kind)
        names = self.random_names
        require_closed(self.kind, element, names, lambda: ({**self.shared_mean(), **self.buffers}, self._stddev()))
        unattached = self._permuted_unattached(element.permutation)
        return self._rebuild(self._transformed_fields(element), unattached, self._auxiliary.transformed(element))

    @final
    @override
    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        def converted(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

        if all(converted(tensor) is tensor for tensor in self.as_tensors().values()):
            return self
        return self._map(lambda tensors: {name: converted(tensor) for name, tensor in tensors.items()})

    @final
    @override
    def as_tensors(self) -> dict[str, Tensor]:
        tensors = {f"{field}/{name}": t for field, named in self._fields.items() for name, t in named.items()}
        unattached = {f"{_UNATTACHED}/{name}": tensor for name, tensor in self._unattached.items()}
        return {**tensors, **unattached, **self._auxiliary.as_tensors()}

    @classmethod
    @final
    def load(cls, path: Path | str) -> Self:
        """Read a posterior of this class from a file.

        Args:
            path: A file written by `save`.

        Returns:
            The posterior, on the CPU.

        Raises:
            FileFormatError: If the file is missing, damaged, or has other content.
        """
        tensors, document = read_tensors(path, kind=KIND)
        if document.get("representation") != cls.kind:
            message = f"{path}: expected a {cls.kind!r} posterior, got {document.get('representation')!r}"
            raise FileFormatError(message)
        try:
            return cls.from_tensors(tensors)
        except OF_DAMAGED_TENSORS as error:
            message = f"{path}: {error}"
            raise FileFormatError(message) from error

    @classmethod
    @final
    @override
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        fields: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            field, _, name = key.partition("/")
            fields.setdefault(field, {})[name] = tensor
        auxiliary = AuxiliaryTensors.pop_from(fields)
        unattached = fields.pop(_UNATTACHED, {})
        try:
            return cls._rebuild(fields, unattached, auxiliary)
        except (KeyError, TypeError) as error:
            message = f"expected the fields of a {cls.kind!r} posterior, got {sorted(fields)}"
            raise FileFormatError(message) from error

    @final
    def linear_path(self, other: Posterior) -> PosteriorPath:
        """Return the path on which every tensor of the representation is linear in t.

        Whether this is a geodesic depends on the representation.

        Args:
            other: Posterior at t = 1, of the same class and over the same tensors.

        Returns:
            A function of t in [0, 1]. Integer buffers are those of the nearer endpoint; the prior is omitted.

        Raises:
            InvalidInputError: If classes, names or shapes differ.
        """
        second = require_compatible(self, other)
        for field, tensors in self._fields.items():
            require_same_tensors(tensors, second._fields[field], f"`{field}` of the second posterior")
        unattached, other_unattached = self.unattached, second.unattached
        require_same_tensors(unattached, other_unattached, "the second posterior")
        buffers, other_buffers = self.buffers, second.buffers
        fixed, other_fixed = self.fixed, second.fixed

        def at(t: float) -> Posterior:
            fields = {field: interpolate_buffers(own, second._fields[field], t) for field, own in self._fields.items()}
            auxiliary = AuxiliaryTensors.of(
                interpolate_buffers(buffers, other_buffers, t), interpolate(fixed, other_fixed, t), None
            )
            return self._rebuild(fields, interpolate_buffers(unattached, other_unattached, t), auxiliary)

        return at

    @override
    def _named_as(self, names: TensorNames) -> Self:
        if self._is_named_as(names):
            return self
        label = f"the {self.kind!r} posterior"
        fields = {field: names.renamed(tensors, label) for field, tensors in self._fields.items()}
        return self._rebuild(fields, self._unattached, self._auxiliary.named_as(names, label))

    def _is_named_as(self, names: TensorNames) -> bool:
        """Return whether all tensors have the names of a network, and are parameters or buffers as in the network."""
        own = [next(iter(self._fields.values())).keys(), self._auxiliary.fixed.keys()]
        buffers = self.buffers.keys()
        if names.buffers is not None and (any(names.buffers & part for part in own) or buffers - names.buffers):
            return False
        return all(names.has_order_of(part) for part in (*own, buffers))

    @final
    def _map(self, function: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]) -> Self:
        fields = {field: function(tensors) for field, tensors in self._fields.items()}
        return self._rebuild(fields, function(self._unattached), self._auxiliary.mapped(function))

    @property
    def _fixed(self) -> Mapping[str, Tensor]:
        return self._auxiliary.fixed

    @override
    def __repr__(self) -> str:
        """Return the class and the numbers of tensors, parameters and buffers."""
        mean = self.mean
        count = sum(tensor.numel() for tensor in mean.values())
        fixed = f", {len(self._fixed)} fixed" if self._fixed else ""
        return f"{type(self).__name__}({len(mean)} tensors{fixed}, {count} parameters, {len(self.buffers)} buffers)"


def require_compatible(first: Q, second: Posterior) -> Q:
    """Return the second posterior if it has the class, tensors and random parameters of the first; raise otherwise.

    Args:
        first: A posterior.
        second: Another posterior.

    Returns:
        ``second``.

    Raises:
        InvalidInputError: If classes, names, shapes or random parameters differ.
    """
    if not isinstance(second, type(first)):
        message = f"expected two posteriors of kind {first.kind!r}, got {first.kind!r} and {second.kind!r}"
        raise InvalidInputError(message)
    require_same_tensors(first.mean, second.mean, "the second posterior")
    differing = sorted(set(first.random_names) ^ set(second.random_names))
    if differing:
        message = f"expected the same random parameters in both posteriors, got {differing} in one only"
        raise InvalidInputError(message)
    require_same_tensors(first.buffers, second.buffers, "the buffers of the second posterior")
    return second
