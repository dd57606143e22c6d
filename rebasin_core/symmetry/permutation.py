"""Group elements of a network's symmetries, and the permutations among them: one index tensor for each group."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Protocol, final, overload, runtime_checkable

import torch
from typing_extensions import override

from rebasin_core.errors import FileFormatError, InvalidInputError, SpecError
from rebasin_core.symmetry.action import act, act_on_axes, act_on_tensor
from rebasin_core.symmetry.application import AbstractAction, transformed_foreign
from rebasin_core.symmetry.axis import Atom
from rebasin_core.symmetry.index import check_index, composed_indices, inverse_indices, random_indices
from rebasin_core.symmetry.layout import Layout
from rebasin_core.symmetry.requirements import require_layout, require_same_layout, require_unstacked
from rebasin_core.tensors.arguments import raise_wrong_type, require_mapping
from rebasin_core.tensors.checks import require_same_names, require_tensors
from rebasin_core.tensors.files import read_tensors, write_tensors
from rebasin_core.tensors.frozen import FrozenMapping

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from torch import Tensor

    from rebasin_core.symmetry.axis import Axis

_KIND = "permutation"


@runtime_checkable
class Permutable(Protocol):
    """An object to which a permutation can be applied."""

    def permute(self, permutation: Permutation) -> Self:
        """Return a permuted copy of this object."""


@runtime_checkable
class Transformable(Permutable, Protocol):
    """An object to which any group element can be applied, such as a posterior."""

    def transform(self, element: GroupElement) -> Self:
        """Return a transformed copy of this object."""


class GroupElement(AbstractAction):
    """An element of the symmetry group of a network: a permutation, or linear maps of units and a permutation.

    Elements are values: no method modifies one. Equality is up to rounding.

    Laws:
        - *Function preserved*: ``apply`` to all parameters and buffers leaves the outputs of the network unchanged, up
          to rounding, if the specification is correct.
        - *Group action*: ``g.compose(h).apply(x)`` is ``h.apply(g.apply(x))``, up to rounding.
        - *Inverse*: ``g.compose(g.inverse()).is_identity``.
        - *Distance*: ``distance`` is zero for the identity only, and that of the inverse is the same.
        - *Serialization*: `load_element` after `save` gives an equal element.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def permutation(self) -> Permutation:
        """The permutation, which is applied after the linear maps, if there are any."""

    @property
    @abstractmethod
    def is_identity(self) -> bool:
        """Whether the element leaves all tensors unchanged, up to rounding of its maps."""

    @property
    @abstractmethod
    def distances(self) -> Mapping[str, float]:
        r"""The distance from the identity of every group.

        Let $M$ be the matrix by which an element transforms the units of a group, one block for each unit of its outer
        groups. The distance is $\sqrt{(\lVert M - 1 \rVert^2 + \lVert M^{-T} - 1 \rVert^2) / 2}$ in Frobenius norms:
        an element and its inverse have the same distance. It is $\sqrt{2 k}$ for a permutation of $k$ units, and
        $\lVert g - 1 \rVert$ for an orthogonal map. If a group has several linear symmetries, it is the largest.
        """

    @final
    @property
    def distance(self) -> float:
        """The distance from the identity: the Euclidean norm of `distances`."""
        return math.hypot(*self.distances.values())

    @abstractmethod
    def inverse(self) -> Self:
        """Return the element that undoes this one."""

    @abstractmethod
    def compose(self, then: GroupElement) -> GroupElement:
        """Return the element that applies this one first, then ``then``.

        Args:
            then: Element to apply second.

        Returns:
            The composition; a permutation if both are permutations.

        Raises:
            InvalidInputError: If the two belong to different specifications.
        """

    @abstractmethod
    def _preceded_by(self, first: Permutation) -> GroupElement:
        """Return the element that applies a permutation of the same layout first, then this one."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Return the element with its tensors on a device.

        Args:
            device: The target device.

        Returns:
            An equal element.
        """

    @abstractmethod
    def save(self, path: Path | str, *, meta: Mapping[str, Any] | None = None) -> None:
        """Write the element, with the layout and symmetries it belongs to, to a safetensors file, atomically.

        Args:
            path: The file; replaced if it exists.
            meta: JSON values by name to store in the file, such as the matcher that was used.

        Raises:
            StorageError: If the file cannot be written; an existing file is not changed.
        """

    @abstractmethod
    def apply_to_axes(self, name: str, tensor: Tensor, dims: Sequence[int]) -> Tensor:
        """Return a transformed copy of a tensor whose trailing dimensions are only some of a parameter's axes.

        Args:
            name: Name of a tensor or stack in the layout.
            tensor: ``[*lead, *sizes]`` with the sizes of those axes.
            dims: Indices of the axes, ascending; those of a stack include its groups.

        Returns:
            The transformed tensor.

        Raises:
            InvalidInputError: If the shape differs, the outer group of a nested group acts on another axis, or the
                tensor is one of a stack, whose tensors can only be transformed together.
        """

    @abstractmethod
    def _permute(self, target: Permutable) -> object:
        """Return a permuted copy of an object that has no ``transform``; raise if this is not a permutation."""

    @final
    @override
    def _applied_to(self, target: object) -> object:
        if isinstance(target, Transformable):
            return target.transform(self)
        if isinstance(target, Permutable):
            return self._permute(target)
        return transformed_foreign(self, target)


