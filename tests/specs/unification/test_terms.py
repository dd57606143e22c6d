"""Terms, and the union-find forest of their bindings."""

from __future__ import annotations

import random
from itertools import pairwise

from rebasin_core.specs.unification.terms import (
    AxisTerm,
    Reason,
    Variable,
    atomic_variables,
    bind,
    concatenation,
    fresh,
    has_uniform,
    length,
    substitute,
    uniform,
    variables,
)

WHY = Reason("test", "here", "because")
OTHER = Reason("test", "there", "why not")


def test_a_bound_variable_is_replaced_by_its_term() -> None:
    x, y, z = Variable(12), Variable(3), Variable(4)
    bind(x, (y, z))
    assert substitute((x,)) == (y, z)
    assert substitute((z, x)) == (z, y, z)
    assert length((z, x)) == length(substitute((z, x))) == 48


def test_find_compresses_paths() -> None:
    chain = [Variable(5) for _ in range(6)]
    for child, parent in pairwise(chain):
        child.binding = (parent,)
    assert substitute((chain[0],)) == (chain[-1],)
    assert all(variable.binding == (chain[-1],) for variable in chain[:-1])


def test_find_replaces_factors_of_bindings() -> None:
    x, y, z, w = Variable(12), Variable(6), Variable(2), Variable(3)
    bind(x, (y, z))
    bind(y, (z, w))
    assert substitute((x,)) == (z, w, z)
    assert x.binding == (z, w, z)


def test_random_unions_give_the_classes_of_brute_force() -> None:
    draw = random.Random(0)
    elements = [Variable(4) for _ in range(40)]
    classes = list(range(40))
    for _ in range(30):
        a, b = draw.randrange(40), draw.randrange(40)
        (x,), (y,) = substitute((elements[a],)), substitute((elements[b],))
        if x is not y:
            assert isinstance(x, Variable)
            bind(x, (y,))
        classes = [classes[a] if name == classes[b] else name for name in classes]
    for a in range(40):
        for b in range(40):
            same = substitute((elements[a],)) == substitute((elements[b],))
            assert same == (classes[a] == classes[b])


def test_the_representative_inherits_the_reason_and_the_occurrences() -> None:
    x, y = Variable(4, WHY), Variable(4)
    seen: tuple[AxisTerm, ...] = ((x,),)
    x.occurrences[id(seen)] = seen
    bind(x, (y,))
    assert y.fixed == WHY
    assert list(y.occurrences.values()) == [seen]
    z = Variable(4, OTHER)
    bind(y, (z,))
    assert z.fixed == OTHER


def test_a_fixed_concatenation_does_not_fix_its_parts() -> None:
    (whole,), (other,) = concatenation([fresh(2), fresh(3)]), concatenation([fresh(2), fresh(3)])
    assert isinstance(whole, Variable)
    assert isinstance(other, Variable)
    whole.fixed = WHY
    bind(whole, (other,))
    assert other.fixed == WHY
    assert not any(variable.fixed for variable in atomic_variables((other,)))


def test_variables_of_concatenations_come_before_those_of_their_parts() -> None:
    a, b, c = Variable(2), Variable(3), Variable(4)
    (whole,) = concatenation([(a, b), (c,)])
    assert list(variables((whole,))) == [whole, a, b, c]
    assert list(atomic_variables((whole,))) == [a, b, c]
    assert concatenation([(a, b)]) == (a, b)


def test_uniform_factors_are_found_inside_concatenations() -> None:
    assert has_uniform((*fresh(2), *uniform(3)))
    assert has_uniform(concatenation([fresh(2), uniform(3)]))
    assert not has_uniform(concatenation([fresh(2), fresh(3)]))
    x = Variable(3)
    bind(x, uniform(3))
    assert has_uniform((x,))


def test_an_axis_of_length_one_is_the_empty_product() -> None:
    assert fresh(1) == uniform(1) == ()
    assert length(()) == 1


def test_only_free_variables_are_groups() -> None:
    (whole,) = concatenation([fresh(2), fresh(3)])
    assert isinstance(whole, Variable)
    assert Variable(3).is_free
    assert not Variable(3, WHY).is_free
    assert not whole.is_free
