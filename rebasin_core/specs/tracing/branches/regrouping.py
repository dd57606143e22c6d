"""The graph of a model with like branches written as one branch with stacked weights.

The branch is vectorized by `torch.func.vmap`, and its operators are recorded. All other nodes of the graph are copied.
Then the rules for operators derive exchanges of branches as permutations of the first axis of the stacked weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.nn import functional
from typing_extensions import override

from rebasin_core.specs.tracing.carriers import operator_of, shape_of
from rebasin_core.specs.tracing.graph import ModelGraph, value_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rebasin_core.specs.tracing.branches.site import Site
    from rebasin_core.specs.tracing.branches.template import Branches, Slices


def regrouped(graph: ModelGraph, sites: Sequence[Site], stacks: Mapping[str, str]) -> ModelGraph:
    """Return a graph with like branches as one branch.

    Args:
        graph: The graph of a model; it is not changed.
        sites: The branches.
        stacks: Name of the stack of each parameter and buffer of a branch.

    Returns:
        The new graph.
    """
    copy = _Copy(graph, sites, stacks)
    copy.run()
    copy.target.eliminate_dead_code()
    copy.target.lint()
    return ModelGraph(GraphModule(graph.module, copy.target), copy.origins, copy.constants)


@final
class _Copy:
    """Copies a graph node by node, and writes the combined outputs of branches where their root was."""

    def __init__(self, graph: ModelGraph, sites: Sequence[Site], stacks: Mapping[str, str]) -> None:
        self._graph = graph
        self._stacks = stacks
        self._roots = {site.root: site for site in sites}
        self._skipped = _unused_after(graph, sites)
        self._values: dict[Node, Node] = {}
        self._of_stack: dict[str, Node] = {}
        self.target = Graph()
        self.origins: dict[str, str | None] = {}
        self.constants: dict[str, Tensor] = {}

    def run(self) -> None:
        """Copy all nodes."""
        placeholders = [*self._graph.placeholders.values()]
        self._add_placeholders(placeholders)
        for node in self._graph.module.graph.nodes:
            if node.op == "placeholder" or node in self._skipped:
                continue
            if node in self._roots:
                self._values[node] = self._combined(self._roots[node])
            else:
                self._values[node] = self.target.node_copy(node, self._values.__getitem__)

    def _add_placeholders(self, placeholders: Sequence[Node]) -> None:
        members: dict[str, list[Node]] = {}
        for node in placeholders:
            origin = self._graph.origins.get(node.name)
            stack = self._stacks.get(origin) if origin is not None else None
            if stack is None:
                own = self._values[node] = self.target.node_copy(node)
                if node.name in self._graph.origins:
                    self.origins[own.name] = origin
                if node.name in self._graph.constants:
                    self.constants[own.name] = self._graph.constants[node.name]
            else:
                members.setdefault(stack, []).append(node)
        branches = {b for site in self._roots.values() for b in site.template.members}
        for stack, nodes in members.items():
            ordered = next(one for one in branches if set(one) == set(nodes))
            own = self._placeholder_of(ordered)
            self._of_stack[stack] = own
            self.origins[own.name] = stack
        for stack, nodes in members.items():
            ordered = next(one for one in branches if set(one) == set(nodes))
            for number, node in enumerate(ordered):
                # One of the tensors, if it is used elsewhere, too.
                own = self.target.call_function(torch.ops.aten.select.int, (self._of_stack[stack], 0, number))
                own.meta["val"] = _meta(node)
                self._values[node] = own

    def _placeholder_of(self, members: Branches) -> Node:
        value = _meta(members[0])
        own = self.target.placeholder(f"stack_{len(self._of_stack)}")
        own.meta["val"] = value.new_empty((len(members), *value.shape))
        return own

    def _combined(self, site: Site) -> Node:
        """Write the operators that compute the combined outputs of branches; return the node of the result."""
        branch = _Branch(site)
        operands = [self._of_stack[self._stack_of(members)] for members in branch.members]
        operands += [self._values[node] for node in branch.outer]
        recorded = _recorded(branch.combined, [node.meta["val"] for node in operands])
        inner = [node for node in recorded.graph.nodes if node.op == "placeholder"]
        values: dict[Node, Any] = dict(zip(inner, operands, strict=True))
        for node in recorded.graph.nodes:
            if node.op == "call_function":
                values[node] = self.target.node_copy(node, values.__getitem__)
            elif node.op == "output":
                (result,) = node.args[0]
                found: Node = values[result]
                return found
            elif node.op != "placeholder":
                message = f"expected operators on tensors in a branch, got {node.op}"
                raise NotImplementedError(message)
        message = "expected an output of the branches"
        raise NotImplementedError(message)

    def _stack_of(self, members: Branches) -> str:
        return self._stacks[self._graph.origins[members[0].name] or ""]


@final
@dataclass
class _Branch:
    """The function that computes the combined outputs of the branches of a site."""

    site: Site
    members: list[Branches] = field(init=False)
    slices: dict[Branches, Slices] = field(init=False)
    outer: list[Node] = field(init=False)

    def __post_init__(self) -> None:
        template = self.site.template
        self.members = template.members
        self.slices = template.slices
        sources = [one.source for one in self.slices.values()]
        given = [*template.shared, *sources, *self.site.before, *self.site.after]
        self.outer = [*dict.fromkeys(given)]

    def combined(self, tensors: list[Tensor]) -> list[Tensor]:
        """Return the combined outputs, given the stacked weights and the other tensors."""
        count = len(self.members)
        outer = dict(zip(self.outer, tensors[count:], strict=True))
        rows = [_rows(outer[one.source], one, len(self.site.template.roots)) for one in self.slices.values()]
        each = torch.func.vmap(lambda own, parts: self._output(own, parts, outer))(tensors[:count], rows)
        site = self.site
        others = [outer[node] for node in (*site.before, *site.after)]
        if site.kind == "sum":
            total = each.sum(0)
            for other in others:
                total = other + total
            return [total]
        if site.kind == "stack":
            return [each.movedim(0, site.dim)]
        joined = each.movedim(0, site.dim).flatten(site.dim, site.dim + 1)
        if not others:
            return [joined]
        number = len(site.before)
        return [torch.cat([*others[:number], joined, *others[number:]], site.dim)]

    def _output(self, own: list[Tensor], parts: list[Tensor], outer: Mapping[Node, Tensor]) -> Tensor:
        """Return the output of one branch."""
        template = self.site.template
        values: dict[Node, Any] = dict(outer)
        values |= {members[0]: tensor for members, tensor in zip(self.members, own, strict=True)}
        values |= {nodes[0]: part for nodes, part in zip(self.slices, parts, strict=True)}
        for nodes in template.calls:
            node = nodes[0]
            args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = _called(node, args, kwargs)
        result: Tensor = values[template.roots[0]]
        return result


def _called(node: Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:  # ruff: ignore[any-type]
    """Return the result of an operator."""
    if operator_of(node) == "batch_norm":
        names = [argument.name for argument in torch.ops.aten.batch_norm.default._schema.arguments]  # ruff: ignore[private-member-access] - there is no public alias
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if not given["training"] and given["running_mean"] is not None:
            tensors = (given[name] for name in ("input", "running_mean", "running_var", "weight", "bias"))
            return _BatchNormalization.apply(*tensors, given["eps"])  # type: ignore[no-untyped-call]  # PyTorch has no types there
    return node.target(*args, **kwargs) if callable(node.target) else None


@final
class _BatchNormalization(torch.autograd.Function):
    """Batch normalization with given statistics, vectorized as one normalization of the channels of all branches.

    PyTorch vectorizes it as a normalization without weights, and products with them, which hides symmetries.
    """

    @staticmethod
    @override
    def forward(*args: Any) -> Tensor:
        x, mean, variance, weight, bias, eps = args
        return functional.batch_norm(x, mean, variance, weight, bias, eps=eps)

    @staticmethod
    @override
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep no tensors: no gradients are computed."""

    @staticmethod
    @override
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        count = info.batch_size
        *tensors, eps = args
        own = [None if t is None else _of_all(t, dim, count) for t, dim in zip(tensors, in_dims[:-1], strict=True)]
        x, mean, variance, weight, bias = own
        assert x is not None  # ruff: ignore[assert] - all normalizations have an input
        every = functional.batch_norm(x, mean, variance, weight, bias, eps=eps)
        result: Tensor = every.unflatten(1, (count, -1)).movedim(1, 0)
        return result, 0


