"""A permutation: one index vector for each group of a layout."""

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
from rebasin_core.tensors.checks import require_same_names, require_tensors
from rebasin_core.tensors.files import read_tensors, write_tensors
from rebasin_core.tensors.frozen import FrozenMapping
from rebasin_core.tensors.kinds import refuse, require_mapping
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
    """What a permutation can be applied to besides a mapping of tensors: a posterior, for one."""

    def permute(self, permutation: Permutation) -> Self:
        """Return a moved copy of this object."""


T = TypeVar("T")


@final
class Permutation:
    r"""An element of the symmetry group of a network: one index vector a group.

    An index $p$ means ``new[i] = old[p[i]]``. A group that lies within another one has an index of shape
    ``[*outer, n]``: a permutation for each unit of the outer groups, in their new order:
    ``new[h, w] = old[p[h], q[h, w]]``.

    Args:
        layout: The groups, and the tensors they act on.
        indices: For every group an integer tensor of shape `Layout.index_shape`.

    Raises:
        InvalidInputError: If groups are missing or left over, or an index is not a permutation of its shape.

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
        """Return the permutation that moves nothing.

        Args:
            layout: The groups.

        Returns:
            The neutral element.
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
        # Sorting uniform noise gives a uniform permutation, for any number of outer units at once.
        noise = {n: torch.rand(shape, generator=generator, device=generator.device) for n, shape in shapes.items()}
        return cls(layout, {name: tensor.argsort(-1).cpu() for name, tensor in noise.items()})

    @property
    def layout(self) -> Layout:
        """The groups and the axes they act on."""
        return self._layout

    @property
    def indices(self) -> Mapping[str, Tensor]:
        """The index of every group (read only; do not write into the tensors)."""
        return self._indices

    @property
    def is_identity(self) -> bool:
        """Whether nothing moves."""
        return not any(self.moved.values())

    @property
    def moved(self) -> dict[str, int]:
        """The number of units of every group that do not stay in their place."""
        return {
            name: int((index != torch.arange(index.shape[-1], device=index.device)).sum().item())
            for name, index in self._indices.items()
        }

    def inverse(self) -> Permutation:
        """Return the permutation that undoes this one."""
        indices: dict[str, Tensor] = {}
        for name in self._layout.outer_first:
            # Old unit h was moved to place back[h]; the inner permutation used there is the one to undo for it.
            inner = self._indices[name].argsort(-1)
            indices[name] = reorder_outer(inner, [indices[outer] for outer in self._layout.ancestors(name)])
        return Permutation(self._layout, indices)

    def compose(self, then: Permutation) -> Permutation:
        """Return the permutation that applies this one first, and ``then`` after it.

        Args:
            then: Applied second.

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
        """Return a moved copy of a mapping of tensors, a module, a posterior, or an object of another library.

        Args:
            target: Tensors by name, each of shape ``[*lead, *shape]`` with the shape that the layout gives, on any
                device; a module (also a compiled, parallel or averaged one); an object with a ``permute`` method; or an
                object of another library whose adapter can write into it, such as a fitted Laplace object.

        Returns:
            The same kind of thing, by the same names, sharing no memory with ``target``.

        Raises:
            InvalidInputError: If a tensor is not in the layout or does not have its shape, or the target is nothing
                that can be moved.
        """
        if isinstance(target, Mapping):
            return self._permuted_tensors(target)
        if isinstance(target, torch.Tensor):
            refuse(target, "tensors by name", "`apply({name: tensor})` permutes one")
        if isinstance(target, Permutable):
            return target.permute(self)
        foreign = _FOREIGN[0] if _FOREIGN else None
        if isinstance(target, nn.Module) and (foreign is None or self._fits(target)):
            return self._moved_module(target)
        if foreign is not None:
            return foreign(self, target)
        message = (
            f"expected a mapping of tensors, a module or a posterior, got `{type(target).__qualname__}`; convert it "
            "with `rebasin_core.as_posterior`, and put the result back with `rebasin_core.write_back`"
        )
        raise InvalidInputError(message)

    def apply_to_axes(self, name: str, tensor: Tensor, dims: Sequence[int]) -> Tensor:
        """Return a moved copy of a tensor that is attached to some of a tensor's axes only.

        Args:
            name: A tensor of the layout.
            tensor: ``[*lead, *sizes]`` with the sizes of those axes.
            dims: Which of the tensor's axes, in order.

        Returns:
            The moved tensor.

        Raises:
            InvalidInputError: If the shape is another, or a group there depends on one that stands on other axes.
        """
        axes = [self._layout.axes[name][dim] for dim in dims]
        return act_on_axes(self._layout, self._indices, tensor, axes, f"a tensor attached to `{name}`")

    def _permuted_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        require_tensors(tensors, "the mapping")
        names = self._layout.names
        # Tensors that share memory are moved once, and share it again. A specification that does not know the second
        # name of a module has the first.
        repeated = {} if tensors.keys() <= self._layout.axes.keys() else shared_names(tensors)
        kept = {name for name in tensors if names.of(name) is None and is_count_of_averaged(name, tensors)}
        own = {name: names.of(name) or names.of(repeated.get(name, name)) or name for name in tensors}
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

    def _moved_module(self, module: nn.Module) -> nn.Module:
        tensors = named_tensors(module)
        self._layout.check(tensors, "the module")
        moved = copy.deepcopy(module)
        with torch.no_grad():
            for name, tensor in named_tensors(moved).items():
                axes = self._layout.axes[self._layout.names.of(name) or name]
                tensor.copy_(act(self._layout, self._indices, tensors[name], axes))
        return moved

    def to(self, device: torch.device | str) -> Permutation:
        """Return the permutation with its indices on a device.

        Args:
            device: Where the indices shall lie.

        Returns:
            An equal permutation.
        """
        return Permutation(self._layout, {name: index.to(device) for name, index in self._indices.items()})

    def save(self, path: Path | str, *, meta: Mapping[str, str] | None = None) -> None:
        """Write the permutation and its layout to a safetensors file, atomically.

        Args:
            path: The file; replaced if it exists.
            meta: Texts by name (how it was found), kept in the file.

        Raises:
            StorageError: If it cannot be written; an older file is left as it was.
        """
        write_tensors(
            path, dict(self._indices), kind=_KIND, document={**(meta or {}), "layout": self._layout.as_json()}
        )

    @classmethod
    def load(cls, path: Path | str, layout: Layout | None = None) -> Permutation:
        """Read a permutation.

        Args:
            path: A file written by `save`.
            layout: The layout it must belong to, if one is given.

        Returns:
            The permutation.

        Raises:
            FileFormatError: If the file is missing, damaged, of another kind, or belongs to another layout.
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
        """Return whether both move the same units of the same layout."""
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
        """Return a short description: groups, sizes, and how many units move."""
        groups = ", ".join(f"{name}: {moved}/{self._indices[name].numel()}" for name, moved in self.moved.items())
        return f"Permutation(units moved: {groups or 'no groups'})"

    def _require_layout(self, other: Layout, what: str) -> None:
        if other.fingerprint != self._layout.fingerprint:
            message = (
                f"{what} belongs to another specification ({other.fingerprint}, expected {self._layout.fingerprint})"
            )
            raise InvalidInputError(message)


_FOREIGN: list[Callable[[Permutation, object], object]] = []


def permute_foreign_by(action: Callable[[Permutation, object], object]) -> None:
    """Set how objects are permuted that are neither tensors by name nor posteriors: by the adapters of all plugins.

    Args:
        action: Returns a permuted copy of an object; raises InvalidInputError if it cannot.
    """
    _FOREIGN[:] = [action]


def _require_layout(value: object) -> None:
    if not isinstance(value, Layout):
        message = f"expected a `Layout`, got `{type(value).__qualname__}`; a specification has it as `layout`"
        raise InvalidInputError(message)
