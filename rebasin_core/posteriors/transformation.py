"""Posteriors under linear maps of units: the transformation of tensors, and representations that are not closed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from rebasin_core.errors import NotClosedError
from rebasin_core.symmetry.kind import Kind
from rebasin_core.symmetry.slots import slot_cells
from rebasin_core.symmetry.symmetry_element import SymmetryElement, recentered

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from torch import Tensor

    from rebasin_core.symmetry.kind import Slot
    from rebasin_core.symmetry.linear import LinearSymmetry


def raise_not_closed(kind: str, linear: LinearSymmetry, reason: str) -> NoReturn:
    """Raise the error for a representation that is not closed under a linear map.

    Args:
        kind: Name of the representation.
        linear: The linear symmetry of the map.
        reason: The reason, as a clause.

    Raises:
        NotClosedError: Always.
    """
    message = (
        f"posteriors of kind {kind!r} are not closed under maps of kind {str(linear.kind)!r}, got one for group "
        f"{linear.group!r}: {reason}; convert it with `SamplesPosterior.from_posterior`, or a small Gaussian with "
        "`FullGaussianPosterior.from_gaussian`"
    )
    raise NotClosedError(message)


def require_untransformed(kind: str, element: SymmetryElement, names: Iterable[str], field: str) -> None:
    """Raise if a linear map acts on a tensor of a field that only permutations can transform.

    Args:
        kind: Name of the representation.
        element: The group element.
        names: Names of the parameters of the field.
        field: Name of the field.

    Raises:
        NotClosedError: If a map acts on one of them.
    """
    for name in names:
        for _, linear in acting_on(element, name):
            raise_not_closed(kind, linear, f"its tensors `{field}` cannot be transformed (`{name}`)")


def require_closed(
    kind: str,
    element: SymmetryElement,
    random: Collection[str],
    moments: Callable[[], tuple[Mapping[str, Tensor], Mapping[str, Tensor]]],
) -> None:
    """Raise if a tensor that must be one or zero is not, or is random, or if only one tensor of a shift is random.

    Args:
        kind: Name of the representation.
        element: The group element.
        random: Names of the random parameters.
        moments: Returns means and buffers by name, and standard deviations; called only if a tensor must be one.

    Raises:
        InvalidInputError: If there is such a tensor; a NotClosedError if it is random.
    """
    _require_joint(kind, element, random)
    if not any(linear.required for linear in element.linear_maps.acting()):
        return
    mean, stddev = moments()
    element.require_preserving(mean)
    stddev = element.layout.stacked(stddev)
    for linear in element.linear_maps.acting():
        for name, value in linear.required.items():
            if name in stddev and bool(stddev[name].any()):
                raise_not_closed(
                    kind,
                    linear,
                    f"`{name}` must be {'one' if value else 'zero'}, but is random; fold it into the weights that "
                    "follow (`rebasin_core.fold`)",
                )


def _require_joint(kind: str, element: SymmetryElement, random: Iterable[str]) -> None:
    """Raise if flips add entries of a weight to a bias of which only one is random."""
    acting = [linear for linear in element.linear_maps.acting() if linear.shifts]
    names = {element.layout.names.of(name) or name for name in random} if acting else set[str]()
    for linear in acting:
        for shift in linear.shifts:
            if len({shift.weight, shift.bias} & names) == 1:
                reason = f"it adds entries of `{shift.weight}` to `{shift.bias}`, and only one of the two is random"
                raise_not_closed(kind, linear, reason)


def require_unshifted(kind: str, element: SymmetryElement, random: Iterable[str]) -> None:
    """Raise if flips add random entries of a weight to a bias that must be independent of them.

    Args:
        kind: Name of the representation.
        element: The group element.
        random: Names of the weights with random entries.

    Raises:
        NotClosedError: If a flip uses one of them.
    """
    names = {element.layout.names.of(name) or name for name in random}
    for linear in element.linear_maps.acting():
        for shift in linear.shifts:
            if shift.weight in names:
                reason = f"it adds entries of `{shift.weight}` to `{shift.bias}`, which makes the two dependent"
                raise_not_closed(kind, linear, reason)


def transformed_scales(
    kind: str, element: SymmetryElement, scales: Mapping[str, Tensor], *, gaussian: bool
) -> dict[str, Tensor]:
    """Return the scales of independent entries after a transformation.

    Factors multiply them by absolute values. Flips leave entries independent if the weights after the units have no
    standard deviation. An orthogonal map leaves the entries of a Gaussian independent if all
    units that it mixes have the same standard deviation; an invertible one if they have none.

    Args:
        kind: Name of the representation, for messages.
        element: The group element.
        scales: Standard deviations, or other scales of distributions that are symmetric around 0, by parameter name.
        gaussian: Whether the entries are normally distributed.

    Returns:
        The transformed scales.

    Raises:
        NotClosedError: If the transformed entries are not independent.
    """
    scales = element.layout.stacked(scales)
    require_unshifted(kind, element, (name for name, scale in scales.items() if bool(scale.any())))
    for name, scale in scales.items():
        for slot, linear in acting_on(element, name):
            reason = _dependence(element, linear, slot, scale, gaussian=gaussian)
            if reason is not None:
                raise_not_closed(kind, linear, f"it makes the entries of `{name}` dependent, {reason}")
    absolute = SymmetryElement.from_linear_maps(element.linear_maps.absolute(), element.permutation)
    return element.layout.unstacked(absolute.apply_to_deviations(scales))


def _dependence(
    element: SymmetryElement, linear: LinearSymmetry, slot: Slot, scale: Tensor, *, gaussian: bool
) -> str | None:
    """Return why a map makes independent entries dependent; None if it does not."""
    if linear.kind.is_factor:
        return None
    for cell, dims in slot_cells(element.symmetry.layout, slot, scale):
        dim = dims[-1]
        if not bool(cell.any()):
            continue
        if not gaussian or linear.kind is Kind.INVERTIBLE:
            return "since they are random"
        parts = [*linear.pairs.parts(cell, dim)] if linear.kind is Kind.ROTATION else [cell]
        spans = [part.amax(dim) - part.amin(dim) for part in parts] if len(parts) == 1 else [parts[0] - parts[1]]
        if any(bool(span.any()) for span in spans):
            return "since their standard deviations differ"
    return None


def acting_on(element: SymmetryElement, name: str) -> tuple[tuple[Slot, LinearSymmetry], ...]:
    """Return the slots of a parameter on which a linear map acts.

    Args:
        element: The group element.
        name: Name of the parameter, also as in a wrapped module.

    Returns:
        The slots, each with its linear symmetry.
    """
    return element.linear_maps.acting_on(element.layout.key(name))


def isometry_of(element: SymmetryElement) -> SymmetryElement:
    """Return the element that maps the base noise of independent Gaussian entries.

    Args:
        element: The group element.

    Returns:
        The element with factors of absolute value 1, signs instead of flips, and without invertible maps.
    """
    isometry = SymmetryElement.from_linear_maps(element.linear_maps.isometry(), element.permutation)
    return recentered(isometry, isometry.symmetry.centered)
