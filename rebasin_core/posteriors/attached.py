"""Posteriors made of tensors that are attached to parameters: the common case, reduced to data."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, TypeAlias, final

import torch
from typing_extensions import override

from rebasin_core.errors import FileFormatError, InvalidInputError
from rebasin_core.posteriors.base import KIND, Posterior
from rebasin_core.posteriors.companions import Companions
from rebasin_core.tensors.checks import require_finite
from rebasin_core.tensors.files import read_tensors
from rebasin_core.tensors.modules import copied

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Self

    from torch import Tensor

    from rebasin_core.posteriors.prior import GaussianPrior
    from rebasin_core.symmetry.permutation import Permutation

Fields: TypeAlias = "Mapping[str, Mapping[str, Tensor]]"
_FREE = "free"


class AbstractAttachedPosterior(Posterior):
    """A posterior whose state is tensors of shape ``[*lead, *s]``, each attached to a parameter of shape ``s``.

    A subclass calls ``super().__init__`` with its *fields* (the mean, the standard deviation, the samples: a mapping
    from parameter names for each), and gets permutation, device moves, files and checks from here. It gives the moments
    and samples of its random parameters; fixed parameters and buffers are added here. `_rebuild` makes one from fields.

    Args:
        fields: For each field, tensors by parameter name; the first field names all random parameters.
        companions: What is not random.
        free: Tensors that are attached to no parameter (sample weights).

    Raises:
        InvalidInputError: If a field names unknown parameters, a name is given twice, or a tensor holds NaN or
            infinity.
    """

    _apart: ClassVar[frozenset[str]] = frozenset()
    """Fields whose tensors are attached to other tensors than the random parameters."""

    def __init__(
        self, fields: Fields, *, companions: Companions | None = None, free: Mapping[str, Tensor] | None = None
    ) -> None:
        self._fields = {field: {n: t.detach() for n, t in tensors.items()} for field, tensors in fields.items()}
        self._companions = companions or Companions.of(None, None, None)
        self._free = {name: tensor.detach() for name, tensor in (free or {}).items()}
        what, random = type(self).__name__, next(iter(self._fields.values()))
        separate = [tensors for field, tensors in self._fields.items() if field in self._apart]
        for field, tensors in self._fields.items():
            unknown = sorted(tensors.keys() - random.keys()) if field not in self._apart else []
            if unknown:
                message = f"`{field}` of {what} names {unknown}, which are not among its random parameters"
                raise InvalidInputError(message)
            require_finite(tensors, f"`{field}` of {what}")
        self._companions.check([*random, *(name for tensors in separate for name in tensors)], what)

    def _mean(self) -> dict[str, Tensor]:
        """Return the means of the random parameters, copied; by default the field ``mean``."""
        return copied(self._fields["mean"])

    @abstractmethod
    def _stddev(self) -> dict[str, Tensor]:
        """Return the marginal standard deviations of the random parameters, likewise."""

    @abstractmethod
    def _from_noise(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return samples of the random parameters, each ``[*sample_shape, *s]``."""

    @classmethod
    @abstractmethod
    def _rebuild(cls, fields: Fields, free: Mapping[str, Tensor], companions: Companions) -> Self:
        """Return a posterior with these parts; raise KeyError where a field is missing."""

    def _moved(self, permutation: Permutation, field: str) -> dict[str, Tensor]:
        """Return a field, moved; overridden where a tensor is attached to some axes of its parameter only."""
        return permutation.apply(self._fields[field])

    def _moved_free(self, permutation: Permutation) -> dict[str, Tensor]:
        """Return the tensors that are attached to no parameter as a whole, moved where they are attached to an axis."""
        del permutation
        return self._free

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
        """Return one of the tensors, without copying what `mean` copies."""
        held = (
            t for tensors in (*self._fields.values(), self._fixed) for t in tensors.values() if t.is_floating_point()
        )
        return next(held, torch.zeros(()))

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
        return copied(self._companions.buffers)

    @final
    @property
    def random_names(self) -> tuple[str, ...]:
        """The names of the random parameters; all others are fixed."""
        return tuple(next(iter(self._fields.values())))

    @final
    @property
    def prior(self) -> GaussianPrior | None:
        """The prior that the posterior was fitted under, if it is known."""
        return self._companions.prior

    @override
    def from_noise(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        samples = self._from_noise(noise)
        if not samples:  # a point of a model without parameters, whose noise carries the sample shape
            return self._companions.expanded(noise[""].shape[:-1])
        name = self.random_names[0]
        lead = samples[name].dim() - self._dimensions(name)
        return {**samples, **self._companions.expanded(samples[name].shape[:lead])}

    def _dimensions(self, name: str) -> int:
        """Return the number of dimensions of a random parameter."""
        return next(iter(self._fields.values()))[name].dim()

    @final
    @override
    def permute(self, permutation: Permutation) -> Self:
        permutation.layout.check({**next(iter(self._fields.values())), **self._fixed, **self.buffers}, self.kind)
        fields = {field: self._moved(permutation, field) for field in self._fields}
        return self._rebuild(fields, self._moved_free(permutation), self._companions.mapped(permutation.apply))

    @final
    @override
    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

        if all(moved(tensor) is tensor for tensor in self.as_tensors().values()):
            return self
        return self._map(lambda tensors: {name: moved(tensor) for name, tensor in tensors.items()})

    @final
    @override
    def as_tensors(self) -> dict[str, Tensor]:
        tensors = {f"{field}/{name}": t for field, named in self._fields.items() for name, t in named.items()}
        free = {f"{_FREE}/{name}": tensor for name, tensor in self._free.items()}
        return {**tensors, **free, **self._companions.as_tensors()}

    @classmethod
    @final
    def load(cls, path: Path | str) -> Self:
        """Read a posterior of this representation.

        Args:
            path: A file written by `save`.

        Returns:
            The posterior, on the CPU.

        Raises:
            FileFormatError: If the file is missing, damaged, or holds something else.
        """
        tensors, document = read_tensors(path, kind=KIND)
        if document.get("representation") != cls.kind:
            message = f"{path}: expected a {cls.kind!r} posterior, got {document.get('representation')!r}"
            raise FileFormatError(message)
        return cls.from_tensors(tensors)

    @classmethod
    @final
    @override
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        fields: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            field, _, name = key.partition("/")
            fields.setdefault(field, {})[name] = tensor
        companions, free = Companions.pop_from(fields), fields.pop(_FREE, {})
        try:
            return cls._rebuild(fields, free, companions)
        except (KeyError, TypeError) as error:
            message = f"expected the fields of a {cls.kind!r} posterior, got {sorted(fields)}"
            raise FileFormatError(message) from error

    @final
    def _map(self, function: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]) -> Self:
        fields = {field: function(tensors) for field, tensors in self._fields.items()}
        return self._rebuild(fields, function(self._free), self._companions.mapped(function))

    @property
    def _fixed(self) -> Mapping[str, Tensor]:
        return self._companions.fixed

    @override
    def __repr__(self) -> str:
        """Return the class, the number of tensors and the number of parameters."""
        mean = self.mean
        count = sum(tensor.numel() for tensor in mean.values())
        fixed = f", {len(self._fixed)} fixed" if self._fixed else ""
        return f"{type(self).__name__}({len(mean)} tensors{fixed}, {count} parameters, {len(self.buffers)} buffers)"