@final
class Permutation(GroupElement):
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

    __slots__ = ("_axis_indices", "_indices", "_layout")

    def __init__(self, layout: Layout, indices: Mapping[str, Tensor]) -> None:
        require_layout(layout)
        require_mapping(indices, "indices as a mapping by the names of groups")
        require_tensors(indices, "the indices")
        require_same_names(layout.groups, indices, "the permutation")
        for name, index in indices.items():
            check_index(name, index, layout.index_shape(name))
        self._layout = layout
        self._axis_indices: dict[Axis, Tensor] = {}
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
        return cls(layout, random_indices(layout, generator))

    @property
    @override
    def layout(self) -> Layout:
        return self._layout

    @property
    @override
    def permutation(self) -> Permutation:
        return self

    @property
    def indices(self) -> Mapping[str, Tensor]:
        """The index of every group; do not modify the tensors."""
        return self._indices

    def index_of(self, axis: Axis) -> Tensor:
        """Return the index of an axis: the positions of its entries before the permutation.

        Args:
            axis: An axis with groups of the layout; those of nested groups with their outer groups.

        Returns:
            ``[size]``: ``new[i] = old[index[i]]``; do not modify it.
        """
        if isinstance(axis, Atom) and axis.group is not None and not self._layout.ancestors(axis.group):
            return self._indices[axis.group]
        found = self._axis_indices.get(axis)
        if found is None:
            device = next((index.device for index in self._indices.values()), None)
            found = act(self._layout, self._indices, torch.arange(axis.size, device=device), [axis])
            self._axis_indices[axis] = found
        return found

    @property
    @override
    def is_identity(self) -> bool:
        return not any(self.moved.values())

    @property
    def moved(self) -> dict[str, int]:
        """The number of permuted units (non-fixed points) of every group."""
        return {
            name: int((index != torch.arange(index.shape[-1], device=index.device)).sum().item())
            for name, index in self._indices.items()
        }

    @property
    @override
    def distances(self) -> Mapping[str, float]:
        return {name: math.sqrt(2 * moved) for name, moved in self.moved.items()}

    @override
    def inverse(self) -> Permutation:
        return Permutation(self._layout, inverse_indices(self._layout, self._indices))

    @overload
    def compose(self, then: Permutation) -> Permutation: ...
    @overload
    def compose(self, then: GroupElement) -> GroupElement: ...
    @override
    def compose(self, then: GroupElement) -> GroupElement:
        """Return the element that applies this permutation first, then ``then``.

        Args:
            then: Element to apply second.

        Returns:
            The composition; ``p.compose(q)`` has the index ``p[q]``.

        Raises:
            InvalidInputError: If the two belong to different layouts.
        """
        if not isinstance(then, GroupElement):
            raise_wrong_type(then, "a permutation or another group element")
        require_same_layout(self._layout, then.layout, "the second element")
        return then._preceded_by(self)  # ruff: ignore[private-member-access] - double dispatch

    @override
    def _preceded_by(self, first: Permutation) -> Permutation:
        return Permutation(self._layout, composed_indices(self._layout, first.indices, self._indices))

    @override
    def apply_to_axes(self, name: str, tensor: Tensor, dims: Sequence[int]) -> Tensor:
        name = require_unstacked(self._layout, name)
        axes = [self._layout.axes[name][dim] for dim in dims]
        return act_on_axes(self._layout, self._indices, tensor, axes, f"a tensor attached to `{name}`")

    @override
    def _act(self, name: str, tensor: Tensor) -> Tensor:
        return act_on_tensor(self, name, tensor)

    @override
    def _require_preserving(self, tensors: Mapping[str, Tensor]) -> None:
        del tensors  # permutations preserve every function

    @override
    def _permute(self, target: Permutable) -> object:
        return target.permute(self)

    @override
    def to(self, device: torch.device | str) -> Permutation:
        return Permutation(self._layout, {name: index.to(device) for name, index in self._indices.items()})

    @override
    def save(self, path: Path | str, *, meta: Mapping[str, Any] | None = None) -> None:
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
            require_layout(layout)
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
