"""Group elements with linear maps of units in addition to a permutation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, final

import torch
from typing_extensions import override

from rebasin_core.errors import FileFormatError, InvalidInputError, SpecError
from rebasin_core.symmetry.action import act_on_tensor, require_axes
from rebasin_core.symmetry.linear import Symmetry
from rebasin_core.symmetry.linear_maps import LinearMaps
from rebasin_core.symmetry.permutation import GroupElement, Permutation
from rebasin_core.symmetry.requirements import require_layout, require_same_layout, require_unstacked
from rebasin_core.symmetry.unit_map import UnitMap, checked_map, random_map
from rebasin_core.tensors.arguments import raise_wrong_type, require_sequence
from rebasin_core.tensors.files import document_of, read_tensors, write_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from rebasin_core.symmetry.layout import Layout
    from rebasin_core.symmetry.permutation import Permutable

_KIND = "symmetry"
_PERMUTATION, _MAP = "permutation", "map"
# Entries of maps that differ by less are equal up to rounding.
_ROUNDING = 1e-8


@final
class SymmetryElement(GroupElement):
    r"""An element of the whole symmetry group of a network: linear maps of units, followed by a permutation.

    Maps are stored and applied in double precision, flips as signs in centered coordinates (see `Shift`). The
    composition of $(g_1, p_1)$ and $(g_2, p_2)$ is $(p_1^{-1} g_2\, p_1\, g_1,\; p_1 p_2)$ with $p_1$ applied first,
    since $p_2 g_2 p_1 g_1 = p_2 p_1 (p_1^{-1} g_2 p_1) g_1$ as operators.

    Args:
        symmetry: The linear symmetries, and the groups and tensors they act on.
        permutation: A permutation with the layout `Symmetry.permutations`.
        maps: For every linear symmetry a tensor of shape `Symmetry.map_shape`, in float64 or float32; None for the
            identity. ``[*outer, n]`` factors, ``[*outer, n/2, 2]`` for rotations (real and imaginary part of a complex
            factor for each pair of units), ``[*outer, n, n]`` matrices.

    Raises:
        InvalidInputError: If the permutation has another layout, the number, shape or dtype of the maps differs, or a
            map is not of its kind: a factor that is not a sign, positive or nonzero, a matrix that is not orthogonal up
            to the rounding of its dtype, does not fix the vector of ones, or is singular.

    Examples:
        >>> import torch
        >>> from rebasin_core.symmetry import Atom, Group, Kind, Layout, LinearSymmetry, Slot, Symmetry
        >>> hidden = Atom(2, "hidden")
        >>> layout = Layout({"hidden": Group("hidden", 2)}, {"in": (hidden, Atom(1)), "out": (Atom(1), hidden)})
        >>> scales = LinearSymmetry("hidden", Kind.POSITIVE, {Slot("in", 0): 1, Slot("out", 1): -1})
        >>> symmetry = Symmetry(layout, (scales,))
        >>> swap = Permutation(layout, {"hidden": torch.tensor([1, 0])})
        >>> element = SymmetryElement(symmetry, swap, [torch.tensor([2.0, 4.0])])
        >>> scaled = element.apply({"in": torch.ones(2, 1), "out": torch.ones(1, 2)})
        >>> scaled["in"].tolist(), scaled["out"].tolist()
        ([[4.0], [2.0]], [[0.25, 0.5]])
    """

    __slots__ = ("_linear_maps", "_permutation")

    def __init__(self, symmetry: Symmetry, permutation: Permutation, maps: Sequence[Tensor | None]) -> None:
        if not isinstance(symmetry, Symmetry):
            raise_wrong_type(symmetry, "a `Symmetry`", "use the `symmetry` of the specification")
        if not isinstance(permutation, Permutation):
            raise_wrong_type(permutation, "a `Permutation`")
        require_sequence(maps, "one map per linear symmetry")
        require_same_layout(symmetry.permutations, permutation.layout, "the permutation")
        if len(maps) != len(symmetry.linear):
            message = f"expected {len(symmetry.linear)} maps, one per linear symmetry, got {len(maps)}"
            raise InvalidInputError(message)
        checked: list[UnitMap | None] = []
        for linear, value in zip(symmetry.linear, maps, strict=True):
            where = f"the map of kind {linear.kind} of group {linear.group!r}"
            if value is not None and not isinstance(value, torch.Tensor):
                raise_wrong_type(value, f"{where} as a tensor, or None for the identity")
            shape = symmetry.map_shape(linear)
            checked.append(None if value is None else checked_map(linear.kind, value, shape, where))
        self._linear_maps = LinearMaps(symmetry, checked)
        self._permutation = permutation

    @classmethod
    def from_linear_maps(cls, linear_maps: LinearMaps, permutation: Permutation) -> SymmetryElement:
        """Return the element with the given maps, which are not checked again.

        Args:
            linear_maps: The maps, which are applied first.
            permutation: The permutation, with the layout of permutations of the symmetry.

        Returns:
            The element.
        """
        element = cls.__new__(cls)
        element._linear_maps = linear_maps  # ruff: ignore[private-member-access] - of the new object
        element._permutation = permutation  # ruff: ignore[private-member-access] - of the new object
        return element

    @classmethod
    def identity(cls, symmetry: Symmetry) -> SymmetryElement:
        """Return the identity.

        Args:
            symmetry: The linear symmetries.

        Returns:
            The identity element.
        """
        return cls(symmetry, Permutation.identity(symmetry.permutations), [None] * len(symmetry.linear))

    @classmethod
    def random(cls, symmetry: Symmetry, *, generator: torch.Generator, log_stddev: float = 0.5) -> SymmetryElement:
        """Return a random element with a uniformly random permutation.

        Orthogonal maps follow the Haar measure, signs and angles are uniformly distributed, and the logarithms of
        positive factors, of scales and of the singular values of invertible maps are normally distributed.

        Args:
            symmetry: The linear symmetries.
            generator: The source of randomness.
            log_stddev: Standard deviation of these logarithms, nonnegative. Default 0.5.

        Returns:
            The element, on the CPU.

        Raises:
            InvalidInputError: If ``log_stddev`` is negative or not finite.
        """
        if not 0 <= log_stddev < math.inf:
            message = f"expected a nonnegative, finite `log_stddev`, got {log_stddev!r}"
            raise InvalidInputError(message)
        permutation = Permutation.random(symmetry.permutations, generator=generator)
        maps = [
            random_map(linear.kind, symmetry.map_shape(linear), log_stddev=log_stddev, generator=generator)
            for linear in symmetry.linear
        ]
        return cls(symmetry, permutation, maps)

    @property
    @override
    def layout(self) -> Layout:
        return self._permutation.layout

    @property
    def symmetry(self) -> Symmetry:
        """The linear symmetries, and the groups and tensors they act on."""
        return self._linear_maps.symmetry

    @property
    def linear_maps(self) -> LinearMaps:
        """The linear maps, which are applied before the permutation."""
        return self._linear_maps

    @property
    @override
    def permutation(self) -> Permutation:
        return self._permutation

    @property
    def maps(self) -> tuple[Tensor | None, ...]:
        """The map of every linear symmetry in float64; None for the identity; do not modify the tensors."""
        return tuple(None if item is None else item.value for item in self._linear_maps.maps)

    @property
    @override
    def is_identity(self) -> bool:
        return self._linear_maps.is_inverse_of(self._permutation)

    @property
    @override
    def distances(self) -> Mapping[str, float]:
        return self._linear_maps.distances(self._permutation)

    @override
    def inverse(self) -> SymmetryElement:
        maps = self._linear_maps.inverse().conjugated(self._permutation)
        return self.from_linear_maps(maps, self._permutation.inverse())

    @override
    def compose(self, then: GroupElement) -> SymmetryElement:
        if not isinstance(then, GroupElement):
            raise_wrong_type(then, "a permutation or another group element")
        require_same_layout(self.layout, then.layout, "the second element")
        permutation = self._permutation.compose(then.permutation)
        if not isinstance(then, SymmetryElement):
            return self.from_linear_maps(self._linear_maps, permutation)
        second = then.linear_maps.conjugated(self._permutation.inverse())
        return self.from_linear_maps(self._linear_maps.compose(second), permutation)

    @override
    def _preceded_by(self, first: Permutation) -> SymmetryElement:
        maps = self._linear_maps.conjugated(first.inverse())
        return self.from_linear_maps(maps, first.compose(self._permutation))

    @override
    def apply_to_axes(self, name: str, tensor: Tensor, dims: Sequence[int]) -> Tensor:
        name = require_unstacked(self.layout, name)
        require_axes(tensor, [self.layout.axes[name][dim] for dim in dims], f"a tensor attached to `{name}`")
        mapped = self._linear_maps.act(name, tensor, dims=dims)
        return self._permutation.apply_to_axes(name, mapped, dims)

    @override
    def _act(self, name: str, tensor: Tensor) -> Tensor:
        return self._act_among(name, tensor, {name: tensor})

    @override
    def _act_among(self, name: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        mapped = self._linear_maps.act_among(name, tensor, tensors)
        permuted = act_on_tensor(self._permutation, name, mapped)
        return permuted.clone() if permuted.data_ptr() == tensor.data_ptr() else permuted

    @override
    def _require_preserving(self, tensors: Mapping[str, Tensor]) -> None:
        needed = {name for linear in self.symmetry.linear for name in linear.required}
        named = {name: tensors[name] for name in tensors if self.layout.key(name) in needed}
        self._linear_maps.require_values(self.layout.stacked(named))

    @override
    def _permute(self, target: Permutable) -> object:
        if self._linear_maps.are_trivial:
            return target.permute(self._permutation)
        message = f"expected an object with a method `transform`, got `{type(target).__qualname__}` with `permute` only"
        raise InvalidInputError(message)

    @override
    def to(self, device: torch.device | str) -> SymmetryElement:
        return self.from_linear_maps(self._linear_maps.to(device), self._permutation.to(device))

    @override
    def save(self, path: Path | str, *, meta: Mapping[str, Any] | None = None) -> None:
        tensors = {f"{_PERMUTATION}/{name}": index for name, index in self._permutation.indices.items()}
        tensors |= {f"{_MAP}/{k}": value for k, value in enumerate(self.maps) if value is not None}
        write_tensors(path, tensors, kind=_KIND, document={**(meta or {}), "symmetry": self.symmetry.as_json()})

    @classmethod
    def load(cls, path: Path | str, layout: Layout | None = None) -> SymmetryElement:
        """Read an element from a file.

        Args:
            path: A file written by `save`.
            layout: The layout of permutations that the element must belong to; any if None.

        Returns:
            The element.

        Raises:
            FileFormatError: If the file is missing or damaged, is of another kind, or belongs to another layout.
        """
        tensors, document = read_tensors(path, kind=_KIND)
        try:
            return cls._from_file(tensors, document, layout)
        except (FileFormatError, SpecError, InvalidInputError) as error:
            message = f"{path}: {error}"
            raise FileFormatError(message) from error

    @classmethod
    def _from_file(
        cls, tensors: Mapping[str, Tensor], document: Mapping[str, Any], layout: Layout | None
    ) -> SymmetryElement:
        symmetry = Symmetry.from_json(document.get("symmetry"))
        if layout is not None:
            require_same_layout(layout, symmetry.permutations, "the element")
        prefix = f"{_PERMUTATION}/"
        indices = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        maps = [tensors.get(f"{_MAP}/{k}") for k in range(len(symmetry.linear))]
        return cls(symmetry, Permutation(symmetry.permutations, indices), maps)

    @override
    def __eq__(self, other: object) -> bool:
        """Return whether both elements act equally, up to rounding."""
        if not isinstance(other, GroupElement) or self.layout.fingerprint != other.layout.fingerprint:
            return NotImplemented if not isinstance(other, GroupElement) else False
        try:
            return self.compose(other.inverse()).is_identity
        except InvalidInputError:  # no common symmetry
            return False

    @override
    def __hash__(self) -> int:
        """Return a hash of the layout: equal elements have equal hashes."""
        return hash(self.layout.fingerprint)

    @override
    def __repr__(self) -> str:
        """Return a short description: for every group, its kinds of maps and the distance from the identity."""
        parts: list[str] = []
        for group, distance in self.distances.items():
            kinds = [str(linear.kind) for linear in self._linear_maps.acting() if linear.group == group]
            parts.append(f"{group}: {' and '.join([*kinds, 'permutation'])} at {distance:.3g}")
        return f"SymmetryElement(distances from the identity: {', '.join(parts) or 'no groups'})"


def recentered(element: SymmetryElement, symmetry: Symmetry) -> SymmetryElement:
    """Return the element with the same maps and permutation in other coordinates: with flips for signs, or the reverse.

    Args:
        element: The element.
        symmetry: The symmetry of the result, with the same `Symmetry.centered` as that of the element.

    Returns:
        The element. If that of flips maps a network to another one, that of signs maps its centered coordinates (see
        `Shift`) to those of the other one.

    Raises:
        InvalidInputError: If the two symmetries differ in centered coordinates.
    """
    own, given = element.symmetry.centered.fingerprint, symmetry.centered.fingerprint
    if own != given:
        message = f"expected a symmetry that is {own} in centered coordinates, got {given}"
        raise InvalidInputError(message)
    return SymmetryElement.from_linear_maps(element.linear_maps.within(symmetry), element.permutation)


def load_element(path: Path | str, layout: Layout | None = None) -> GroupElement:
    """Read a group element of any kind from a file.

    Args:
        path: A file written by `GroupElement.save`.
        layout: The layout of permutations that the element must belong to; any if None.

    Returns:
        A `Permutation` or a `SymmetryElement`.

    Raises:
        FileFormatError: If the file is missing or damaged, is not of a group element, or belongs to another layout.
    """
    if layout is not None:
        require_layout(layout)
    if document_of(path)["kind"] == _KIND:
        return SymmetryElement.load(path, layout)
    return Permutation.load(path, layout)
