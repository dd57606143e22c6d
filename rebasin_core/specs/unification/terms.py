"""Terms, and the substitution that unification builds.

The axis of each dimension of each tensor is a *term*: a row-major product of factors. A factor is a `Variable`, or
`Uniform` if the tensor is constant along it. Lengths are known from the start; structure and groups are solved for.

A variable x is in one of three states:

- *atomic*: without structure. In the solution, an atomic variable is a group, or a fixed axis if `Variable.fixed`.
- *concatenation*: ``x = x_1 + ... + x_n``, where each part is a term. It stays a representative, because restrictions
  ``v|x_i`` refer to it.
- *bound*: ``x := t``. The term t replaces x everywhere.

The bindings are the links of a union-find forest: `bind` is union, `substitute` is find with path compression. An
occurs check is not needed: a term has the length of its variable, and its factors and their parts are shorter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count, pairwise
from math import prod
from typing import TYPE_CHECKING, Final, TypeAlias, final

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


@final
@dataclass(frozen=True, slots=True)
class Reason:
    """Why an axis is fixed.

    Attributes:
        operator: The operator that depends on the order, such as ``conv2d``; ``input`` or ``output`` for inputs and
            outputs of the model.
        node: Name of the node in the traced graph.
        why: A short phrase, such as "positions are mixed by a kernel".
    """

    operator: str
    node: str
    why: str

    @override
    def __str__(self) -> str:
        """Return the reason with operator and node."""
        return f"{self.why} ({self.node})" if self._is_boundary else f"{self.why} ({self.operator} at {self.node})"

    @property
    def label(self) -> str:
        """The reason without the node, for reports that group axes by reason."""
        return self.why if self._is_boundary else f"{self.why} ({self.operator})"

    @property
    def _is_boundary(self) -> bool:
        return self.operator in {"input", "output"}


@final
@dataclass(frozen=True, slots=True)
class Uniform:
    """An axis along which a tensor is constant, such as a broadcast axis: permutations leave the tensor unchanged.

    Attributes:
        size: Length of the axis.
        is_zero: Whether the tensor is zero along it, which linear maps leave unchanged too.
    """

    size: int
    is_zero: bool = field(default=False, compare=False)


_NUMBERS: Final = count()


@final
class Variable:
    """A factor of an axis whose structure and group are unknown.

    Attributes:
        size: Length of the factor, at least 2.
        binding: The term that replaces it; None unless it is bound.
        parts: The parts of a concatenation; empty for other variables.
        fixed: Why it is fixed; None if it is not. In a concatenation, this fixes only the parts of length 1, which have
            no variable.
        occurrences: The observed tensors that contain it, by the `id` of their tuple of terms.
        number: Serial number; older variables have smaller numbers.
    """

    __slots__ = ("binding", "fixed", "number", "occurrences", "parts", "size")

    def __init__(self, size: int, fixed: Reason | None = None) -> None:
        self.size = size
        self.fixed = fixed
        self.binding: AxisTerm | None = None
        self.parts: tuple[AxisTerm, ...] = ()
        self.occurrences: dict[int, AxisTerms] = {}
        self.number = next(_NUMBERS)

    @property
    def is_free(self) -> bool:
        """Whether it is atomic and not fixed. Meaningless for a bound variable: use the variables of its term."""
        return not self.fixed and not self.parts

    @override
    def __repr__(self) -> str:
        """Return number and length, with ``!`` if it is fixed."""
        return f"?{self.number}:{self.size}{'!' if self.fixed else ''}"


Factor: TypeAlias = Variable | Uniform

AxisTerm: TypeAlias = "tuple[Factor, ...]"
"""The term of one axis: a product of factors, from slowest to fastest varying. The empty product has length 1."""

AxisTerms: TypeAlias = "tuple[AxisTerm, ...]"
"""The axes of one tensor: one term per dimension."""


def fresh(size: int, fixed: Reason | None = None) -> AxisTerm:
    """Return a new variable as a term.

    Args:
        size: Length of the axis.
        fixed: Why the axis is fixed; None for a free axis.

    Returns:
        One variable; the empty product if the length is 1.
    """
    return () if size == 1 else (Variable(size, fixed),)


def uniform(size: int, *, is_zero: bool = False) -> AxisTerm:
    """Return the term of an axis along which a tensor is constant.

    Args:
        size: Length of the axis.
        is_zero: Whether the tensor is zero along it.

    Returns:
        One uniform factor; the empty product if the length is 1.
    """
    return () if size == 1 else (Uniform(size, is_zero),)


def concatenation(terms: Sequence[AxisTerm]) -> AxisTerm:
    """Return the term of a concatenation.

    Args:
        terms: The parts in order, at least one.

    Returns:
        One new variable that is a concatenation; the part itself if there is only one.
    """
    if len(terms) == 1:
        return terms[0]
    whole = Variable(sum(length(term) for term in terms))
    whole.parts = tuple(terms)
    return (whole,)


def length(term: AxisTerm) -> int:
    """Return the length of a term.

    Args:
        term: Any term.

    Returns:
        The product of the lengths of its factors.
    """
    return prod(factor.size for factor in term)


def differences(bounds: Iterable[int]) -> list[int]:
    """Return the lengths between consecutive bounds.

    Args:
        bounds: Increasing integers.

    Returns:
        One length for each pair of consecutive bounds.
    """
    return [end - start for start, end in pairwise(bounds)]


def bind(variable: Variable, term: AxisTerm) -> None:
    """Bind a variable to a term: the union of union-find.

    The variables of the term inherit the occurrences and the reason for being fixed.

    Args:
        variable: A variable that is not bound.
        term: A term of the same length.
    """
    variable.binding = term
    for inner in variables(term):
        inner.occurrences.update(variable.occurrences)
        if bool(variable.parts) == bool(inner.parts):  # a fixed concatenation does not fix its parts
            inner.fixed = inner.fixed or variable.fixed


def substitute(term: AxisTerm) -> AxisTerm:
    """Return a term with all bound variables replaced: the find of union-find, with path compression.

    Args:
        term: Any term.

    Returns:
        An equal product without bound factors; parts of concatenations are not replaced.
    """
    if all(isinstance(factor, Uniform) or factor.binding is None for factor in term):
        return term
    found: list[Factor] = []
    for factor in term:
        if isinstance(factor, Uniform) or factor.binding is None:
            found.append(factor)
        else:
            factor.binding = substitute(factor.binding)
            found.extend(factor.binding)
    return tuple(found)


def variables(term: AxisTerm) -> Iterator[Variable]:
    """Yield the variables of a term, each concatenation before the variables of its parts.

    Args:
        term: Any term.

    Yields:
        Variables that are not bound, once per occurrence.
    """
    for factor in substitute(term):
        if isinstance(factor, Variable):
            yield factor
            for part in factor.parts:
                yield from variables(part)


def atomic_variables(term: AxisTerm) -> Iterator[Variable]:
    """Return the atomic variables of a term.

    Args:
        term: Any term.

    Returns:
        Variables that are neither bound nor concatenations, once per occurrence.
    """
    return (variable for variable in variables(term) if not variable.parts)


def has_uniform(term: AxisTerm) -> bool:
    """Return whether a term contains a uniform factor.

    Args:
        term: Any term.

    Returns:
        True if a factor, or a factor of a part of a concatenation, is uniform.
    """
    return any(
        isinstance(factor, Uniform) or any(has_uniform(part) for part in factor.parts) for factor in substitute(term)
    )


def without_zeros(term: AxisTerm) -> AxisTerm:
    """Return the axis of a tensor that is computed from one with zeros, and need not be zero there.

    Args:
        term: An axis.

    Returns:
        The term with uniform factors instead of zeros; the same variables if it has none.
    """
    found: list[Factor] = []
    for factor in substitute(term):
        if isinstance(factor, Uniform):
            found.append(Uniform(factor.size))
        elif any(map(_has_zeros, factor.parts)):
            found.extend(concatenation([without_zeros(part) for part in factor.parts]))
        else:
            found.append(factor)
    return tuple(found)


def _has_zeros(term: AxisTerm) -> bool:
    return any(
        factor.is_zero if isinstance(factor, Uniform) else any(map(_has_zeros, factor.parts))
        for factor in substitute(term)
    )
