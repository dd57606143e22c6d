"""Posteriors made of tensors that are attached to parameters: the common case, reduced to data."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, final

from typing_extensions import override

from rebasin_core.errors import FileFormatError, InvalidInputError
from rebasin_core.posteriors.base import Posterior
from rebasin_core.tensors.checks import require_finite, require_same_names
from rebasin_core.tensors.files import read_tensors, write_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Self

    import torch
    from torch import Tensor

    from rebasin_core.symmetry.permutation import Permutation

KIND = "posterior"
_BUFFERS = "buffers"
_FREE = "free"


class AbstractAttachedPosterior(Posterior):
    """A posterior whose state is tensors of shape ``[*lead, *s]``, each attached to a parameter of shape ``s``.

    A subclass calls ``super().__init__`` with its *fields* (the mean, the standard deviation, the samples: a mapping
    from parameter names for each), and gets permutation, device moves, files and checks from here. `_rebuild` makes one
    from fields.

    Args:
        fields: For each field, a tensor for each parameter; the names must be the same in all fields.
        buffers: Tensors that ride along and are never random.
        free: Tensors that are attached to no parameter (sample weights).

    Raises:
        InvalidInputError: If the fields' names differ, or a tensor holds NaN or infinity.
    """

    def __init__(
        self,
        fields: Mapping[str, Mapping[str, Tensor]],
        *,
        buffers: Mapping[str, Tensor] | None = None,
        free: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._fields = {field: {n: t.detach() for n, t in tensors.items()} for field, tensors in fields.items()}
        self._buffers = {name: tensor.detach() for name, tensor in (buffers or {}).items()}
        self._free = {name: tensor.detach() for name, tensor in (free or {}).items()}
        first = next(iter(self._fields.values()))
        for field, tensors in self._fields.items():
            require_same_names(first, tensors, f"`{field}` of {type(self).__name__}")
            require_finite(tensors, f"`{field}` of {type(self).__name__}")
        require_finite(self._buffers, f"buffers of {type(self).__name__}")
        both = sorted(first.keys() & self._buffers.keys())
        if both:
            message = f"{both} are given both as parameters and as buffers"
            raise InvalidInputError(message)

    @classmethod
    @abstractmethod
    def _rebuild(
        cls, fields: Mapping[str, Mapping[str, Tensor]], buffers: Mapping[str, Tensor], free: Mapping[str, Tensor]
    ) -> Self:
        """Return a posterior with these fields; raise KeyError where a field is missing."""

    @final
    @property
    @override
    def buffers(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self._buffers.items()}

    @final
    @override
    def permute(self, permutation: Permutation) -> Self:
        permutation.layout.check({**next(iter(self._fields.values())), **self._buffers}, type(self).__name__)
        return self._map(permutation.apply)

    @final
    @override
    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        def move(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {
                name: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
                for name, tensor in tensors.items()
            }

        moved = self._map(move)
        return self._rebuild(moved._fields, moved._buffers, move(self._free))  # ruff: ignore[private-member-access] - same class

    @final
    @override
    def save(self, path: Path | str, *, meta: Mapping[str, Any] | None = None) -> None:
        tensors = {f"{field}/{name}": t for field, named in self._fields.items() for name, t in named.items()}
        tensors |= {f"{_BUFFERS}/{name}": tensor for name, tensor in self._buffers.items()}
        tensors |= {f"{_FREE}/{name}": tensor for name, tensor in self._free.items()}
        write_tensors(path, tensors, kind=KIND, document={"representation": self.kind, "meta": dict(meta or {})})

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
        buffers, free = fields.pop(_BUFFERS, {}), fields.pop(_FREE, {})
        try:
            return cls._rebuild(fields, buffers, free)
        except (KeyError, TypeError) as error:
            message = f"expected the fields of a {cls.kind!r} posterior, got {sorted(fields)}"
            raise FileFormatError(message) from error

    @final
    def _map(self, function: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]) -> Self:
        fields = {field: function(tensors) for field, tensors in self._fields.items()}
        return self._rebuild(fields, function(self._buffers), self._free)

    @final
    def _expanded_buffers(self, sample_shape: tuple[int, ...]) -> dict[str, Tensor]:
        return {name: t.expand((*sample_shape, *t.shape)).clone() for name, t in self._buffers.items()}

    @final
    @override
    def __repr__(self) -> str:
        """Return the class, the number of tensors and the number of parameters."""
        mean = self.mean
        count = sum(tensor.numel() for tensor in mean.values())
        return f"{type(self).__name__}({len(mean)} tensors, {count} parameters, {len(self._buffers)} buffers)"
