"""Equations between unknown axes, and their consequences.

`join` says that two axes are permuted alike, `cut` that an axis is used in pieces, `regroup` that dimensions are
reshaped, `freeze` that an axis must stay in order. Whatever does not fit the algebra of products and concatenations is
frozen, so that the solution is always sound; how much is left free is the art.
"""

from __future__ import annotations

from collections import deque
from functools import reduce
from itertools import accumulate
from typing import TYPE_CHECKING, final

from rebasin_core.errors import SpecError
from rebasin_core.specs.unification.pieces import Pieces, concat
from rebasin_core.specs.unification.terms import (
    Reason,
    Term,
    Uniform,
    Unknown,
    expand,
    fresh,
    gaps,
    is_solid,
    leaves,
    length,
    unknowns,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rebasin_core.specs.unification.terms import Factor


@final
class Equations(Pieces):
    """The equations of one traced graph."""

    @staticmethod
    def freeze(term: Term, reason: Reason) -> Term:
        """Say that an axis must stay in order.

        Args:
            term: The axis.
            reason: Why.

        Returns:
            The frozen axis; where the tensor was uniform, a new one.
        """
        found: list[Factor] = []
        for factor in expand(term):
            for leaf in leaves((factor,)):
                leaf.fixed = leaf.fixed or reason
            found.extend((factor,) if is_solid((factor,)) else fresh(factor.size, reason))
        return tuple(found)

    def join(self, first: Term, second: Term, reason: Reason) -> Term:
        """Say that two axes of equal length are permuted alike.

        Args:
            first: An axis.
            second: Another.
            reason: Why both are frozen if their structures do not fit.

        Returns:
            The axis that both now are.

        Raises:
            SpecError: If they do not have equal lengths.
        """
        if length(first) != length(second):
            message = f"expected two axes of equal length, got {length(first)} and {length(second)}"
            raise SpecError(message)
        left, right = deque(expand(first)), deque(expand(second))
        found: list[Factor] = []
        while left and right:
            if left[0].size == right[0].size:
                found.extend(self._join_factors(left.popleft(), right.popleft(), reason))
            else:
                long, short = (left, right) if left[0].size > right[0].size else (right, left)
                if not _split_first(long, short[0].size):
                    found.extend(self._join_prefix(long, short, reason))
            left, right = deque(expand(tuple(left))), deque(expand(tuple(right)))
        return tuple(found)

    def stack(self, terms: Sequence[Term], reason: Reason) -> tuple[Term, Term]:
        """Return the axes of tensors that are stacked along a new dimension.

        Args:
            terms: What one old dimension is in each of the tensors.
            reason: Why the new dimension stays in order.

        Returns:
            The new dimension, and the old one, which may be another axis in every slice.
        """
        if len(terms) == 1:
            return (), terms[0]
        owner = Unknown(len(terms), reason)
        owner.parts = ((),) * len(terms)
        if all(expand(term) == expand(terms[0]) for term in terms):
            return (owner,), terms[0]
        if not all(is_solid(term) for term in terms):
            return (owner,), reduce(lambda joined, term: self.join(joined, term, reason), terms)
        old = Unknown(length(terms[0]))
        for part, term in enumerate(terms):
            self.children[old, owner, part] = term
        return (owner,), (old,)

    def regroup(self, terms: Sequence[Term], sizes: Sequence[int], reason: Reason) -> list[Term]:
        """Return the axes of a tensor that is reshaped.

        Args:
            terms: One axis a dimension.
            sizes: The new lengths, with the same product.
            reason: Why an axis is frozen if the two shapes do not nest.

        Returns:
            One axis a new dimension.
        """
        factors = deque(factor for term in terms for factor in expand(term))
        targets = deque(sizes)
        found: list[Term] = []
        while targets:
            size = targets.popleft()
            taken: list[Factor] = []
            while size > 1:
                factors = deque(expand(tuple(factors)))
                head = factors[0]
                if size % head.size == 0:
                    taken.append(factors.popleft())
                    size //= head.size
                elif head.size % size == 0:
                    self._split(factors, size, reason)
                else:
                    break
            if size == 1:
                found.append(tuple(taken))
            else:
                found.extend(self._force(factors, taken, length(tuple(taken)) * size, targets, reason))
        return found

    def _join_factors(self, x: Factor, y: Factor, reason: Reason) -> Term:
        if x is y or isinstance(y, Uniform):
            return (x,)
        if isinstance(x, Uniform):
            return (y,)
        if not x.parts and not y.parts:
            old, new = sorted((x, y), key=lambda unknown: unknown.number)
            _bind(new, (old,))
            return (old,)
        points = sorted({*accumulate(map(length, x.parts)), *accumulate(map(length, y.parts))})
        sizes = gaps([0, *points])
        pieces = zip(self.partition(x, sizes, reason), self.partition(y, sizes, reason), strict=True)
        joined = [self.join(first, second, reason) for (first, _), (second, _) in pieces]
        if not (is_solid((x,)) or is_solid((y,))):
            return concat(joined)
        keep, drop = (x, y) if is_solid((x,)) else (y, x)
        if is_solid((drop,)) and len(x.parts) == len(y.parts) == len(joined):
            _bind(drop, (keep,))
        return (keep,)

    def _join_prefix(self, long: deque[Factor], short: deque[Factor], reason: Reason) -> Term:
        """Join the shortest beginnings of equal length, of which neither first factor divides the other."""
        first, second = [long.popleft()], [short.popleft()]
        while length(tuple(first)) != length(tuple(second)):
            if length(tuple(first)) < length(tuple(second)):
                first.append(long.popleft())
            else:
                second.append(short.popleft())
        whole = first if len(first) == 1 else second
        other = second if whole is first else first
        if len(whole) == 1 and isinstance(whole[0], Unknown) and whole[0].parts:
            parts = whole[0].parts
            pieces = self.cut(tuple(other), [length(part) for part in parts], reason)
            joined = [self.join(part, piece, reason) for part, (piece, _) in zip(parts, pieces, strict=True)]
            if is_solid(tuple(other)):
                return tuple(other)
            return tuple(whole) if is_solid(tuple(whole)) else concat(joined)
        self.freeze(tuple(second), reason)
        return self.freeze(tuple(first), reason)

    def _split(self, factors: deque[Factor], size: int, reason: Reason) -> None:
        """Split the first of the factors in two, of which the outer has a given length."""
        if _split_first(factors, size):
            return
        head = factors.popleft()
        product = (*fresh(size), *fresh(head.size // size))
        self.join((head,), product, reason)
        factors.extendleft(reversed(expand(product)))

    def _force(
        self, factors: deque[Factor], taken: list[Factor], size: int, targets: deque[int], reason: Reason
    ) -> Iterator[Term]:
        """Freeze the shortest run of dimensions that two shapes share but do not nest in; yield the new ones."""
        wanted = [size]
        while length(tuple(taken)) != size:
            if length(tuple(taken)) < size:
                taken.append(factors.popleft())
            else:
                wanted.append(targets.popleft())
                size *= wanted[-1]
        self.freeze(tuple(taken), reason)
        for want in wanted:
            yield fresh(want, reason)


def _bind(unknown: Unknown, term: Term) -> None:
    """Let an unknown be a term of the same length; what is known of it passes on."""
    unknown.term = term
    for found in unknowns(term):
        found.sightings.update(unknown.sightings)
        if bool(unknown.parts) == bool(found.parts):  # of a concatenation it only says why single units stay
            found.fixed = found.fixed or unknown.fixed


def _split_first(factors: deque[Factor], size: int) -> bool:
    """Replace the first factor by two, of which the outer has a given length, if it is simple enough."""
    head = factors[0]
    if head.size % size or (isinstance(head, Unknown) and head.parts):
        return False
    inner = head.size // size
    factors.popleft()
    if isinstance(head, Uniform):
        factors.extendleft((Uniform(inner), Uniform(size)))
        return True
    product = (Unknown(size), Unknown(inner))
    _bind(head, product)
    factors.extendleft(reversed(product))
    return True
