"""Fixed axes along which constants vary: their units cannot be permuted, but can admit linear maps.

Such an axis has no group in the layout of the permutations. In the *open* axes of a tensor, every fixed axis along
which only constants vary has a temporary group of its own. Such an axis, and an axis of length two, can have one group
together: a rotation acts on the units of a pair.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Final, TypeAlias, final

from rebasin_core.specs.unification.terms import Uniform, Variable, length, substitute
from rebasin_core.symmetry.axis import Atom, Axis, concat, product
from rebasin_core.symmetry.pairs import Pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from rebasin_core.specs.unification.constraints import Constraints
    from rebasin_core.specs.unification.solution import Solution
    from rebasin_core.specs.unification.terms import AxisTerm

PairKey: TypeAlias = "tuple[str, int, int]"
"""An axis of pairs: tensor, dimension, and index among the axes of pairs of that dimension."""

_CONSTANT: Final = frozenset({"constant", "buffer"})
_OPEN = "?"  # of the names of temporary groups; names of groups have other first characters
_PAIRS: Final = {Pairs.HALVES: "??", Pairs.NEIGHBORS: "?,"}


def admits_maps(variable: Variable) -> bool:
    """Return whether an axis is fixed only because a constant varies along it.

    Args:
        variable: A variable of the first interpretation, not bound.

    Returns:
        Whether the second interpretation decides which linear maps it admits.
    """
    return variable.fixed is not None and not variable.parts and variable.fixed.operator in _CONSTANT


def pairs_of(factors: AxisTerm) -> Pairs | None:
    """Return how the units of an axis along which constants vary are paired.

    Args:
        factors: The factors of the axis in the first interpretation.

    Returns:
        Halves for a concatenation ``h + h``, neighbors for a product ``h * 2``; None for other axes.
    """
    variables = [factor for factor in factors if isinstance(factor, Variable)]
    if len(variables) != len(factors) or len(variables) not in {1, 2}:
        return None
    last = variables[-1]
    if len(variables) == 2:
        is_unit = last.size == 2 and (len(last.parts) == 2 or last.fixed is not None)
        return Pairs.NEIGHBORS if is_unit and admits_maps(variables[0]) else None
    if len(last.parts) != 2:
        return None
    first, second = map(substitute, last.parts)
    is_pair = first == second and len(first) == 1 and isinstance(first[0], Variable) and admits_maps(first[0])
    return Pairs.HALVES if is_pair else None


def is_open(atom: Atom) -> bool:
    """Return whether an atom has a temporary group."""
    return atom.group is not None and atom.group.startswith(_OPEN)


def open_pairs(atom: Atom) -> Pairs | None:
    """Return the pairs of an atom that has the temporary group of an axis of pairs."""
    group = atom.group or ""
    return next((pairs for pairs, start in _PAIRS.items() if group.startswith(start)), None)


@final
class OpenAxes:
    """Finds the open axes of tensors.

    Args:
        first: The constraints of the first interpretation, solved.
        solution: Their solution.
        constant: Names of the tensors that must not be changed.
        is_rotated: Function of an axis of pairs: whether it has one group as a whole.
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
        if isinstance(first, Uniform):
            return product(Atom(first.size), self._axis(name, dim, rest, pairs))
        paired = pairs_of(factors) if name not in self._constant else None
        if paired is not None and self._is_rotated((name, dim, next(pairs))):
            return Atom(length(factors), f"{_PAIRS[paired]}{first.number}")
        if not first.parts:
            return product(self._atom(name, first), self._axis(name, dim, rest, pairs))
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
