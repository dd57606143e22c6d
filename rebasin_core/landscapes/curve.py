"""Curves in weight space through trained points: Bezier curves and polygonal chains."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, TypeAlias, final, get_args

from rebasin_core.errors import FileFormatError, InvalidInputError
from rebasin_core.landscapes.points import points_in_tensors, require_points, tensors_of_points, weighted_point
from rebasin_core.posteriors.checks import require_coefficient
from rebasin_core.tensors.files import read_tensors, write_tensors
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from rebasin_core.posteriors.point import PointPosterior

CurveKind: TypeAlias = Literal["bezier", "polygon"]
_FILE_KIND = "curve"


def curve_weights(kind: CurveKind, num_points: int, t: float) -> list[float]:
    r"""Return the weights $c_k(t)$ of the points of a curve, $\theta(t) = \sum_k c_k(t)\, \theta_k$.

    $$ \text{bezier: } c_k(t) = \binom{n}{k} t^k (1-t)^{n-k}, \qquad
       \text{polygon: } c_k(t) = \max(0, 1 - \lvert n t - k \rvert), \qquad n = \text{num\_points} - 1 $$

    Args:
        kind: ``bezier``, or ``polygon`` for straight lines from point to point.
        num_points: Number of points, endpoints included, at least 2.
        t: Position on the curve, in [0, 1].

    Returns:
        One weight per point, nonnegative, with sum 1.

    Examples:
        >>> curve_weights("bezier", 3, 0.5)
        [0.25, 0.5, 0.25]
        >>> curve_weights("polygon", 3, 0.25)
        [0.5, 0.5, 0.0]
    """
    n = num_points - 1
    if kind == "bezier":
        return [math.comb(n, k) * t**k * (1 - t) ** (n - k) for k in range(num_points)]
    return [max(0.0, 1 - abs(n * t - k)) for k in range(num_points)]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A curve in weight space through single networks.

    Attributes:
        kind: ``bezier`` (the interior points are control points), or ``polygon`` (straight lines from point to point).
        points: Endpoints and the points between them, at least two single networks over the same tensors.
        history: Mean training loss of each epoch in nats per example; empty if the curve was not trained.

    Raises:
        InvalidInputError: If the kind is unknown, there are fewer than two points, or their tensors differ.

    Examples:
        >>> import torch
        >>> from rebasin_core.posteriors import PointPosterior
        >>> points = tuple(PointPosterior({"w": torch.tensor([value])}) for value in (0.0, 2.0, 0.0))
        >>> Curve("bezier", points).at(0.5).mean["w"].item(), Curve("polygon", points).at(0.5).mean["w"].item()
        (1.0, 2.0)
    """

    kind: CurveKind
    points: tuple[PointPosterior, ...]
    history: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Validate the points."""
        if self.kind not in get_args(CurveKind):
            message = f"expected a curve of kind 'bezier' or 'polygon', got {self.kind!r}"
            raise InvalidInputError(message)
        require_points(self.points, 2, "points of a curve")

    @property
    def first(self) -> PointPosterior:
        """The network at t = 0."""
        return self.points[0]

    @property
    def last(self) -> PointPosterior:
        """The network at t = 1."""
        return self.points[-1]

    @property
    def num_bends(self) -> int:
        """The number of points between the endpoints."""
        return len(self.points) - 2

    def at(self, t: float) -> PointPosterior:
        """Return the network at t.

        Args:
            t: Position on the curve, in [0, 1].

        Returns:
            The network. Floating-point buffers have the same weights as the parameters; interpolated
            batch-normalization statistics are in general not those of the network (see `ResetBarrier`).

        Raises:
            InvalidInputError: If t is not in [0, 1].
        """
        require_coefficient(t)
        return weighted_point(self.points, curve_weights(self.kind, len(self.points), t))

    def reversed(self) -> Curve:
        """Return the curve in the opposite direction."""
        return Curve(self.kind, self.points[::-1], self.history)

    def save(self, path: Path | str) -> None:
        """Write the curve to a safetensors file, atomically.

        Args:
            path: The file.

        Raises:
            StorageError: If it cannot be written.
        """
        document = {"curve": self.kind, "num_points": len(self.points), "history": list(self.history)}
        write_tensors(path, tensors_of_points(self.points), kind=_FILE_KIND, document=document)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a curve that `save` wrote; no code in the file is executed.

        Args:
            path: The file.

        Returns:
            The curve, on the CPU.

        Raises:
            FileFormatError: If the file is missing, damaged, or of another kind.
        """
        tensors, document = read_tensors(path, kind=_FILE_KIND)
        try:
            points = points_in_tensors(tensors, document.get("num_points"))
            return cls(document.get("curve", ""), tuple(points), numbers_in(document.get("history", [])))
        except (FileFormatError, InvalidInputError) as error:
            message = f"{shown(Path(path))}: {error}; expected a curve, as `Curve.save` writes it"
            raise FileFormatError(message) from error


def numbers_in(value: object) -> tuple[float, ...]:
    """Return a list of numbers that was read from a file.

    Args:
        value: The parsed JSON.

    Returns:
        The numbers.

    Raises:
        FileFormatError: If it is not a list of numbers.
    """
    if not isinstance(value, list) or not all(isinstance(number, int | float) for number in value):
        message = f"expected a list of numbers as the training history, got {shown(value)}"
        raise FileFormatError(message)
    return tuple(float(number) for number in value)
