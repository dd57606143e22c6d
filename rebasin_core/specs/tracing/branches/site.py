"""Sites: where the outputs of like branches are added, stacked or concatenated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

from torch.fx import Node

from rebasin_core.specs.tracing.branches.template import Matching
from rebasin_core.specs.tracing.carriers import arguments_of, operator_of, shape_of
from rebasin_core.specs.tracing.graph import written_nodes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.specs.tracing.branches.template import Branches, Template
    from rebasin_core.specs.tracing.graph import ModelGraph

_JOINS = {"stack", "cat", "concat", "concatenate"}


@final
@dataclass(frozen=True, slots=True)
class Site:
    """Like branches whose outputs are combined.

    Attributes:
        root: The node with the combined outputs.
        kind: How they are combined.
        dim: The dimension along which they are stacked or concatenated, not negative.
        before: Operands before those of the branches; all other operands of a sum.
        after: Operands after those of the branches.
        template: The branches.
        chain: The nodes between the branches and the root: partial sums.
    """

    root: Node
    kind: Literal["sum", "stack", "cat"]
    dim: int
    before: tuple[Node, ...]
    after: tuple[Node, ...]
    template: Template
    chain: frozenset[Node]


def find_sites(graph: ModelGraph, constants: Mapping[str, Tensor]) -> list[Site]:
    """Return the like branches of a graph, the outermost of nested ones only.

    Args:
        graph: The graph of a model.
        constants: Values of buffers that are the same in all models, by name.

    Returns:
        The sites, the last in the graph first. No two have tensors in common, unless all of them.
    """
    origins = {node: own for name, node in graph.placeholders.items() if (own := graph.origins.get(name)) is not None}
    known = {node: constants[own] for node, own in origins.items() if own in constants}
    known |= {node: graph.constants[name] for name, node in graph.placeholders.items() if name in graph.constants}
    trained = {node: own for node, own in origins.items() if node not in known}
    search = _Search(trained, known, written_nodes(graph.module))
    found: list[Site] = []
    inside: set[Node] = set()
    stacked: dict[str, Branches] = {}
    for node in reversed(graph.module.graph.nodes):
        if node.op != "call_function" or node in inside:
            continue
        for site in search.sites(node):
            members = {origins[member]: branches for branches in site.template.members for member in branches}
            if all(stacked.get(name, branches) == branches for name, branches in members.items()):
                found.append(site)
                inside |= site.template.nodes | site.chain
                stacked |= members
                break
    return found


@final
class _Search:
    def __init__(self, origins: Mapping[Node, str], constants: Mapping[Node, Tensor], written: set[Node]) -> None:
        self._origins = origins
        self._constants = constants
        self._written = written

    def sites(self, node: Node) -> Iterator[Site]:
        """Yield the sites with a node as the root, the one with most branches first."""
        name = operator_of(node)
        if name in {"add", "add_"} and not _is_link(node):
            yield from self._of_sum(node)
        elif name in _JOINS and node not in self._written:
            yield from self._of_join(node, "stack" if name == "stack" else "cat")

    def _of_sum(self, root: Node) -> Iterator[Site]:
        terms, chain = self._terms(root)
        # If others are added to the memory of the first operand, it is written to.
        matching = Matching(self._origins, self._constants, self._written - set(terms))
        for roots in self._classes(matching, terms):
            if all(shape_of(one) == shape_of(root) for one in roots):
                template = matching.template(roots)
                others = tuple(term for term in terms if term not in roots)
                if template is not None:
                    yield Site(root, "sum", 0, others, (), template, frozenset(chain) - {root})

    def _of_join(self, root: Node, kind: Literal["stack", "cat"]) -> Iterator[Site]:
        given = arguments_of(root)
        parts, dim = given.get("tensors"), given.get("dim", 0)
        if not isinstance(parts, list | tuple) or not isinstance(dim, int):
            return
        nodes = [part for part in parts if isinstance(part, Node)]
        if len(nodes) < 2 or len(nodes) < len(parts):
            return
        matching = Matching(self._origins, self._constants, self._written)
        for roots in self._classes(matching, nodes):
            start = nodes.index(roots[0])
            stop = start + len(roots)
            template = matching.template(roots) if tuple(nodes[start:stop]) == roots else None
            if template is not None and (kind == "cat" or len(roots) == len(nodes)):
                before, after = tuple(nodes[:start]), tuple(nodes[stop:])
                yield Site(root, kind, dim % len(shape_of(root)), before, after, template, frozenset())

    @staticmethod
    def _classes(matching: Matching, nodes: Sequence[Node]) -> list[Branches]:
        """Return the classes of like branches, at least two each, those with most branches first."""
        found: list[Branches] = []
        for ordered in (nodes, nodes[::-1]):  # positions of a shared tensor must be in ascending order
            classes: list[list[Node]] = []
            for node in ordered:
                own = next((one for one in classes if matching.template((one[-1], node)) is not None), None)
                if own is None:
                    classes.append([node])
                else:
                    own.append(node)
            found += [tuple(one) for one in classes if len(one) > 1]
        return sorted(found, key=len, reverse=True)

    def _terms(self, root: Node) -> tuple[list[Node], set[Node]]:
        """Return the operands of a sum of sums, and the nodes of all partial sums."""
        operands = _operands(root)
        if operands is None or not self._is_replaceable(root, operands[0]):
            return [], set()
        terms: list[Node] = []
        chain = {root}
        for operand in operands:
            inner, own = self._terms(operand) if len(operand.users) == 1 else ([], set())
            terms += inner or [operand]
            chain |= own
        return terms, chain

    def _is_replaceable(self, node: Node, first: Node) -> bool:
        """Return whether a sum can be computed in new memory."""
        if operator_of(node) == "add":
            return node not in self._written or len(node.users) == 1
        is_view = bool(getattr(first.target, "is_view", False))
        return first.op == "call_function" and len(first.users) == 1 and not is_view


def _is_link(node: Node) -> bool:
    """Return whether a sum is an operand of another sum only."""
    users = [*node.users]
    return len(users) == 1 and _operands(users[0]) is not None


def _operands(node: Node) -> tuple[Node, ...] | None:
    """Return the tensors that a node adds; None for scaled sums and other numbers than zero."""
    if operator_of(node) not in {"add", "add_"}:
        return None
    given = arguments_of(node)
    operands = [given.get("self"), given.get("other")]
    if operands[1] == 0:  # the first operand of `sum`
        del operands[1]
    if given.get("alpha", 1) != 1 or not all(isinstance(one, Node) for one in operands):
        return None
    return tuple(one for one in operands if isinstance(one, Node))