def _of_all(tensor: Tensor, dim: int | None, count: int) -> Tensor:
    """Return a tensor of a batch normalization with the channels of all branches."""
    every = tensor.expand(count, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return every.flatten() if every.dim() == 2 else every.movedim(0, 1).flatten(1, 2)


def _rows(source: Tensor, one: Slices, count: int) -> Tensor:
    """Return the positions of a tensor that branches use, those of each branch as one entry of the first dimension."""
    ranges = source.narrow(one.dim, one.start, count * one.length)
    if one.length == source.shape[one.dim]:
        ranges = source
    parts: Tensor = ranges.unflatten(one.dim, (count, one.length)).movedim(one.dim, 0)
    return parts if one.keeps else parts.squeeze(one.dim + 1)


def _recorded(function: Callable[[list[Tensor]], list[Tensor]], inputs: Sequence[Tensor]) -> GraphModule:
    """Return the operators of a function, recorded below vectorization."""
    from torch.fx.experimental.proxy_tensor import make_fx  # ruff: ignore[import-outside-top-level] - half a second

    given = [torch.empty(tuple(one.shape), dtype=one.dtype, device="meta") for one in inputs]

    def recorded(tensors: list[Tensor]) -> list[Tensor]:
        return function(tensors)  # `make_fx` does not count the arguments of methods correctly

    with torch.no_grad():
        module: GraphModule = make_fx(recorded, tracing_mode="real")(given)
    return module


def _unused_after(graph: ModelGraph, sites: Sequence[Site]) -> set[Node]:
    """Return the nodes of branches and partial sums that no other node uses."""
    candidates = {node for site in sites for node in site.template.nodes | site.chain}
    roots = {site.root for site in sites}
    unused: set[Node] = set()
    for node in reversed(graph.module.graph.nodes):
        if node in candidates and all(user in unused or user in roots for user in node.users):
            unused.add(node)
    return unused


def _meta(node: Node) -> Tensor:
    value = value_of(node)
    return torch.empty(shape_of(node), dtype=value.dtype, device="meta")
