"""The text form of axes: ``"heads*(query@heads + key@heads), 10"``.

Commas separate the axes of a tensor. In an axis, ``*`` is the row-major product, ``+`` the concatenation, and
parentheses group. A name is a group, ``name@outer`` a group nested in ``outer``, a number a fixed axis of this length,
and ``-`` a fixed axis whose length is inferred from the tensor.

The name of a tensor can contain groups in braces. It is then the name of several tensors, which are exchanged with each
other, one for each unit of the group: ``experts.{expert}.weight`` for ``experts.0.weight``, ``experts.1.weight``, ...,
and ``{side=left|right}.weight`` for ``left.weight`` and ``right.weight``. The axes are those of one of these tensors.
They can have groups that are nested in the group in braces.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn, TypeAlias, final

from rebasin_core.errors import SpecError
from rebasin_core.symmetry.axis import Atom, Axis, Concat, Group, Product
from rebasin_core.tensors.bounds import MAX_DIGITS, MAX_FACTORS, MAX_PARENTHESES
from rebasin_core.tensors.reading import shown

_TOKEN = re.compile(r"\s*(?:(?P<name>[A-Za-z_][\w.\[\]]*)|(?P<number>\d+)|(?P<mark>[-*+(),@]))")


@final
@dataclass(frozen=True, slots=True)
class Name:
    """A group in an expression, with its outer group if ``@`` names one."""

    name: str
    within: str | None


@final
@dataclass(frozen=True, slots=True)
class Length:
    """A fixed axis in an expression; the size is None if it is to be inferred."""

    size: int | None


@final
@dataclass(frozen=True, slots=True)
class Operation:
    """A product (``*``) or concatenation (``+``) of expressions."""

    mark: str
    operands: tuple[Expression, ...]


Expression: TypeAlias = Name | Length | Operation
"""One parsed axis: a name, a length, or an operation on expressions."""


def parse_axes(text: str) -> tuple[Expression, ...]:
    """Parse the text form of axes; lengths are not inferred yet.

    Args:
        text: Axes separated by commas; empty for a scalar.

    Returns:
        One expression per axis.

    Raises:
        SpecError: If the text does not follow the notation; states the position.
    """
    return _Parser(text).axes()


def format_axes(axes: tuple[Axis, ...], groups: dict[str, Group]) -> str:
    """Return the text form of axes, with all lengths.

    Args:
        axes: The axes of one tensor.
        groups: The groups by name, to write ``@`` for nested groups.

    Returns:
        A text that `parse_axes` and `resolve` convert back to the same axes.
    """
    return ", ".join(_format(axis, groups, inner=False) for axis in axes)


def _format(axis: Axis, groups: dict[str, Group], *, inner: bool) -> str:
    match axis:
        case Atom(size, None):
            return str(size)
        case Atom(_, str(name)):
            within = groups[name].within
            return name if within is None else f"{name}@{within}"
        case Product(factors):
            return "*".join(_format(factor, groups, inner=True) for factor in factors)
        case Concat(parts):
            text = " + ".join(_format(part, groups, inner=False) for part in parts)
            return f"({text})" if inner else text
    message = f"expected an axis, got {axis!r}"
    raise SpecError(message)


class _Parser:
    """Recursive-descent parser of one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, int]] = []
        position = 0
        end = len(text.rstrip())
        while position < end:
            found = _TOKEN.match(text, position)
            if found is None:
                self._fail(position, "a name, a number, `-`, `*`, `+`, `@`, `,` or a parenthesis")
            self._tokens.append((found.group().strip(), found.end() - len(found.group().strip())))
            position = found.end()
        self._next = 0
        self._parentheses = 0

    def axes(self) -> tuple[Expression, ...]:
        if not self._tokens:
            return ()
        found = [self._sum()]
        while self._take(","):
            found.append(self._sum())
        if self._next < len(self._tokens):
            self._fail(self._tokens[self._next][1], "`*`, `+`, `,` or the end")
        return tuple(found)

    def _sum(self) -> Expression:
        operands = [self._product()]
        while self._take("+"):
            operands.append(self._product())
        return operands[0] if len(operands) == 1 else Operation("+", tuple(operands))

    def _product(self) -> Expression:
        operands = [self._factor()]
        while self._take("*"):
            operands.append(self._factor())
            if len(operands) > MAX_FACTORS:
                self._fail(self._position(), f"at most {MAX_FACTORS} factors")
        return operands[0] if len(operands) == 1 else Operation("*", tuple(operands))

    def _factor(self) -> Expression:
        if self._take("("):
            if self._parentheses == MAX_PARENTHESES:
                self._fail(self._position(), f"at most {MAX_PARENTHESES} nested parentheses")
            self._parentheses += 1
            inside = self._sum()
            if not self._take(")"):
                self._fail(self._position(), "`)`")
            self._parentheses -= 1
            return inside
        if self._take("-"):
            return Length(None)
        token = self._pop()
        if token.isdigit():
            if len(token) > MAX_DIGITS:
                self._fail(self._tokens[self._next - 1][1], f"a number of at most {MAX_DIGITS} digits")
            return Length(int(token))
        self._require_name(token)
        if not self._take("@"):
            return Name(token, None)
        within = self._pop()
        self._require_name(within)
        return Name(token, within)

    def _require_name(self, token: str) -> None:
        if not (token[:1].isalpha() or token[:1] == "_"):
            self._fail(self._tokens[self._next - 1][1], "a group, a number or `-`")

    def _take(self, mark: str) -> bool:
        if self._next < len(self._tokens) and self._tokens[self._next][0] == mark:
            self._next += 1
            return True
        return False

    def _pop(self) -> str:
        if self._next == len(self._tokens):
            self._fail(len(self._text), "a group, a number or `-`")
        self._next += 1
        return self._tokens[self._next - 1][0]

    def _position(self) -> int:
        return self._tokens[self._next][1] if self._next < len(self._tokens) else len(self._text)

    def _fail(self, position: int, expected: str) -> NoReturn:
        got = repr(self._text[position]) if position < len(self._text) else "the end"
        message = f"axes {shown(self._text)}: expected {expected} at position {position + 1}, got {got}"
        raise SpecError(message)
