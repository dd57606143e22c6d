"""Points of weight space: weighted sums of networks, and files with several networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.errors import FileFormatError, InvalidInputError, RebasinError
from rebasin_core.posteriors.checks import require_same_tensors
from rebasin_core.posteriors.point import PointPosterior

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.posteriors.base import Posterior

_PARAMETER, _BUFFER = "parameter", "buffer"


def weighted_sum(tensors: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    r"""Return $\sum_k w_k \theta_k$ for tensors by name; differentiable.

    Args:
        tensors: Tensors of each network by name, all with the same names and shapes, at least one network.
        weights: One weight per network, of any sign. Networks of weight 0 are skipped.

    Returns:
        New tensors. Integer tensors are those of the network of the largest weight.
    """
    largest = max(range(len(weights)), key=weights.__getitem__)
    total: dict[str, Tensor] = {}
    for name, tensor in tensors[largest].items():
        if not (tensor.is_floating_point() or tensor.is_complex()):
            total[name] = tensor.clone()
            continue
        total[name] = weights[largest] * tensor
        for index, weight in enumerate(weights):
            if weight and index != largest:
                total[name] += weight * tensors[index][name]
    return total


def weighted_point(points: Sequence[PointPosterior], weights: Sequence[float]) -> PointPosterior:
    """Return the single network at an affine combination of networks and of their buffers.

    Args:
        points: Single networks over the same tensors, at least one.
        weights: One weight per network.

    Returns:
        The network.
    """
    buffers = weighted_sum([point.buffers for point in points], weights)
    return PointPosterior(weighted_sum([point.mean for point in points], weights), buffers=buffers)


def require_points(points: Sequence[Posterior], minimum: int, label: str) -> None:
    """Raise unless there are enough single networks over the same tensors.

    Args:
        points: The networks.
        minimum: Smallest number of networks.
        label: Name of the networks in messages, in the plural.

    Raises:
        InvalidInputError: If there are too few networks, one is not a single network, or their tensors differ.
    """
    if len(points) < minimum:
        message = f"expected at least {minimum} {label}, got {len(points)}"
        raise InvalidInputError(message)
    for index, point in enumerate(points):
        if not point.is_point:
            message = f"expected {label} that are single networks, got {point.kind!r} as number {index}"
            raise InvalidInputError(message)
        require_same_tensors(points[0].mean, point.mean, f"number {index} of the {label}")
        require_same_tensors(points[0].buffers, point.buffers, f"the buffers of number {index} of the {label}")


def tensors_of_points(points: Sequence[PointPosterior]) -> dict[str, Tensor]:
    """Return the tensors of several networks under distinct names, for one file.

    Args:
        points: The networks.

    Returns:
        Tensors by names such as ``0/parameter/weight``.
    """
    found: dict[str, Tensor] = {}
    for index, point in enumerate(points):
        found |= {f"{index}/{_PARAMETER}/{name}": tensor for name, tensor in point.mean.items()}
        found |= {f"{index}/{_BUFFER}/{name}": tensor for name, tensor in point.buffers.items()}
    return found


def points_in_tensors(tensors: Mapping[str, Tensor], count: object) -> list[PointPosterior]:
    """Return the networks whose tensors `tensors_of_points` named.

    Args:
        tensors: Tensors by name, as read from a file.
        count: Number of networks, as read from a file.

    Returns:
        The networks.

    Raises:
        FileFormatError: If a name has another form, or networks are missing or differ in their tensors.
    """
    if not isinstance(count, int) or isinstance(count, bool) or not 0 < count <= len(tensors):
        message = f"expected the number of networks to be from 1 to the number of tensors, got {count!r}"
        raise FileFormatError(message)
    parts: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, rest = key.partition("/")
        role, _, name = rest.partition("/")
        parts.setdefault((index, role), {})[name] = tensor
    wanted = {(str(index), role) for index in range(count) for role in (_PARAMETER, _BUFFER)}
    if not parts.keys() <= wanted or any((str(index), _PARAMETER) not in parts for index in range(count)):
        message = f"expected the tensors of {count} networks under names such as '0/parameter/weight'"
        raise FileFormatError(message)
    try:
        points = [
            PointPosterior(parts[str(index), _PARAMETER], buffers=parts.get((str(index), _BUFFER)))
            for index in range(count)
        ]
        require_points(points, 1, "networks of the file")
    except (RebasinError, RuntimeError, TypeError) as error:
        message = f"the networks of the file do not fit each other: {error}"
        raise FileFormatError(message) from error
    return points
