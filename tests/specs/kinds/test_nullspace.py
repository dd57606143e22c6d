"""Null spaces of integer and binary equations, compared with exhaustive enumeration."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from rebasin_core.specs.kinds.nullspace import binary_nullspace, independent_of, integer_nullspace

UNKNOWNS = ["a", "b", "c", "d"]
ROWS = st.lists(st.dictionaries(st.sampled_from(UNKNOWNS), st.integers(-2, 2)), max_size=4)


@given(ROWS)
def test_integer_solutions_span_all_solutions(rows: list[dict[str, int]]) -> None:
    basis = integer_nullspace(UNKNOWNS, rows)
    for vector in basis:
        assert all(sum(count * vector.get(name, 0) for name, count in row.items()) == 0 for row in rows)
        assert next(iter(vector.values())) > 0
    # Every small solution is a combination of the basis: the free unknowns determine it.
    free = [next(name for name in UNKNOWNS if sum(name in other for other in basis) == 1 and name in v) for v in basis]
    for values in product((-1, 0, 2), repeat=len(UNKNOWNS)):
        solution = dict(zip(UNKNOWNS, values, strict=True))
        if any(sum(count * solution[name] for name, count in row.items()) for row in rows):
            continue
        rest = {
            name: solution[name]
            - sum(solution[f] / vector[f] * vector.get(name, 0) for f, vector in zip(free, basis, strict=True))
            for name in UNKNOWNS
        }
        assert all(abs(value) < 1e-9 for value in rest.values())


@given(st.lists(st.frozensets(st.sampled_from(UNKNOWNS)), max_size=4))
def test_binary_solutions_are_all_solutions(rows: list[frozenset[str]]) -> None:
    basis = binary_nullspace(UNKNOWNS, rows)
    sums = {frozenset[str]()}
    for vector in basis:
        sums |= {one ^ vector for one in sums}
    subsets = (
        frozenset(n for n, chosen in zip(UNKNOWNS, bits, strict=True) if chosen) for bits in product((0, 1), repeat=4)
    )
    expected = {subset for subset in subsets if all(len(subset & row) % 2 == 0 for row in rows)}
    assert sums == expected
    assert len(sums) == 2 ** len(basis)


@given(
    st.lists(st.frozensets(st.sampled_from(UNKNOWNS)), max_size=4),
    st.lists(st.frozensets(st.sampled_from(UNKNOWNS)), max_size=3),
)
def test_independent_vectors_extend_a_basis_to_the_same_span(
    vectors: list[frozenset[str]], basis: list[frozenset[str]]
) -> None:
    def span(given_vectors: list[frozenset[str]]) -> set[frozenset[str]]:
        sums = {frozenset[str]()}
        for vector in given_vectors:
            sums |= {one ^ vector for one in sums}
        return sums

    found = independent_of(vectors, basis)
    assert span([*basis, *found]) == span([*basis, *vectors])
    assert len(span([*basis, *found])) == len(span(basis)) * 2 ** len(found)
