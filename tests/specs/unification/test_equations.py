"""The equations between axes, one at a time."""

from rebasin_core.specs.unification.equations import Equations
from rebasin_core.specs.unification.pieces import concat
from rebasin_core.specs.unification.terms import Reason, Term, expand, fresh, is_solid, leaves, length, uniform

WHY = Reason("test", "here", "because")


def is_free(term: Term) -> bool:
    return not any(leaf.fixed for leaf in leaves(term))


def test_joined_axes_are_one() -> None:
    equations, a, b, c = Equations(), fresh(6), fresh(6), fresh(6)
    equations.join(a, b, WHY)
    equations.join(b, c, WHY)
    assert expand(a) == expand(b) == expand(c)
    equations.freeze(c, WHY)
    assert not is_free(a)


def test_an_axis_takes_the_structure_of_what_it_is_joined_with() -> None:
    equations, whole, outer, inner = Equations(), fresh(12), fresh(3), fresh(4)
    equations.join(whole, (*outer, *inner), WHY)
    assert expand(whole) == (*outer, *inner)
    equations.freeze(inner, WHY)
    assert is_free(outer)
    assert not is_free(whole)


def test_products_that_do_not_nest_are_frozen() -> None:
    equations, left, right = Equations(), (*fresh(4), *fresh(6)), (*fresh(6), *fresh(4))
    equations.join(left, right, WHY)
    assert not is_free(left)
    assert not is_free(right)
    assert all(leaf.fixed == WHY for leaf in leaves(left))


def test_products_with_common_divisors_are_refined() -> None:
    equations, left, right = Equations(), (*fresh(4), *fresh(6)), (*fresh(2), *fresh(12))
    equations.join(left, right, WHY)
    assert [factor.size for factor in expand(left)] == [factor.size for factor in expand(right)] == [2, 2, 6]
    assert is_free(left)


def test_uniform_axes_tie_nothing() -> None:
    equations, a, b = Equations(), fresh(6), fresh(6)
    assert equations.join(a, uniform(6), WHY) == a
    assert equations.join(uniform(6), b, WHY) == b
    assert expand(a) != expand(b)
    assert is_solid(equations.freeze(uniform(6), WHY))


def test_concatenations_are_refined_to_common_cuts() -> None:
    equations, first, second = Equations(), (fresh(2), fresh(6)), (fresh(5), fresh(3))
    equations.join(concat(first), concat(second), WHY)
    assert [leaf.size for leaf in leaves(first[1])] == [3, 3]
    assert [leaf.size for leaf in leaves(second[0])] == [2, 3]
    assert is_free(first[1])


def test_cutting_a_product_cuts_its_outer_factor() -> None:
    equations, outer, inner = Equations(), fresh(4), fresh(5)
    pieces = [piece for piece, _ in equations.cut((*outer, *inner), [5, 15], WHY)]
    assert [length(piece) for piece in pieces] == [5, 15]
    assert [leaf.size for leaf in leaves(outer)] == [3]


def test_cutting_inside_a_unit_opens_that_unit_only() -> None:
    equations, outer, inner = Equations(), fresh(3), fresh(4)
    pieces = [piece for piece, _ in equations.cut((*outer, *inner), [6, 6], WHY)]
    assert [length(piece) for piece in pieces] == [6, 6]
    assert is_free(inner)


def test_slices_beside_units_are_axes_of_their_own_until_the_axis_is_seen_alone() -> None:
    equations, units, width = Equations(), fresh(3), fresh(4)
    equations.sight((units, width))
    (_, steps), _ = equations.cut(units, [1, 2], WHY)
    assert equations.restrict(width, steps) != width
    equations.sight((width,))
    other = fresh(4)
    equations.sight((units, other))
    equations.sight((other,))
    assert equations.restrict(other, steps) == other


def test_reshaping_splits_merges_and_freezes() -> None:
    equations, a, b = Equations(), fresh(6), fresh(4)
    (outer, inner, last) = equations.regroup([a, b], [2, 3, 4], WHY)
    assert expand(a) == (*outer, *inner)
    assert last == b
    assert equations.regroup([outer, inner, last], [24], WHY) == [(*expand(a), *b)]
    equations.regroup([fresh(6), fresh(4)], [4, 6], WHY)
    c, d = fresh(6), fresh(4)
    assert all(not is_free(term) for term in equations.regroup([c, d], [4, 6], WHY))
    assert not is_free(c)
