"""Axes of tensors that are reshaped or stacked."""

from __future__ import annotations

from collections import deque
from functools import reduce
from math import prod
from typing import TYPE_CHECKING

from rebasin_core.specs.unification.terms import AxisTerm, Reason, Variable, fresh, has_uniform, length, substitute

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.specs.unification.interface import AxisConstraints
    from rebasin_core.specs.unification.terms import Factor


def reshape(
    constraints: AxisConstraints, terms: Sequence[AxisTerm], sizes: Sequence[int], reason: Reason
) -> list[AxisTerm]:
    """Return the axes of a reshaped tensor: the product of the new terms is the product of the old ones.

    A dimension that is divided, ``x -> y, z``, is bound to a product, ``x := y*z``. Flattened dimensions become a
    product.

    Args:
        constraints: The constraints of the graph.
        terms: One term per old dimension.
        sizes: The new lengths, with the same product.
        reason: Reason for fixing dimensions if neither shape refines the other, as in ``4, 6 -> 6, 4``.

    Returns:
        One term per new dimension.
    """
    factors = deque(factor for term in terms for factor in substitute(term))
    targets = deque(sizes)
    found: list[AxisTerm] = []
    while targets:
        size = targets.popleft()
        run: list[Factor] = []
        while size > 1:
            factors = deque(substitute(tuple(factors)))
            if size % factors[0].size == 0:
                run.append(factors.popleft())
                size //= run[-1].size
            elif factors[0].size % size == 0:
                constraints.divide(factors, size, reason)
            else:
                break
        if size == 1:
            found.append(tuple(run))
        else:
            targets.appendleft(size * length(tuple(run)))
            found.extend(_freeze_run(constraints, factors, run, targets, reason))
    return found


def _freeze_run(
    constraints: AxisConstraints, factors: deque[Factor], run: list[Factor], targets: deque[int], reason: Reason
) -> list[AxisTerm]:
    """Fix the shortest run of old dimensions with the length of a run of new ones; return the new dimensions."""
    sizes = [targets.popleft()]
    while length(tuple(run)) != prod(sizes):
        if length(tuple(run)) < prod(sizes):
            run.append(factors.popleft())
        else:
            sizes.append(targets.popleft())
    constraints.freeze(tuple(run), reason)
    return [fresh(size, reason) for size in sizes]


def stack(constraints: AxisConstraints, terms: Sequence[AxisTerm], reason: Reason) -> tuple[AxisTerm, AxisTerm]:
    """Return the axes of tensors that are stacked along a new dimension N.

    Args:
        constraints: The constraints of the graph.
        terms: The term of one dimension, for each tensor.
        reason: Reason for fixing the new dimension.

    Returns:
        N, a concatenation of parts of length 1, and v, the given dimension in the result. ``v|N_i`` is the i-th term;
        if the terms are equal, v is this term. If a term is uniform, all terms are unified instead.
    """
    if len(terms) == 1:
        return (), terms[0]
    new = Variable(len(terms), reason)
    new.parts = ((),) * len(terms)
    if all(substitute(term) == substitute(terms[0]) for term in terms):
        return (new,), terms[0]
    if any(has_uniform(term) for term in terms):
        return (new,), reduce(lambda unified, term: constraints.unify(unified, term, reason), terms)
    old = Variable(length(terms[0]))
    for index, term in enumerate(terms):
        constraints.restrictions[old, new, index] = term
    return (new,), (old,)
