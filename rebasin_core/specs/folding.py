"""Properties of a model beyond its group elements that allow to fold its normalizations into neighboring weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import starmap
from typing import TYPE_CHECKING, Any, final

from typing_extensions import override

from rebasin_core.errors import FileFormatError
from rebasin_core.symmetry.linear import LinearSymmetry
from rebasin_core.tensors.frozen import FrozenMapping
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@final
@dataclass(frozen=True, slots=True, order=True)
class Dim:
    """A dimension of a tensor.

    Attributes:
        tensor: Name of the tensor.
        dim: Index of the dimension.
    """

    tensor: str
    dim: int

    @override
    def __str__(self) -> str:
        """Return the tensor and the dimension."""
        return f"{self.tensor}[{self.dim}]"


@final
@dataclass(frozen=True, slots=True, order=True)
class BiasedWeight:
    """A weight that is contracted with normalized units, and the bias added to the product.

    Attributes:
        units: The dimension of the weight that has the normalized units.
        bias: Name of the bias, which has the other dimension of the weight.
    """

    units: Dim
    bias: str


@final
@dataclass(frozen=True, slots=True)
class Obstacle:
    """The reason why a scale or shift cannot be folded.

    Attributes:
        why: A phrase with the operator and its node.
        tensor: Name of a weight that would have to change with it, but that has other uses; empty if there is none.
    """

    why: str
    tensor: str = ""

    @override
    def __str__(self) -> str:
        """Return the reason."""
        return (
            f"`{self.tensor}`, which it would change, is also used otherwise: {self.why}" if self.tensor else self.why
        )


@final
@dataclass(frozen=True, slots=True)
class Foldable:
    r"""Shifts and means that can be folded into neighboring weights; a `Symmetry` describes the scales.

    Let $z$ be normalized units, $Wz + c$ the layers that use them, and $e$ the vector of ones.

    Attributes:
        shifts: For every shift $\beta$ that only layers with biases use, these layers: $W(z + \beta) + c$ is
            $Wz + (c + W\beta)$.
        writers: Dimensions of tensors whose mean is subtracted wherever they are used: adding a multiple of
            $e$ along one does not change the function.
        readers: Dimensions of weights along which the normalized units have mean zero if the listed scales are one and
            the listed shifts are zero. Adding a multiple of $e$ along one does not change the function then.
        obstacles: For scales and shifts that cannot be folded, the reason.
        offset_scales: For normalizations that multiply by $1 + w$, where $w$ is a parameter: families of factors of
            $1 + w$, in whose degrees $w$ represents $1 + w$, in the layout of `PermutationSpec.symmetry`.
    """

    shifts: Mapping[str, tuple[BiasedWeight, ...]] = field(default_factory=lambda: FrozenMapping({}))
    writers: tuple[Dim, ...] = ()
    readers: Mapping[Dim, tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=lambda: FrozenMapping({}))
    obstacles: Mapping[str, Obstacle] = field(default_factory=lambda: FrozenMapping({}))
    offset_scales: tuple[LinearSymmetry, ...] = ()

    def __post_init__(self) -> None:
        """Freeze the mappings."""
        for name in ("shifts", "readers", "obstacles"):
            object.__setattr__(self, name, FrozenMapping(dict(getattr(self, name))))
        object.__setattr__(self, "offset_scales", tuple(self.offset_scales))

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON that `from_json` reads back."""
        offsets = {"offset_scales": [linear.as_json() for linear in self.offset_scales]} if self.offset_scales else {}
        return offsets | {
            "shifts": {
                name: [[layer.units.tensor, layer.units.dim, layer.bias] for layer in layers]
                for name, layers in self.shifts.items()
            },
            "writers": [[at.tensor, at.dim] for at in self.writers],
            "readers": [[at.tensor, at.dim, list(scales), list(of)] for at, (scales, of) in self.readers.items()],
            "obstacles": {name: [one.why, one.tensor] for name, one in self.obstacles.items()},
        }

    @classmethod
    def from_json(cls, document: object) -> Foldable:
        """Return the value written by `as_json`.

        Args:
            document: The parsed JSON.

        Returns:
            An equal value.

        Raises:
            FileFormatError: If the document has another structure.
            SpecError: If a degree of a scale is not allowed.
        """
        entry: dict[str, Any] = document if isinstance(document, dict) else {}
        offsets = entry.get("offset_scales", [])
        fits = (
            entry.keys() - {"offset_scales"} == {"shifts", "writers", "readers", "obstacles"}
            and isinstance(offsets, list)
            and _is_mapping_to(entry["shifts"], lambda rows: _are_rows(rows, (str, int, str)))
            and _are_rows(entry["writers"], (str, int))
            and _are_rows(entry["readers"], (str, int, list, list))
            and all(isinstance(name, str) for row in entry["readers"] for names in row[2:] for name in names)
            and _is_mapping_to(entry["obstacles"], lambda row: _are_rows([row], (str, str)))
        )
        if not fits:
            message = (
                "expected foldable parts as an object with `shifts`, `writers`, `readers` and `obstacles`, got "
                f"{shown(document)}"
            )
            raise FileFormatError(message)
        return cls(
            {
                name: tuple(BiasedWeight(Dim(*row[:2]), row[2]) for row in rows)
                for name, rows in entry["shifts"].items()
            },
            tuple(starmap(Dim, entry["writers"])),
            {Dim(*row[:2]): (tuple(row[2]), tuple(row[3])) for row in entry["readers"]},
            {name: Obstacle(*row) for name, row in entry["obstacles"].items()},
            tuple(map(LinearSymmetry.from_json, offsets)),
        )


def _are_rows(value: object, types: tuple[type, ...]) -> bool:
    """Return whether a JSON value is a list of rows with entries of given types."""
    return isinstance(value, list) and all(isinstance(row, list) and tuple(map(type, row)) == types for row in value)


def _is_mapping_to(value: object, is_valid: Callable[[object], bool]) -> bool:
    """Return whether a JSON value is an object with valid entries."""
    return (
        isinstance(value, dict) and all(isinstance(name, str) for name in value) and all(map(is_valid, value.values()))
    )
