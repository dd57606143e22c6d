"""Constraints between axes, each solved by unification when it is added.

`Constraints.unify` makes two terms equal. It binds atomic variables, splits factors of products until both sides have
equal ones (``12 = 4*3``), and splits concatenations until both sides have equal parts (``2+6 = 5+3`` gives
``2+3+3``). Terms without a common refinement, such as ``4*6`` and ``6*4``, are fixed: only the identity permutes them.
This keeps the solution sound.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, TypeAlias, final

from rebasin_core.errors import SpecError
from rebasin_core.specs.unification.relation import Relation, Sight
from rebasin_core.specs.unification.terms import (
    AxisTerm,
    Reason,
    Uniform,
    Variable,
    atomic_variables,
    bind,
    concatenation,
    differences,
    fresh,
    has_uniform,
    length,
    substitute,
    uniform,
    variables,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.specs.unification.induced import InducedAxis
    from rebasin_core.specs.unification.terms import AxisTerms, Factor

PartIndex: TypeAlias = "tuple[Variable, int]"
"""A concatenation A and the index i of its part ``A_i``."""

PartPath: TypeAlias = "tuple[PartIndex, ...]"
"""Path to a part: ``((A, i), (B, j))`` is part j of the concatenation B, which is in part i of the concatenation A."""


@final
@dataclass(frozen=True, slots=True)
class Part:
    """A consecutive part of an axis.

    Attributes:
        term: The term of the part.
        path: Path of concatenations and indices; empty if the part is a new concatenation of smaller parts.
    """

    term: AxisTerm
    path: PartPath

    def inside(self, path: PartPath) -> Part:
        """Return the part with a prefix added to its path, for an axis that is itself a part.

        Args:
            path: Path of that axis.

        Returns:
            The part with the longer path.
        """
        return Part(self.term, (*path, *self.path))


@final
class Constraints:
    """The constraints of one traced graph, solved incrementally.

    The *restriction* ``v|A_i`` of a variable v to part i of a concatenation A is the axis v of the slice of a tensor
    with axes ``A, v`` at ``A_i``. It is a separate variable if v may be permuted differently in each part of A, and v
    itself otherwise. During tracing, it is a separate variable unless a tensor observed so far excludes this;
    `RestrictionResolver` decides at the end.

    Attributes:
        tensors: The axes of all observed tensors.
        restrictions: The restrictions that are separate variables: ``(v, A, i) -> v|A_i``.
        induced: Axes whose order is induced by another axis, by variable.
    """

    def __init__(self) -> None:
        self.tensors: list[AxisTerms] = []
        self.restrictions: dict[tuple[Variable, Variable, int], AxisTerm] = {}
        self.induced: dict[Variable, InducedAxis] = {}

    def observe(self, terms: AxisTerms) -> None:
        """Record that a tensor with these axes exists.

        A variable v can be permuted differently in each unit of w only if every tensor that contains v contains w.

        Args:
            terms: One term per dimension.
        """
        # An element of a sorted axis belongs to one unit of the axis that induces its order.
        induced = [self.induced[one] for term in terms for one in variables(term) if one in self.induced]
        sources = [one.source for one in induced if one.key is not None]
        if sources:
            terms = (*terms, *sources)
        self.tensors.append(terms)
        for variable in {variable for term in terms for variable in variables(term)}:
            variable.occurrences[id(terms)] = terms

    @staticmethod
    def freeze(term: AxisTerm, reason: Reason) -> AxisTerm:
        """Fix an axis: only the identity permutes it.

        Args:
            term: The axis.
            reason: Why it is fixed.

        Returns:
            The axis, with new fixed variables for its uniform factors.
        """
        found: list[Factor] = []
        for factor in substitute(term):
            for variable in atomic_variables((factor,)):
                variable.fixed = variable.fixed or reason
            found.extend(fresh(factor.size, reason) if has_uniform((factor,)) else (factor,))
        return tuple(found)

    def see(self, term: AxisTerm, sight: Sight, reason: Reason) -> None:
        """Record how an operator sees the units of an axis: permutations do not distinguish it.

        Args:
            term: The axis.
            sight: How it is seen.
            reason: The operator.
        """

    def unify(self, first: AxisTerm, second: AxisTerm, reason: Reason, relation: Relation = Relation.TIED) -> AxisTerm:
        """Constrain two axes to be permuted identically.

        Args:
            first: An axis.
            second: Another axis of the same length.
            reason: Reason for fixing both if they have no common refinement.
            relation: How their elements are combined: permutations do not distinguish it.

        Returns:
            The unified axis. Uniform factors impose no constraint and are replaced by those of the other axis.

        Raises:
            SpecError: If the lengths differ.
        """
        del relation
        if length(first) != length(second):
            message = f"expected two axes of equal length, got {length(first)} and {length(second)}"
            raise SpecError(message)
        left = deque(substitute(first))
        right = deque(substitute(second))
        unified: list[Factor] = []
        while left and right:
            if left[0].size == right[0].size:
                unified.extend(self._unify_factors(left.popleft(), right.popleft(), reason))
            else:
                long, short = (left, right) if left[0].size > right[0].size else (right, left)
                if not factor_atomic(long, short[0].size):
                    unified.extend(self._unify_prefixes(long, short, reason))
            left = deque(substitute(tuple(left)))
            right = deque(substitute(tuple(right)))
        return tuple(unified)

    def _unify_factors(self, x: Factor, y: Factor, reason: Reason) -> AxisTerm:
        """Unify two factors of the same length."""
        if x is y or isinstance(y, Uniform):
            return (x,)
        if isinstance(x, Uniform):
            return (y,)
        if x.parts or y.parts:
            return self._unify_concatenations(x, y, reason)
        old, new = (x, y) if x.number < y.number else (y, x)
        bind(new, (old,))
        return (old,)

    def _unify_concatenations(self, x: Variable, y: Variable, reason: Reason) -> AxisTerm:
        """Unify two variables part by part, after splitting each at the bounds of the other's parts."""
        bounds = sorted({0, *accumulate(map(length, x.parts)), *accumulate(map(length, y.parts))})
        parts_of_x = self._split_factor(x, differences(bounds), reason)
        parts_of_y = self._split_factor(y, differences(bounds), reason)
        unified = [self.unify(p.term, q.term, reason) for p, q in zip(parts_of_x, parts_of_y, strict=True)]
        x_varies = not has_uniform((x,))
        y_varies = not has_uniform((y,))
        if not (x_varies or y_varies):
            return concatenation(unified)
        keep, drop = (x, y) if x_varies else (y, x)
        if x_varies and y_varies and len(x.parts) == len(y.parts) == len(unified):
            bind(drop, (keep,))
        return (keep,)

    def _unify_prefixes(self, long: deque[Factor], short: deque[Factor], reason: Reason) -> AxisTerm:
        """Unify and remove the shortest prefixes of equal length, for first factors without a common refinement."""
        first = [long.popleft()]
        second = [short.popleft()]
        while length(tuple(first)) != length(tuple(second)):
            if length(tuple(first)) < length(tuple(second)):
                first.append(long.popleft())
            else:
                second.append(short.popleft())
        whole, other = (first, second) if len(first) == 1 else (second, first)
        if len(whole) > 1 or isinstance(whole[0], Uniform) or not whole[0].parts:  # such as 4*6 and 6*4
            self.freeze(tuple(second), reason)
            return self.freeze(tuple(first), reason)
        parts = whole[0].parts
        others = self.split(tuple(other), [length(part) for part in parts], reason)
        unified = [self.unify(part, found.term, reason) for part, found in zip(parts, others, strict=True)]
        if not has_uniform(tuple(other)):
            return tuple(other)
        return concatenation(unified) if has_uniform(tuple(whole)) else tuple(whole)

    def split(self, term: AxisTerm, sizes: Sequence[int], reason: Reason) -> list[Part]:
        """Constrain an axis to be a concatenation of parts of given lengths.

        A product is split along its first factor, ``(A_1 + A_2)*v = A_1*v|A_1 + A_2*v|A_2``. If a bound is inside one
        unit of that factor, the rest of the product is split in this unit only.

        Args:
            term: The axis.
            sizes: Lengths of the parts, all positive.
            reason: Reason for fixing parts of length 1, which have no variable.

        Returns:
            The parts, with their paths for `restrict`.
        """
        term = substitute(term)
        if len(sizes) == 1:
            return [Part(term, ())]
        first = term[0]
        rest = term[1:]
        unit = length(rest)
        stops = set(accumulate(sizes))
        bounds = sorted({0} | {bound for stop in stops for bound in (stop // unit, -(-stop // unit))})
        found: list[Part] = []
        for (start, stop), outer in zip(
            pairwise(bounds), self._split_factor(first, differences(bounds), reason), strict=True
        ):
            inner = self.restrict(rest, outer.path)
            within = sorted(bound for bound in stops if start * unit < bound < stop * unit)
            if within:
                inner_sizes = differences([start * unit, *within, stop * unit])
                found.extend(part.inside(outer.path) for part in self.split(inner, inner_sizes, reason))
            else:
                found.append(Part((*outer.term, *inner), outer.path))
        return _merge_parts(found, sizes)

    def _split_factor(self, factor: Factor, sizes: Sequence[int], reason: Reason) -> list[Part]:
        """Split one factor; an atomic variable becomes a concatenation of new variables."""
        if len(sizes) == 1:
            return [Part((factor,), ())]
        if isinstance(factor, Uniform):
            return [Part(uniform(size), ()) for size in sizes]
        if not factor.parts:
            factor.parts = tuple(fresh(size, factor.fixed) for size in sizes)
            if 1 in sizes:
                factor.fixed = factor.fixed or reason
            for variable in atomic_variables((factor,)):
                variable.occurrences = dict(factor.occurrences)
        stops = sorted(accumulate(sizes))
        bounds = accumulate(map(length, factor.parts), initial=0)
        found: list[Part] = []
        for index, (part, (start, stop)) in enumerate(zip(factor.parts, pairwise(bounds), strict=True)):
            inner_sizes = differences([start, *(bound for bound in stops if start < bound < stop), stop])
            found.extend(inner.inside(((factor, index),)) for inner in self.split(part, inner_sizes, reason))
        return _merge_parts(found, sizes)

    def divide(self, factors: deque[Factor], size: int, reason: Reason) -> None:
        """Replace the first factor of a product by factors, the first of which has a given length.

        Args:
            factors: Factors of a product, modified; the first may be a concatenation.
            size: The length, a divisor of that of the first factor.
            reason: Reason for fixing the axis if its parts have no such factor.
        """
        if factor_atomic(factors, size):
            return
        first = factors.popleft()
        product = (*fresh(size), *fresh(first.size // size))
        self.unify((first,), product, reason)
        factors.extendleft(reversed(substitute(product)))

    def restrict(self, term: AxisTerm, path: PartPath) -> AxisTerm:
        """Return the restriction of an axis to a part of a concatenation in the same tensor: ``term|A_i|B_j``.

        Args:
            term: The axis.
            path: Path of the part, such as ``((A, i), (B, j))``.

        Returns:
            The axis, with variables that may be permuted differently in each part replaced by their restrictions.
        """
        for whole, index in path:
            term = tuple(found for factor in substitute(term) for found in self._restrict_factor(factor, whole, index))
        return term

    def _restrict_factor(self, factor: Factor, whole: Variable, index: int) -> AxisTerm:
        if isinstance(factor, Uniform) or factor is whole:
            return (factor,)
        key = (factor, whole, index)
        if key in self.restrictions:
            return self.restrictions[key]
        if factor.parts:  # (v_1 + v_2)|A_i = v_1|A_i + v_2|A_i
            parts = tuple(self.restrict(part, ((whole, index),)) for part in factor.parts)
            if all(substitute(old) == substitute(new) for old, new in zip(factor.parts, parts, strict=True)):
                return (factor,)
            restricted = Variable(factor.size)
            restricted.parts = parts
        elif factor.fixed or not always_together(factor, whole):
            return (factor,)
        else:
            restricted = Variable(factor.size)
        self.restrictions[key] = (restricted,)
        return (restricted,)

    def restriction_of(self, term: AxisTerm, whole: Variable, index: int) -> AxisTerm:
        """Return ``term|A_i`` without introducing variables, once all restrictions are resolved.

        Args:
            term: The axis.
            whole: The concatenation A.
            index: Index i of the part.

        Returns:
            The axis, with each variable replaced by its restriction if that is a separate variable.
        """
        found: list[Factor] = []
        for factor in substitute(term):
            own = self.restrictions.get((factor, whole, index)) if isinstance(factor, Variable) else None
            found.extend((factor,) if own is None else substitute(own))
        return tuple(found)


def always_together(variable: Variable, whole: Variable) -> bool:
    """Return whether every observed tensor that contains a variable contains a concatenation exactly once.

    Args:
        variable: The variable.
        whole: The concatenation.

    Returns:
        True if no observed tensor excludes a different permutation in each part.
    """
    return all(
        sum(found is whole for term in terms for found in variables(term)) == 1
        for terms in variable.occurrences.values()
    )


def factor_atomic(factors: deque[Factor], size: int) -> bool:
    """Replace the first factor x by a product y*z of new factors, if x is atomic or uniform: the binding x := y*z.

    Args:
        factors: Factors of a product, changed in place.
        size: Length of y.

    Returns:
        False if x is a concatenation, or not divisible.
    """
    first = factors[0]
    if first.size % size or (isinstance(first, Variable) and first.parts):
        return False
    factors.popleft()
    if isinstance(first, Uniform):
        factors.extendleft((Uniform(first.size // size), Uniform(size)))
        return True
    product = (Variable(size), Variable(first.size // size))
    bind(first, product)
    factors.extendleft(reversed(product))
    return True


def _merge_parts(parts: Sequence[Part], sizes: Sequence[int]) -> list[Part]:
    """Concatenate consecutive small parts into parts of given lengths."""
    merged: list[Part] = []
    remaining = deque(parts)
    for size in sizes:
        run: list[Part] = []
        while sum(length(part.term) for part in run) < size:
            run.append(remaining.popleft())
        merged.append(run[0] if len(run) == 1 else Part(concatenation([part.term for part in run]), ()))
    return merged
