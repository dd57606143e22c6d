"""One family of linear maps of the units of a group."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any, Final, final

from rebasin_core.errors import FileFormatError, SpecError
from rebasin_core.symmetry.kind import Kind, Shift, Slot
from rebasin_core.symmetry.pairs import Pairs
from rebasin_core.symmetry.shifts import check_shifts_of_kind, shifts_of_json
from rebasin_core.tensors.arguments import raise_wrong_type, require_mapping
from rebasin_core.tensors.frozen import FrozenMapping
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_FIELDS: Final = {"group", "kind", "degrees", "ones", "zeros", "pairs", "shifts"}


@final
@dataclass(frozen=True, slots=True)
class LinearSymmetry:
    r"""One family of linear maps of the units of a group that leaves the function of the network unchanged.

    Factors multiply the entries of unit $i$ by $f_i^d$, where $d$ is the degree of the slot. Rotations and matrices
    $g$ transform the axis of a slot of degree 1 by $g$ (a tensor that produces the units) and that of a slot of degree
    -1 by $g^{-T}$ (a tensor that consumes them). Slots that are not listed are not transformed.

    Attributes:
        group: Name of a group of the layout. A nested group has one map per unit of its outer groups.
        kind: The family of maps.
        degrees: The degree by slot. A degree of 0 is omitted.
        ones: Names of tensors that must be one in all entries, or other maps than the identity change the function
            (scales of normalizations).
        zeros: Names of tensors that must be zero in all entries (scales of normalizations that multiply by $1 + w$).
        pairs: The units that are a pair, for rotations.
        shifts: For flips, the layers after the units; else empty. The degrees are those in centered coordinates (see
            `Shift`).

    Raises:
        SpecError: If there is no degree, one is not an integer or not allowed for the kind, a tensor must be one and
            zero, there are pairs of neighbors but no rotations, or flips have no shifts.
    """

    group: str
    kind: Kind
    degrees: Mapping[Slot, int]
    ones: tuple[str, ...] = ()
    zeros: tuple[str, ...] = ()
    pairs: Pairs = Pairs.HALVES
    shifts: tuple[Shift, ...] = ()

    def __post_init__(self) -> None:
        """Freeze the mapping and check the degrees."""
        require_mapping(self.degrees, "degrees as a mapping by `Slot`")
        if not isinstance(self.kind, Kind):
            raise_wrong_type(self.kind, "the kind of a linear symmetry as a member of `Kind`")
        given: Iterable[tuple[object, object]] = self.degrees.items()
        for slot, degree in given:
            if not isinstance(slot, Slot) or type(degree) is not int:
                message = (
                    f"group {shown(self.group)}: expected integer degrees by `Slot`, got {shown(slot)}: {shown(degree)}"
                )
                raise SpecError(message)
            if not self.kind.is_factor and degree not in {-1, 0, 1}:
                message = f"{shown(slot)}: expected degree 1 or -1 for maps of kind {self.kind}, got {degree}"
                raise SpecError(message)
        degrees = {slot: degree for slot, degree in self.degrees.items() if degree}
        if not degrees:
            message = f"group {shown(self.group)}: expected at least one slot with a nonzero degree, got none"
            raise SpecError(message)
        object.__setattr__(self, "degrees", FrozenMapping(degrees))
        object.__setattr__(self, "ones", tuple(sorted(set(self.ones))))
        object.__setattr__(self, "zeros", tuple(sorted(set(self.zeros))))
        both = sorted({*self.ones}.intersection(self.zeros))
        if both:
            message = f"group {shown(self.group)}: {both} must be one and zero; remove one of the two"
            raise SpecError(message)
        if not isinstance(self.pairs, Pairs):
            raise_wrong_type(self.pairs, "the pairs of a linear symmetry as a member of `Pairs`")
        if self.pairs is not Pairs.HALVES and self.kind is not Kind.ROTATION:
            message = f"group {shown(self.group)}: expected pairs of {self.pairs} for rotations only, got {self.kind}"
            raise SpecError(message)
        object.__setattr__(self, "shifts", tuple(self.shifts))
        check_shifts_of_kind(self.group, self.kind, self.shifts)

    @property
    def required(self) -> Mapping[str, float]:
        """The tensors that must have one value in all entries, with this value: 1 for ``ones``, 0 for ``zeros``."""
        return {**dict.fromkeys(self.ones, 1.0), **dict.fromkeys(self.zeros, 0.0)}

    def as_json(self) -> dict[str, Any]:
        """Return the symmetry as a JSON object: each degree is a list of tensor, dimension, number and degree."""
        degrees = [[slot.tensor, slot.dim, slot.number, self.degrees[slot]] for slot in sorted(self.degrees)]
        document: dict[str, Any] = {"group": self.group, "kind": str(self.kind), "degrees": degrees}
        shifts = [[*astuple(shift)[:3], *map(float, astuple(shift)[3:])] for shift in sorted(self.shifts)]
        others = {"ones": list(self.ones), "zeros": list(self.zeros), "shifts": shifts}
        document |= {name: rows for name, rows in others.items() if rows}
        return document | ({} if self.pairs is Pairs.HALVES else {"pairs": str(self.pairs)})

    @classmethod
    def from_json(cls, document: object) -> LinearSymmetry:
        """Return the symmetry written by `as_json`.

        Args:
            document: The parsed JSON.

        Returns:
            An equal symmetry.

        Raises:
            FileFormatError: If the document has another structure.
            SpecError: If a degree is not allowed.
        """
        entry: dict[str, Any] = document if isinstance(document, dict) else {}
        group, kind = entry.get("group"), entry.get("kind")
        ones, zeros = entry.get("ones", []), entry.get("zeros", [])
        rows, shifts = entry.get("degrees"), shifts_of_json(entry.get("shifts", []))
        kinds = [member for member in Kind if kind == member]
        pairs = [member for member in Pairs if entry.get("pairs", Pairs.HALVES) == member]
        fits = isinstance(group, str) and bool(kinds) and shifts is not None and entry.keys() <= _FIELDS
        fits = fits and isinstance(rows, list) and all(map(_is_degree, rows))
        if not (fits and pairs and are_names(ones) and are_names(zeros)):
            message = (
                "expected a linear symmetry as an object with `group`, `kind` and `degrees` (lists of tensor, "
                f"dimension, number and degree), got {shown(document)}"
            )
            raise FileFormatError(message)
        degrees = {Slot(*row[:3]): row[3] for row in rows or ()}
        return cls(str(group), kinds[0], degrees, tuple(ones), tuple(zeros), pairs[0], shifts or ())


def _is_degree(row: object) -> bool:
    """Return whether a value is a list of a tensor, a dimension, the number of an atom and a degree."""
    return isinstance(row, list) and [type(item) for item in row] == [str, int, int, int]


def are_names(value: object) -> bool:
    """Return whether a JSON value is a list of texts.

    Args:
        value: The parsed JSON.

    Returns:
        Whether it is.
    """
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
