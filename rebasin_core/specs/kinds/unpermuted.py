"""Fixed axes along which constants vary: their units cannot be permuted, but can admit linear maps.

Such an axis has no group in the layout of the permutations. In the *open* axes of a tensor, every fixed axis along
which only constants vary has a temporary group of its own. Two equal halves of such an axis can have one group
together: a rotation acts on a unit of the first half and the same unit of the second half.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Final, TypeAlias, final

from rebasin_core.specs.unification.terms import Uniform, Variable, substitute
from rebasin_core.symmetry.axis import Atom, Axis, concat, product

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from rebasin_core.specs.unification.constraints import Constraints
    from rebasin_core.specs.unification.solution import Solution
    from rebasin_core.specs.unification.terms import AxisTerm

PairKey: TypeAlias = "tuple[str, int, int]"
"""Two equal halves: tensor, dimension, and index among the pairs of that dimension."""

_CONSTANT: Final = frozenset({"constant", "buffer"})
_OPEN, _PAIR = "?", "??"  # of the names of temporary groups; names of groups have other first characters


def admits_maps(variable: Variable) -> bool:
    """Return whether an axis is fixed only because a constant varies along it.

    Args:
        variable: A variable of the first interpretation, not bound.

    Returns:
        Whether the second interpretation decides which linear maps it admits.
    """
    return variable.fixed is not None and not variable.parts and variable.fixed.operator in _CONSTANT


def is_pair(variable: Variable) -> bool:
    """Return whether an axis consists of two equal halves along which constants vary.

    Args:
        variable: A variable of the first interpretation, not bound.

    Returns:
        Whether it is a concatenation ``h + h``.
    """
    if len(variable.parts) != 2:
        return False
    first, second = map(substitute, variable.parts)
    return first == second and len(first) == 1 and isinstance(first[0], Variable) and admits_maps(first[0])


def is_open(atom: Atom) -> bool:
    """Return whether an atom has a temporary group."""
    return atom.group is not None and atom.group.startswith(_OPEN)


def is_open_pair(atom: Atom) -> bool:
    """Return whether an atom has the temporary group of two equal halves."""
    return atom.group is not None and atom.group.startswith(_PAIR)


@final
class OpenAxes:
    """Finds the open axes of tensors.

    Args:
        first: The constraints of the first interpretation, solved.
        solution: Their solution.
        constant: Names of the tensors that must not be changed.
        is_rotated: Function of two equal halves: whether they have one group together.
    """

    def __init__(
        self,
        first: Constraints,
        solution: Solution,
        constant: Collection[str],
        is_rotated: Callable[[PairKey], bool],
    ) -> None:
        self._first = first
        self._groups = solution.variables
        self._layout = solution.layout
        self._constant = constant
        self._is_rotated = is_rotated

    def has_slot(self, name: str, variable: Variable) -> bool:
        """Return whether a variable has a slot on a tensor.

        Args:
            name: Name of the tensor.
            variable: A variable of the first interpretation, not bound and no concatenation.

        Returns:
            Whether it has a group, permanent or temporary.
        """
        return variable in self._groups or (name not in self._constant and admits_maps(variable))

    def axis(self, name: str, dim: int, term: AxisTerm) -> Axis:
        """Return the open axis of a dimension.

        Args:
            name: Name of the tensor.
            dim: The dimension.
            term: Its axis in the first interpretation.

        Returns:
            The axis.
        """
        return self._axis(name, dim, term, count())

    def _axis(self, name: str, dim: int, term: AxisTerm, pairs: Iterator[int]) -> Axis:
        factors = substitute(term)
        if not factors:
            return Atom(1)
        first, rest = factors[0], factors[1:]
        if isinstance(first, Uniform) or not first.parts:
            atom = Atom(first.size) if isinstance(first, Uniform) else self._atom(name, first)
            return product(atom, self._axis(name, dim, rest, pairs))
        is_paired = not rest and name not in self._constant and is_pair(first)
        if is_paired and self._is_rotated((name, dim, next(pairs))):
            return Atom(first.size, f"{_PAIR}{first.number}")
        restricted = [self._first.restriction_of(rest, first, index) for index in range(len(first.parts))]
        if all(own == rest for own in restricted):
            parts = [self._axis(name, dim, part, pairs) for part in first.parts]
            return product(concat(*parts), self._axis(name, dim, rest, pairs))
        both = zip(first.parts, restricted, strict=True)
        return concat(*[self._axis(name, dim, (*part, *own), pairs) for part, own in both])

    def _atom(self, name: str, variable: Variable) -> Atom:
        group = self._groups.get(variable)
        if group is not None:
            return Atom(self._layout.groups[group].size, group)
        if self.has_slot(name, variable):
            return Atom(variable.size, f"{_OPEN}{variable.number}")
        # The outer factor of a product that is one group: the atom of the last factor has the size of the product.
        is_merged = not variable.fixed and variable.size
        return Atom(1 if is_merged else variable.size)
