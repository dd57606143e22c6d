"""The graph of a model: `torch.export`, or a record of one execution for models that do not export."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule, Node

from rebasin_core.errors import SpecError
from rebasin_core.tensors.modules import named_tensors, shared_copy
from rebasin_core.tensors.trees import tree_flatten, tree_leaves

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping


Method: TypeAlias = Literal["export", "execution"]


@final
@dataclass(frozen=True)
class ModelGraph:
    """A graph, and the tensors that its placeholders stand for; the graph must not be changed afterward.

    Attributes:
        module: The graph, with the graphs inside it.
        origins: For every placeholder, the name of its parameter or buffer; None for an input.
        constants: The constants of all other placeholders.
    """

    module: GraphModule
    origins: Mapping[str, str | None]
    constants: Mapping[str, Tensor]

    @cached_property
    def placeholders(self) -> Mapping[str, Node]:
        """The placeholders by name, in order."""
        return {node.name: node for node in self.module.graph.nodes if node.op == "placeholder"}

    @cached_property
    def used_tensors(self) -> frozenset[str]:
        """The names of the parameters and buffers that the graph uses."""
        return frozenset(
            origin
            for name, node in self.placeholders.items()
            if node.users and (origin := self.origins.get(name)) is not None
        )

    @cached_property
    def statistics(self) -> frozenset[str]:
        """The names of the buffers that normalizations use as running statistics."""
        found: set[str] = set()
        for node in self.module.graph.nodes:
            if "norm" in str(node.target):
                names = [argument.name for argument in node.args if isinstance(argument, Node)]
                found |= {origin for name in names if (origin := self.origins.get(name)) is not None}
        return frozenset(found)

    @cached_property
    def written_tensors(self) -> frozenset[str]:
        """The names of the parameters and buffers that the graph writes to."""
        names = {node.name for node in written(self.module)}
        return frozenset(origin for name, origin in self.origins.items() if origin is not None and name in names)


def value_of(node: Node) -> Any:  # ruff: ignore[any-type] - a tensor, a record of one, a scalar, or a list of those
    """Return the recorded value of a node, or a record of its shape.

    Args:
        node: A node.

    Returns:
        An object with the shape of the value; None if nothing was recorded.
    """
    return node.meta.get("val", node.meta.get("tensor_meta"))


def written(module: GraphModule) -> set[Node]:
    """Return the nodes whose memory a later node writes to, also inside regions of the graph.

    Args:
        module: Any graph.

    Returns:
        Nodes, and the nodes of which they are views.
    """
    found: set[Node] = set()
    for node in module.graph.nodes:
        for target in _targets(module, node):
            base: object = target
            while isinstance(base, Node) and base not in found:
                found.add(base)
                base = base.args[0] if base.args else None
    return found


def _targets(module: GraphModule, node: Node) -> Iterator[object]:
    """Yield the arguments that an operator writes to."""
    schema = getattr(node.target, "_schema", None)
    regions = [argument for argument in node.args if isinstance(argument, Node) and argument.op == "get_attr"]
    for region in regions:
        inner = getattr(module, str(region.target))
        if isinstance(inner, GraphModule):
            changed = written(inner)
            placeholders = (other for other in inner.graph.nodes if other.op == "placeholder")
            given = node.args[node.args.index(region) + 1 :]
            yield from (outer for outer, own in zip(given, placeholders, strict=False) if own in changed)
    if schema is None or not schema.is_mutable:
        return
    for index, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield node.args[index] if index < len(node.args) else node.kwargs.get(argument.name)


def capture(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], method: Method) -> ModelGraph:
    """Return the graph of a model in evaluation mode.

    Args:
        model: The model; on the meta device nothing is allocated.
        args: Its positional inputs.
        kwargs: Its named inputs.
        method: ``export``, or ``execution`` to record the operators of one real execution.

    Returns:
        The graph, in PyTorch's own operators before any decomposition.

    Raises:
        SpecError: If the model cannot be captured in this way; the message suggests the other one.
    """
    try:
        return _captured(model, args, dict(kwargs), method, training=False)
    except Exception as error:  # whatever the model's own code raises
        first = f"{type(error).__name__}: {error}".strip().partition("\n")[0].rstrip(".: ")
        message = f"{type(model).__name__} cannot be traced by {method}: {first}"
        if method == "export":
            message += ". If its control flow depends on data, `method='execution'` records one execution instead"
        raise SpecError(message) from error


def capture_training(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], method: Method
) -> ModelGraph | None:
    """Return the graph of a model in training mode, if it can be captured.

    Args:
        model: The model; it is not changed.
        args: Its positional inputs.
        kwargs: Its named inputs.
        method: As in `capture`.

    Returns:
        The graph, or None.
    """
    try:
        return _captured(model, args, dict(kwargs), method, training=True)
    except Exception:  # ruff: ignore[blind-except] - whatever the model's own code raises; evaluation is what counts
        return None


def _exported(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelGraph:
    from torch.export.graph_signature import InputKind  # ruff: ignore[import-outside-top-level] - half a second

    program = torch.export.export(model, args, kwargs, strict=False)
    _remove_dead_code(program.graph_module)
    names = {id(tensor): name for name, tensor in named_tensors(model).items()}  # tied tensors have one name
    every = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    origins: dict[str, str | None] = {}
    constants: dict[str, Tensor] = {}
    for spec in program.graph_signature.input_specs:
        placeholder = spec.arg.name
        if spec.kind in {InputKind.PARAMETER, InputKind.BUFFER} and spec.target in every:
            origins[placeholder] = names[id(every[spec.target])]
        elif spec.kind in {InputKind.CONSTANT_TENSOR, InputKind.BUFFER} and spec.target in program.constants:
            value = program.constants[spec.target]
            if isinstance(value, Tensor):
                constants[placeholder] = value
        else:
            origins[placeholder] = None
    return ModelGraph(program.graph_module, origins, constants)


def _executed(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelGraph:
    from torch.fx.experimental.proxy_tensor import make_fx  # ruff: ignore[import-outside-top-level] - half a second

    tensors = {name: tensor.detach() for name, tensor in named_tensors(model).items()}
    leaves, rebuild = tree_flatten((args, kwargs))

    def function(tensors: dict[str, Tensor], leaves: list[Any]) -> list[Any]:
        inner_args, inner_kwargs = rebuild(leaves)
        output = functional_call(model, tensors, inner_args, inner_kwargs)
        return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]

    with torch.no_grad():
        made = make_fx(function, tracing_mode="real", pre_dispatch=True, _error_on_data_dependent_ops=False)
        module = made(tensors, leaves)
    _remove_dead_code(module)
    placeholders = [node.name for node in module.graph.nodes if node.op == "placeholder"]
    sources: list[str | None] = [*tensors, *(None for _ in leaves)]
    return ModelGraph(module, dict(zip(placeholders, sources, strict=True)), {})


def _captured(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], method: Method, *, training: bool
) -> ModelGraph:
    take = _exported if method == "export" else _executed
    model = shared_copy(model).train(training)
    with _quietly():
        return take(model, args, kwargs)


def _remove_dead_code(module: GraphModule) -> None:
    """Remove values of which the model only used the shape."""
    module.graph.eliminate_dead_code()


@contextmanager
def _quietly() -> Generator[None]:
    """Disable fused attention layers, which hide operators, and messages that repeat the error that is raised."""
    fast = torch.backends.mha.get_fastpath_enabled()
    log = logging.getLogger("torch._subclasses.fake_tensor")
    quiet = log.disabled
    try:
        log.disabled = True
        torch.backends.mha.set_fastpath_enabled(False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what capturing warns about is PyTorch's business
            yield
    finally:
        log.disabled = quiet
        torch.backends.mha.set_fastpath_enabled(fast)
