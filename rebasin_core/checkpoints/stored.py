"""Tensors of a model that files store in another form: under other names, in parts, or transposed.

Libraries change the modules of an architecture, but keep the format of its files. For example, transformers 5 computes
the experts of Mixtral from one tensor for all experts, while files contain three matrices for each expert.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.checks import shorten

if TYPE_CHECKING:
    from collections.abc import Callable


@final
@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in files, as a view of a tensor of the model.

    Attributes:
        tensor: Name of the tensor of the model.
        shape: Shape in files.
        stride: Stride of the view of the model's tensor, which is contiguous.
        offset: Offset of the view in the model's tensor.
    """

    tensor: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0

    @classmethod
    def whole(cls, name: str, tensor: Tensor) -> StoredTensor:
        """Return the view of a tensor that files store unchanged.

        Args:
            name: Name of the tensor of the model.
            tensor: The tensor, for its shape.

        Returns:
            The view.
        """
        return cls(name, tuple(tensor.shape), _contiguous(tuple(tensor.shape)))

    @property
    def numel(self) -> int:
        """Number of entries."""
        return torch.Size(self.shape).numel()

    def is_whole(self, shape: tuple[int, ...]) -> bool:
        """Return whether files store a tensor unchanged.

        Args:
            shape: Shape of the tensor of the model.

        Returns:
            Whether the view is the tensor.
        """
        return self.shape == shape and self.offset == 0 and self.stride == _contiguous(shape)

    def view(self, tensor: Tensor) -> Tensor:
        """Return the part of the model's tensor that files contain under this name.

        Args:
            tensor: The tensor of the model.

        Returns:
            A view; of a copy if the tensor is not contiguous.
        """
        whole = tensor.contiguous()
        return whole.as_strided(self.shape, self.stride, whole.storage_offset() + self.offset)


@final
class StoredForm:
    """How files store the tensors of a model.

    Args:
        shapes: Shapes of the parameters and saved buffers of the model, by name.
        stored: The tensors in files by name; empty if files contain the tensors of the model under their names.

    Raises:
        InvalidInputError: If a tensor in files is no part of the model's tensor, or the parts of a tensor do not have
            its number of entries.

    Examples:
        >>> form = StoredForm({"both": (4, 3)}, {
        ...     "first": StoredTensor("both", (2, 3), (3, 1)),
        ...     "second": StoredTensor("both", (3, 2), (1, 3), 6),
        ... })
        >>> files = {"first": torch.zeros(2, 3), "second": torch.ones(3, 2)}
        >>> model = form.model_tensors(files)
        >>> model["both"].sum(1)
        tensor([0., 0., 3., 3.])
        >>> form.stored_tensors(lambda name: 2 * model[name])("second").shape
        torch.Size([3, 2])
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], stored: Mapping[str, StoredTensor] | None = None) -> None:
        given = {name: StoredTensor(name, shape, _contiguous(shape)) for name, shape in shapes.items()}
        self.shapes = dict(shapes)
        self.stored: Mapping[str, StoredTensor] = dict(stored) if stored else given
        for name, part in self.stored.items():
            _require_part(name, part, self.shapes)
        for name, names in self.parts.items():
            entries = sum(self.stored[part].numel for part in names)
            if entries != torch.Size(self.shapes[name]).numel():
                message = f"{name}: expected parts with {torch.Size(self.shapes[name]).numel()} entries, got {entries}"
                raise InvalidInputError(message)

    @cached_property
    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """The names in files of the parts of each tensor of the model."""
        found: dict[str, tuple[str, ...]] = {}
        for name, part in self.stored.items():
            found[part.tensor] = (*found.get(part.tensor, ()), name)
        return found

    def model_tensors(self, files: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the tensors of the model from those in files.

        Args:
            files: Tensors by their names in files.

        Returns:
            Tensors by their names in the model, without those whose parts are not all given. Tensors that files store
            unchanged are those of ``files``; others are assembled whenever they are read.
        """
        return _Assembled(self, files)

    def stored_tensors(self, produce: Callable[[str], Tensor]) -> Callable[[str], Tensor]:
        """Return a function that returns tensors in the form of files from the tensors of the model.

        A tensor that files store in several parts is produced once, and kept until each of its parts was returned.

        Args:
            produce: Returns a tensor of the model by its name.

        Returns:
            Function of a name in files, which returns a contiguous tensor; KeyError for other names.
        """
        kept: dict[str, tuple[Tensor, set[str]]] = {}

        def stored(name: str) -> Tensor:
            part = self.stored[name]
            found, missing = kept.pop(part.tensor, (None, set(self.parts[part.tensor])))
            whole = produce(part.tensor) if found is None else found
            missing.discard(name)
            if missing:
                kept[part.tensor] = whole, missing
            # A view would keep the memory of the other parts.
            view = part.view(whole)
            return (
                view.clone(memory_format=torch.contiguous_format)
                if len(self.parts[part.tensor]) > 1
                else view.contiguous()
            )

        return stored


@final
class _Assembled(Mapping[str, Tensor]):
    """Tensors of a model, assembled from their parts when they are read."""

    def __init__(self, form: StoredForm, files: Mapping[str, Tensor]) -> None:
        self._form = form
        self._files = files
        self._names = [name for name, parts in form.parts.items() if all(part in files for part in parts)]
        self._known = frozenset(self._names)

    @override
    def __getitem__(self, name: str) -> Tensor:
        if name not in self._known:
            raise KeyError(name)
        names = self._form.parts[name]
        shape = self._form.shapes[name]
        first = self._files[names[0]]
        if len(names) == 1 and self._form.stored[names[0]].is_whole(shape):
            return first
        dtypes = {self._files[part].dtype for part in names}
        if len(dtypes) > 1:
            message = f"{name}: expected parts of one dtype, got {sorted(map(str, dtypes))} for {shorten(list(names))}"
            raise InvalidInputError(message)
        found = torch.empty(shape, dtype=first.dtype, device=first.device)
        for part in names:
            self._form.stored[part].view(found).copy_(self._files[part])
        return found

    @override
    def __contains__(self, name: object) -> bool:
        return name in self._known

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    @override
    def __len__(self) -> int:
        return len(self._names)


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides: list[int] = []
    length = 1
    for size in reversed(shape):
        strides.insert(0, length)
        length *= max(size, 1)
    return tuple(strides)


def _require_part(name: str, part: StoredTensor, shapes: Mapping[str, tuple[int, ...]]) -> None:
    shape = shapes.get(part.tensor)
    last = part.offset + sum((size - 1) * stride for size, stride in zip(part.shape, part.stride, strict=True))
    if shape is None or min(part.offset, *part.stride, 0) < 0 or (part.numel and last >= torch.Size(shape).numel()):
        message = f"{name}: expected a part of a tensor of the model, got {part}"
        raise InvalidInputError(message)
