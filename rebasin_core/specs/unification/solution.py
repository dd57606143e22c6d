"""The solution of all constraints: groups, and the axes of every parameter and buffer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from rebasin_core.specs.unification.groups import merge_inseparable, named_layout
from rebasin_core.specs.unification.nesting import CoOccurrence, outer_variables
from rebasin_core.specs.unification.restriction import RestrictionResolver
from rebasin_core.specs.unification.terms import Reason, Variable, atomic_variables, substitute, variables
from rebasin_core.symmetry.axis import Atom, Group, atoms_of, concat, product

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from rebasin_core.specs.unification.constraints import Constraints
    from rebasin_core.specs.unification.groups import Axes
    from rebasin_core.specs.unification.induced import InducedAxis
    from rebasin_core.specs.unification.terms import AxisTerm, AxisTerms
    from rebasin_core.symmetry.axis import Axis
    from rebasin_core.symmetry.layout import Layout


_SORTED: Final = Reason("sort", "sorted positions", "the order of an axis sorted by it matters")


@final
@dataclass(frozen=True, slots=True)
class Solution:
    """The largest specification that satisfies all constraints.

    Attributes:
        layout: Groups and axes.
        reasons: Reasons for every dimension of every tensor that is fixed, wholly or in part; empty for free ones.
        variables: The name of the group of each free variable; of a product that is one group, the last factor only.
    """

    layout: Layout
    reasons: Mapping[str, tuple[tuple[Reason, ...], ...]]
    variables: Mapping[Variable, str]


def solve_constraints(
    constraints: Constraints, tensors: Mapping[str, AxisTerms], *, parameters: Collection[str]
) -> Solution:
    """Return the solution: every atomic variable that is not fixed is a group.

    Args:
        constraints: All constraints of a graph.
        tensors: The axes of every parameter and buffer, by name.
        parameters: Names of the parameters. Axes that occur in buffers only are fixed.

    Returns:
        The solution.
    """
    resolve_induced(constraints, tensors.values())
    _freeze_buffers(tensors, parameters)
    variable_of, axes = _resolved_axes(constraints, tensors)
    names = {variable: name for name, variable in variable_of.items()}
    order = [variable_of[name] for name in _group_order(axes)]
    co_occurrence = CoOccurrence(constraints)
    outer_of = outer_variables(co_occurrence, order)
    groups: dict[str, Group] = {}
    for variable in order:
        outer = outer_of[variable]
        groups[names[variable]] = Group(names[variable], variable.size, None if outer is None else names[outer])

    def inseparable(first: str, second: str) -> bool:
        return co_occurrence.inseparable(variable_of[first], variable_of[second])

    merged, merged_axes, innermost = merge_inseparable(groups, axes, inseparable)
    layout, final = named_layout(merged, merged_axes)
    reasons = {name: tuple(tuple(_reasons(term)) for term in terms) for name, terms in tensors.items()}
    return Solution(layout, reasons, {variable_of[innermost.get(name, name)]: final[name] for name in merged})


def resolve_induced(constraints: Constraints, tensors: Iterable[AxisTerms]) -> None:
    """Fix every induced axis whose order is constrained, and the axis that induces it.

    Args:
        constraints: The constraints of a graph, after all operators.
        tensors: The axes of all parameters and buffers.
    """
    terms = [*(term for own in tensors for term in own), *constraints.restrictions.values()]
    owned = {variable for term in terms for variable in variables(term)}
    free = list(constraints.induced.values())
    while found := [one for one in free if one.is_constrained or one.axis in owned or _is_shared(constraints, one)]:
        for one in found:
            free.remove(one)
            constraints.freeze(one.source, _SORTED)
            constraints.freeze((one.axis,), _SORTED)


def _is_shared(constraints: Constraints, one: InducedAxis) -> bool:
    """Return whether another induced axis was unified with this one."""
    return any(
        other is not one and other.axis.binding is not None and one.axis in substitute((other.axis,))
        for other in constraints.induced.values()
    )


def _freeze_buffers(tensors: Mapping[str, AxisTerms], parameters: Collection[str]) -> None:
    """Fix the variables that occur in buffers only."""
    in_parameters = {variable for name in parameters for term in tensors[name] for variable in atomic_variables(term)}
    for name, terms in tensors.items():
        for variable in {variable for term in terms for variable in atomic_variables(term)} - in_parameters:
            variable.fixed = variable.fixed or Reason("none", name, "it occurs in buffers only")


def _resolved_axes(
    constraints: Constraints, tensors: Mapping[str, AxisTerms]
) -> tuple[dict[str, Variable], dict[str, tuple[Axis, ...]]]:
    """Return the variables of all groups by temporary names, and the axes of all tensors."""
    resolver = RestrictionResolver(constraints, list(tensors.values()))
    while True:
        resolver.resolve()
        variable_of: dict[str, Variable] = {}
        axes = {name: tuple(_axis(constraints, term, variable_of) for term in terms) for name, terms in tensors.items()}
        restricted = {variable for variable, _, _ in constraints.restrictions}
        inexpressible = [variable for variable in variable_of.values() if variable in restricted]
        if not inexpressible:
            return variable_of, axes
        for variable in inexpressible:  # an axis contains v itself, but v|A_i differs from v in another
            resolver.make_constant(variable)


def _axis(constraints: Constraints, term: AxisTerm, variable_of: dict[str, Variable]) -> Axis:
    """Return the axis of a term and add its groups; the temporary name of a group is the number of its variable."""
    factors = substitute(term)
    if not factors:
        return Atom(1)
    first = factors[0]
    rest = factors[1:]
    if not isinstance(first, Variable):
        return product(Atom(first.size), _axis(constraints, rest, variable_of))
    if not first.parts:
        name = None if first.fixed or not first.size else str(first.number)
        if name is not None:
            variable_of[name] = first
        return product(Atom(first.size, name), _axis(constraints, rest, variable_of))
    # (A_1 + A_2)*v is A_1*v|A_1 + A_2*v|A_2, written as a product if v does not depend on the part
    restricted = [constraints.restriction_of(rest, first, index) for index in range(len(first.parts))]
    if all(own == rest for own in restricted):
        parts = [_axis(constraints, part, variable_of) for part in first.parts]
        return product(concat(*parts), _axis(constraints, rest, variable_of))
    pairs = zip(first.parts, restricted, strict=True)
    return concat(*(_axis(constraints, (*part, *own), variable_of) for part, own in pairs))


def _group_order(axes: Axes) -> list[str]:
    """Return the names of all groups by first occurrence in the tensors, outer factors first."""
    found = (atom.group for dims in axes.values() for axis in dims for atom in atoms_of(axis))
    return list(dict.fromkeys(name for name in found if name is not None))


def _reasons(term: AxisTerm) -> Iterator[Reason]:
    yield from dict.fromkeys(variable.fixed for variable in variables(term) if variable.fixed)
