"""Permutations: one index tensor for each group of a layout."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, final, overload, runtime_checkable

import torch
from torch import nn
from typing_extensions import override

from rebasin_core.errors import FileFormatError, InvalidInputError, SpecError
from rebasin_core.symmetry.action import act, act_on_axes
from rebasin_core.symmetry.index import check_index, reorder_outer
from rebasin_core.symmetry.layout import Layout
from rebasin_core.tensors.arguments import raise_wrong_type, require_mapping
from rebasin_core.tensors.checks import require_same_names, require_tensors
from rebasin_core.tensors.files import read_tensors, write_tensors
from rebasin_core.tensors.frozen import FrozenMapping
from rebasin_core.tensors.modules import named_tensors, shared_names
from rebasin_core.tensors.names import is_count_of_averaged

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Self

    from torch import Tensor

_KIND = "permutation"


@runtime_checkable
class Permutable(Protocol):
    """An object to which a permutation can be applied, such as a posterior."""

    def permute(self, permutation: Permutation) -> Self:
        """Return a permuted copy of this object."""


T = TypeVar("T")


@final
class Permutation:
    r"""An element of the permutation symmetry group of a network: one index tensor per group.

    An index $p$ means ``new[i] = old[p[i]]``. A nested group has an index $q$ of shape ``[*outer, n]``, with one
    permutation per outer unit, in the new order of the outer units: ``new[h, w] = old[p[h], q[h, w]]``.

    Args:
        layout: The groups, and the tensors they act on.
        indices: For every group an integer tensor of shape `Layout.index_shape`.

    Raises:
        InvalidInputError: If a group is missing or unknown, or an index has another shape or is not a permutation.

    Examples:
        >>> import torch
        >>> from rebasin_core.symmetry import Atom, Group, Layout, Permutation
        >>> layout = Layout({"hidden": Group("hidden", 3)}, {"bias": (Atom(3, "hidden"),)})
        >>> shift = Permutation(layout, {"hidden": torch.tensor([2, 0, 1])})
        >>> shift.apply({"bias": torch.tensor([10.0, 20.0, 30.0])})["bias"].tolist()
        [30.0, 10.0, 20.0]
        >>> shift.compose(shift.inverse()).is_identity
        True
    """

    __slots__ = ("_indices", "_layout")

    def __init__(self, layout: Layout, indices: Mapping[str, Tensor]) -> None:
        _require_layout(layout)
        require_mapping(indices, "indices as a mapping by the names of groups")
        require_tensors(indices, "the indices")
        require_same_names(layout.groups, indices, "the permutation")
        for name, index in indices.items():
            check_index(name, index, layout.index_shape(name))
        self._layout = layout
        self._indices = FrozenMapping({name: indices[name].detach().to(torch.int64).clone() for name in layout.groups})

    @classmethod
    def identity(cls, layout: Layout) -> Permutation:
        """Return the identity permutation.

        Args:
            layout: The groups.

        Returns:
            The identity element.
        """
        return cls(
            layout,
            {name: torch.arange(layout.groups[name].size).expand(layout.index_shape(name)) for name in layout.groups},
        )

    @classmethod
    def random(cls, layout: Layout, *, generator: torch.Generator) -> Permutation:
        """Return a uniformly random group element.

        Args:
            layout: The groups.
            generator: The source of randomness.

        Returns:
            A permutation.
        """
        shapes = {name: layout.index_shape(name) for name in layout.groups}
        # Sorting uniform noise yields a uniformly random permutation.
        noise = {n: torch.rand(shape, generator=generator, device=generator.device) for n, shape in shapes.items()}
        return cls(layout, {name: tensor.argsort(-1).cpu() for name, tensor in noise.items()})

    @property
    def layout(self) -> Layout:
        """The groups and the axes they act on."""
        return self._layout

    @property
    def indices(self) -> Mapping[str, Tensor]:
        """The index of every group; do not modify the tensors."""
        return self._indices

    @property
    def is_identity(self) -> bool:
        """Whether no unit is permuted."""
        return not any(self.moved.values())

    @property
    def moved(self) -> dict[str, int]:
        """The number of permuted units (non-fixed points) of every group."""
        return {
            name: int((index != torch.arange(index.shape[-1], device=index.device)).sum().item())
            for name, index in self._indices.items()
        }

    def inverse(self) -> Permutation:
        """Return the permutation that undoes this one."""
        indices: dict[str, Tensor] = {}
        for name in self._layout.outer_first:
            # Old unit h has the new index back[h]; the inner permutation at that index is the one to invert for h.
            inner = self._indices[name].argsort(-1)
            indices[name] = reorder_outer(inner, [indices[outer] for outer in self._layout.ancestors(name)])
        return Permutation(self._layout, indices)

    def compose(self, then: Permutation) -> Permutation:
        """Return the permutation that applies this one first, then ``then``.

        Args:
            then: Permutation to apply second.

        Returns:
            ``p.compose(q)`` has the index ``p[q]``.

        Raises:
            InvalidInputError: If the two belong to different layouts.
        """
        self._require_layout(then.layout, "the second permutation")
        indices: dict[str, Tensor] = {}
        for name, index in self._indices.items():
            second = then.indices[name].to(index.device)
            outer = [then.indices[group].to(index.device) for group in self._layout.ancestors(name)]
            indices[name] = reorder_outer(index, outer).gather(-1, second)
        return Permutation(self._layout, indices)

    @overload
    def apply(self, target: Mapping[str, Tensor]) -> dict[str, Tensor]: ...
    @overload
    def apply(self, target: T) -> T: ...
    def apply(self, target: object) -> Any:
        """Return a permuted copy of a mapping of tensors, a module, a posterior, or an object of another library.

        Args:
            target: Tensors by name, each ``[*lead, *shape]`` with ``shape`` from the layout, on any device; a module
                (also compiled, parallel or averaged); an object with a ``permute`` method; or an object of another
                library whose adapter can write into it, such as a fitted Laplace object.

        Returns:
            An object of the same type with the same names, sharing no memory with ``target``.

        Raises:
            InvalidInputError: If a tensor is not in the layout or has another shape, or the type of ``target`` is not
                supported.
        """
        if isinstance(target, Mapping):
            return self._permuted_tensors(target)
        if isinstance(target, torch.Tensor):
            raise_wrong_type(target, "tensors by name", "`apply({name: tensor})` permutes one")
        if isinstance(target, Permutable):
            return target.permute(self)
        foreign = _FOREIGN[0] if _FOREIGN else None
        if isinstance(target, nn.Module) and (foreign is None or self._fits(target)):
            return self._permuted_module(target)
        if foreign is not None:
            return foreign(self, target)
        message = (
            f"expected a mapping of tensors, a module or a posterior, got `{type(target).__qualname__}`; convert it "
            "with `rebasin_core.as_posterior`, and put the result back with `rebasin_core.write_back`"
        )
        raise InvalidInputError(message)

    def apply_to_axes(self, name: str, tensor: Tensor, dims: Sequence[int]) -> Tensor:
        """Return a permuted copy of a tensor whose trailing dimensions are only some of a parameter's axes.

        Args:
            name: Name of a tensor in the layout.
            tensor: ``[*lead, *sizes]`` with the sizes of those axes.
            dims: Indices of the axes, in order.

        Returns:
            The permuted tensor.

        Raises:
            InvalidInputError: If the shape differs, or the outer group of a nested group acts on another axis.
        """
        axes = [self._layout.axes[name][dim] for dim in dims]
        return act_on_axes(self._layout, self._indices, tensor, axes, f"a tensor attached to `{name}`")

    def _permuted_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        require_tensors(tensors, "the mapping")
        # Tensors that share memory are permuted once, and the results share memory.
        repeated = {} if tensors.keys() <= self._layout.axes.keys() else shared_names(tensors)
        resolved = self._layout.names.resolved(tensors, "the mapping")
        kept = {name for name in tensors if name not in resolved and is_count_of_averaged(name, tensors)}
        own = {name: resolved.get(name, name) for name in tensors}
        described = {own[name]: tensor for name, tensor in tensors.items() if name not in kept}
        self._layout.check(described, "the mapping", complete=False)
        permuted: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            if name in kept:
                permuted[name] = tensor.clone()
            elif name in repeated:
                permuted[name] = permuted[repeated[name]]
            else:
                permuted[name] = act(self._layout, self._indices, tensor, self._layout.axes[own[name]])
        return permuted

    def _fits(self, module: nn.Module) -> bool:
        return all(self._layout.names.of(name) is not None for name in named_tensors(module))

    def _permuted_module(self, module: nn.Module) -> nn.Module:
        tensors = named_tensors(module)
        self._layout.check(tensors, "the module")
        permuted = copy.deepcopy(module)
        with torch.no_grad():
            for name, tensor in named_tensors(permuted).items():
                axes = self._layout.axes[self._layout.names.of(name) or name]
                tensor.copy_(act(self._layout, self._indices, tensors[name], axes))
        return permuted

    def to(self, device: torch.device | str) -> Permutation:
        """Return the permutation with its indices on a device.

        Args:
            device: The target device.

        Returns:
            An equal permutation.
        """
        return Permutation(self._layout, {name: index.to(device) for name, index in self._indices.items()})

    def save(self, path: Path | str, *, meta: Mapping[str, Any] | None = None) -> None:
        """Write the permutation and its layout to a safetensors file, atomically.

        Args:
            path: The file; replaced if it exists.
            meta: JSON values by name to store in the file, such as the matcher that was used.

        Raises:
            StorageError: If the file cannot be written; an existing file is not changed.
        """
        write_tensors(
            path, dict(self._indices), kind=_KIND, document={**(meta or {}), "layout": self._layout.as_json()}
        )

    @classmethod
    def load(cls, path: Path | str, layout: Layout | None = None) -> Permutation:
        """Read a permutation from a file.

        Args:
            path: A file written by `save`.
            layout: The layout that the permutation must belong to; any if None.

        Returns:
            The permutation.

        Raises:
            FileFormatError: If the file is missing or damaged, is not of a permutation, or belongs to another layout.
        """
        if layout is not None:
            _require_layout(layout)
        tensors, document = read_tensors(path, kind=_KIND)
        try:
            stored = Layout.from_json(document.get("layout", {}))
        except (FileFormatError, SpecError) as error:
            message = f"{path}: {error}"
            raise FileFormatError(message) from error
        if layout is not None and stored.fingerprint != layout.fingerprint:
            message = (
                f"{path}: the permutation belongs to another specification ({stored.fingerprint}, expected "
                f"{layout.fingerprint})"
            )
            raise FileFormatError(message)
        try:
            return cls(stored, tensors)
        except InvalidInputError as error:
            message = f"{path}: {error}"
            raise FileFormatError(message) from error

    @override
    def __eq__(self, other: object) -> bool:
        """Return whether layout and indices are equal."""
        if not isinstance(other, Permutation):
            return NotImplemented
        return self._layout.fingerprint == other.layout.fingerprint and all(
            torch.equal(index.cpu(), other.indices[name].cpu()) for name, index in self._indices.items()
        )

    @override
    def __hash__(self) -> int:
        """Return a hash of the layout: equal permutations have equal hashes."""
        return hash(self._layout.fingerprint)

    @override
    def __repr__(self) -> str:
        """Return a short description: for every group, the number of permuted units and of all units."""
        groups = ", ".join(f"{name}: {moved}/{self._indices[name].numel()}" for name, moved in self.moved.items())
        return f"Permutation(permuted units: {groups or 'no groups'})"

    def _require_layout(self, other: Layout, description: str) -> None:
        if other.fingerprint != self._layout.fingerprint:
            expected = self._layout.fingerprint
            message = f"{description} belongs to another specification ({other.fingerprint}, expected {expected})"
            raise InvalidInputError(message)


_FOREIGN: list[Callable[[Permutation, object], object]] = []


def permute_foreign_by(action: Callable[[Permutation, object], object]) -> None:
    """Set the function that permutes objects of other libraries.

    Args:
        action: Returns a permuted copy of an object; raises InvalidInputError if it cannot.
    """
    _FOREIGN[:] = [action]


def _require_layout(value: object) -> None:
    if not isinstance(value, Layout):
        message = f"expected a `Layout`, got `{type(value).__qualname__}`; use the `layout` of the specification"
        raise InvalidInputError(message)
