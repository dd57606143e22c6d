"""From expressions to axes: lengths are looked up in the groups, or worked out from tensor shapes."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from rebasin_core.errors import SpecError, nearest
from rebasin_core.symmetry.axis import Atom, Axis, Group, concat, product
from rebasin_core.symmetry.notation import Expression, Length, Name, Operation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def resolve(expression: Expression, groups: Mapping[str, Group], where: str) -> Axis:
    """Return the axis of an expression whose lengths are all known.

    Args:
        expression: As parsed.
        groups: The groups by name.
        where: The tensor, for messages.

    Returns:
        The axis, in normal form.

    Raises:
        SpecError: If a group is unknown, or a length is left open.
    """
    match expression:
        case Name(name, _):
            if name not in groups:
                message = f"{where} names the group {name!r}; {nearest(name, groups)}"
                raise SpecError(message)
            return Atom(groups[name].size, name)
        case Length(int(size)):
            return Atom(size)
        case Operation("*", operands):
            return product(*(resolve(operand, groups, where) for operand in operands))
        case Operation(_, operands):
            return concat(*(resolve(operand, groups, where) for operand in operands))
    message = f"{where}: the length of `-` is not known here; write it as a number"
    raise SpecError(message)


def names_of(expression: Expression) -> Iterator[Name]:
    """Yield the group names in an expression.

    Args:
        expression: As parsed.

    Yields:
        Each name, as often as it stands there.
    """
    if isinstance(expression, Name):
        yield expression
    elif isinstance(expression, Operation):
        for operand in expression.operands:
            yield from names_of(operand)


def without_nesting(expression: Expression) -> Expression:
    """Return an expression without its ``@``, so that mentions of a group with and without it compare equal.

    Args:
        expression: As parsed.

    Returns:
        The expression, for working out lengths.
    """
    match expression:
        case Name(name, _):
            return Name(name, None)
        case Operation(mark, operands):
            return Operation(mark, tuple(without_nesting(operand) for operand in operands))
        case _:
            return expression


def length_of(expression: Expression, sizes: Mapping[str, int]) -> int | None:
    """Return the length of an expression, or None while something in it is unknown.

    Args:
        expression: As parsed.
        sizes: The group sizes known so far.

    Returns:
        The length, or None.
    """
    match expression:
        case Name(name, _):
            return sizes.get(name)
        case Length(size):
            return size
        case Operation(mark, operands):
            lengths = [length_of(operand, sizes) for operand in operands]
            known = [length for length in lengths if length is not None]
            if len(known) < len(lengths):
                return None
            return prod(known) if mark == "*" else sum(known)


def solve(expression: Expression, length: int, sizes: dict[str, int]) -> Expression:
    """Return the expression with what a known total length determines filled in.

    A single unknown in a product or a sum is worked out, also when the same group stands there several times in a sum;
    group sizes found on the way are added to ``sizes``.

    Args:
        expression: As parsed.
        length: The length of the tensor's axis.
        sizes: The group sizes known so far; extended in place.

    Returns:
        The expression, with `-` replaced by a number wherever it is determined.

    Raises:
        SpecError: If no lengths fit.
    """
    match expression:
        case Name(name, _):
            if sizes.setdefault(name, length) != length:
                message = f"group {name!r} would need {length} units here, elsewhere it has {sizes[name]}"
                raise SpecError(message)
            return expression
        case Length(size):
            if size not in {None, length}:
                message = f"the axis has length {length}, the table says {size}"
                raise SpecError(message)
            return Length(length)
        case Operation():
            return _solve_operation(expression, length, sizes)


def _solve_operation(expression: Operation, length: int, sizes: dict[str, int]) -> Expression:
    operands = list(expression.operands)
    open_places = [i for i, operand in enumerate(operands) if length_of(operand, sizes) is None]
    rest = [length_of(operand, sizes) or 0 for i, operand in enumerate(operands) if i not in open_places]
    if not open_places:
        total = prod(rest) if expression.mark == "*" else sum(rest)
        if total != length:
            message = f"the axis has length {length}, the table's lengths give {total}"
            raise SpecError(message)
        return expression
    same = all(operands[i] == operands[open_places[0]] for i in open_places)
    if expression.mark == "*":
        share, left_over = divmod(length, prod(rest))
        determined = len(open_places) == 1
    else:
        share, left_over = divmod(length - sum(rest), len(open_places))
        determined = same
    if not determined:
        return expression
    if left_over or share < 1:
        message = f"an axis of length {length} cannot be divided as the table says"
        raise SpecError(message)
    for i in open_places:
        operands[i] = solve(operands[i], share, sizes)
    return Operation(expression.mark, tuple(operands))
