"""Convert expressions to axes: lengths come from the groups, or are inferred from tensor shapes."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from rebasin_core.errors import SpecError, nearest
from rebasin_core.symmetry.axis import Atom, Axis, Group, concat, product
from rebasin_core.symmetry.notation import Expression, Length, Name, Operation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def resolve(expression: Expression, groups: Mapping[str, Group], where: str) -> Axis:
    """Convert an expression whose lengths are all known to an axis.

    Args:
        expression: As parsed.
        groups: The groups by name.
        where: The tensor, for messages.

    Returns:
        The axis, in normal form.

    Raises:
        SpecError: If a group or a length is unknown.
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
    message = f"{where}: cannot infer the length of `-`; write it as a number"
    raise SpecError(message)


def names_of(expression: Expression) -> Iterator[Name]:
    """Yield the group names in an expression.

    Args:
        expression: As parsed.

    Yields:
        Each name, as often as it occurs.
    """
    if isinstance(expression, Name):
        yield expression
    elif isinstance(expression, Operation):
        for operand in expression.operands:
            yield from names_of(operand)


def without_nesting(expression: Expression) -> Expression:
    """Remove ``@outer`` from an expression. Then a group with and without it compares equal.

    Args:
        expression: As parsed.

    Returns:
        The expression, for inferring lengths.
    """
    match expression:
        case Name(name, _):
            return Name(name, None)
        case Operation(mark, operands):
            return Operation(mark, tuple(without_nesting(operand) for operand in operands))
        case _:
            return expression


def length_of(expression: Expression, sizes: Mapping[str, int]) -> int | None:
    """Return the length of an expression, or None if it contains an unknown length.

    Args:
        expression: As parsed.
        sizes: The known group sizes.

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
    """Infer the lengths in an expression from its total length.

    A product or a concatenation with one unknown length determines it. A concatenation also does if the unknown occurs
    several times. Inferred group sizes are added to ``sizes``.

    Args:
        expression: As parsed.
        length: The length of the tensor's axis.
        sizes: The known group sizes; extended in place.

    Returns:
        The expression, in which each `-` whose length is determined is replaced by the number.

    Raises:
        SpecError: If no lengths are consistent with the total.
    """
    match expression:
        case Name(name, _):
            if sizes.setdefault(name, length) != length:
                message = f"group {name!r} has {length} units here and {sizes[name]} elsewhere"
                raise SpecError(message)
            return expression
        case Length(size):
            if size not in {None, length}:
                message = f"the axis has length {length}, the table has {size}"
                raise SpecError(message)
            return Length(length)
        case Operation():
            return _solve_operation(expression, length, sizes)


def _solve_operation(expression: Operation, length: int, sizes: dict[str, int]) -> Expression:
    operands = list(expression.operands)
    unknown = [i for i, operand in enumerate(operands) if length_of(operand, sizes) is None]
    rest = [length_of(operand, sizes) or 0 for i, operand in enumerate(operands) if i not in unknown]
    if not unknown:
        total = prod(rest) if expression.mark == "*" else sum(rest)
        if total != length:
            message = f"the axis has length {length}, the table implies {total}"
            raise SpecError(message)
        return expression
    same = all(operands[i] == operands[unknown[0]] for i in unknown)
    if expression.mark == "*":
        share, remainder = divmod(length, prod(rest))
        determined = len(unknown) == 1
    else:
        share, remainder = divmod(length - sum(rest), len(unknown))
        determined = same
    if not determined:
        return expression
    if remainder or share < 1:
        message = f"cannot divide an axis of length {length} as in the table"
        raise SpecError(message)
    for i in unknown:
        operands[i] = solve(operands[i], share, sizes)
    return Operation(expression.mark, tuple(operands))
