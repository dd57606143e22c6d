"""Entries of parameters that a model does not read, such as positions beyond the length of the inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rebasin_core.specs.unification.terms import Reason, variables

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rebasin_core.specs.tracing.graph import ModelGraph
    from rebasin_core.specs.unification.constraints import Constraints
    from rebasin_core.specs.unification.terms import AxisTerms

_RANGES: Final = frozenset(f"aten.{name}.Tensor" for name in ("slice", "slice_copy")) | {
    "aten.narrow.default",
    "aten.narrow_copy.default",
    "aten.select.int",
    "aten.select_copy.int",
}


def fix_unread_entries(graph: ModelGraph, terms_of: Mapping[str, AxisTerms], constraints: Constraints) -> None:
    """Fix the entries of parameters of which only other ranges are read.

    Any map of such entries keeps the function for inputs of this length, but not for longer ones.

    Args:
        graph: The graph, after it was interpreted.
        terms_of: The axes of every parameter and buffer.
        constraints: Its constraints.
    """
    names = dict.fromkeys(_read_by_range_only(graph))
    if not names:
        return
    own = {id(terms_of[name]) for name in names}
    read = {one for terms in constraints.tensors if id(terms) not in own for term in terms for one in variables(term)}
    # A part of a tensor has the restrictions of the other axes to that part.
    read |= {
        variable
        for (variable, _, _), restricted in constraints.restrictions.items()
        if not read.isdisjoint(variables(restricted))
    }
    for name in names:
        for term in terms_of[name]:
            for variable in variables(term):
                if variable not in read:
                    variable.fixed = variable.fixed or Reason("none", name, "not read for inputs of this shape")


def _read_by_range_only(graph: ModelGraph) -> Iterator[str]:
    """Yield the names of the tensors of which the graph reads ranges only."""
    for name, node in graph.placeholders.items():
        origin = graph.origins.get(name)
        if origin is not None and node.users and all(str(user.target) in _RANGES for user in node.users):
            yield origin
