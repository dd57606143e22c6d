"""Capture the graph of a model with `torch.export`, or by recording one execution."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from rebasin_core.specs.tracing.graph import ModelGraph
from rebasin_core.specs.tracing.lookup import looked_up
from rebasin_core.specs.tracing.quiet import quietly
from rebasin_core.tensors.modules import named_tensors, shared_copy
from rebasin_core.tensors.trees import tree_flatten, tree_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch.fx import GraphModule, Node

CaptureMethod: TypeAlias = Literal["export", "execution"]
"""Method by which a graph was captured."""

Method: TypeAlias = Literal["auto", "export", "execution"]
"""Method by which to capture a graph; ``auto`` selects one."""


def capture(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    method: CaptureMethod,
    *,
    training: bool = False,
) -> ModelGraph:
    """Return the graph of a model.

    Exceptions raised by the model's code or by the exporter are not caught.

    Args:
        model: The model; it is not changed. On the meta device nothing is allocated.
        args: Positional inputs.
        kwargs: Keyword inputs.
        method: ``export`` uses `torch.export`; ``execution`` records the operators of one execution.
        training: Whether to capture the model in training mode.

    Returns:
        The graph; its operators are not decomposed.
    """
    capture_with = _export if method == "export" else _execute
    copied = shared_copy(model)
    if copied is not model and method == "export":
        _use_grouped_products(copied)
    model = copied.train(training)
    with quietly():
        return capture_with(model, args, dict(kwargs))


def capture_training(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], method: CaptureMethod
) -> ModelGraph | None:
    """Return the graph of a model in training mode, if it can be captured.

    Args:
        model: The model; it is not changed.
        args: Positional inputs.
        kwargs: Keyword inputs.
        method: As for `capture`.

    Returns:
        The graph, or None.
    """
    try:
        return capture(model, args, kwargs, method, training=True)
    except Exception:  # ruff: ignore[blind-except] - the model's code may raise anything; this graph is optional
        return None


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelGraph:
    from torch.export.graph_signature import InputKind  # ruff: ignore[import-outside-top-level] - half a second

    program = torch.export.export(model, args, kwargs, strict=False)
    program.graph_module.graph.eliminate_dead_code()  # values whose shape alone was used
    names = {id(tensor): name for name, tensor in named_tensors(model).items()}  # tied tensors share one name
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


def _use_grouped_products(model: nn.Module) -> None:
    """Make `transformers` models compute all experts with grouped matrix products, which leave experts free.

    A loop over experts, the same function, would fix their order. Only the traced copy is changed.
    """
    for module in model.modules():
        choose = getattr(type(module), "set_experts_implementation", None)
        if choose is not None:
            with suppress(ValueError, RuntimeError, ImportError):  # not supported by this class or device
                choose(module, "grouped_mm")


def _execute(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelGraph:
    observer = _UseObserver()
    try:
        graph = _record(model, args, kwargs, observer, gradients=False)
    except RuntimeError:
        if not observer.differentiates:
            raise
    else:
        if not observer.differentiates:
            return graph
    # The operators of a backward pass are recorded only below the autograd dispatch key.
    return _record(model, args, kwargs, _UseObserver(), gradients=True)


def _record(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], observer: _UseObserver, *, gradients: bool
) -> ModelGraph:
    from torch.fx.experimental.proxy_tensor import make_fx  # ruff: ignore[import-outside-top-level] - half a second

    tensors = {name: tensor.detach() for name, tensor in named_tensors(model).items()}
    parameters = {name for name, _ in model.named_parameters()}
    if gradients:
        for name in parameters:
            tensors[name].requires_grad_(tensors[name].is_floating_point() or tensors[name].is_complex())
    leaves, rebuild = tree_flatten((args, kwargs))

    def function(tensors: dict[str, Tensor], leaves: list[Any]) -> list[Any]:
        inner_args, inner_kwargs = rebuild(leaves)
        with observer:
            output = functional_call(model, tensors, inner_args, inner_kwargs)
        return [*tree_tensors(output), *observer.read]

    with torch.set_grad_enabled(gradients):
        made = make_fx(function, tracing_mode="real", pre_dispatch=not gradients, _error_on_data_dependent_ops=False)
        module = made(tensors, leaves)
    module.graph.eliminate_dead_code(is_impure_node=_is_kept)
    _mark_unknown_constants(model, module)
    placeholders = [node.name for node in module.graph.nodes if node.op == "placeholder"]
    sources: list[str | None] = [*tensors, *(None for _ in leaves)]
    return ModelGraph(module, dict(zip(placeholders, sources, strict=True)), {})


def _is_kept(node: Node) -> bool:
    """Return whether to keep a node without users: Python may have read its value and branched on it."""
    return node.op in {"placeholder", "output"} or node.is_impure() or str(node.target).startswith("aten.item")


def _mark_unknown_constants(model: nn.Module, module: GraphModule) -> None:
    """Mark tensors that are neither literals nor attributes of the model; equal values may be a coincidence."""
    known = {id(value) for owner in model.modules() for value in vars(owner).values() if isinstance(value, Tensor)}
    for node in module.graph.nodes:
        if node.op != "get_attr":
            continue
        literal = any("lift_fresh" in str(user.target) for user in node.users)
        node.meta["unknown"] = not literal and id(getattr(module, str(node.target), None)) not in known


@final
class _UseObserver(TorchFunctionMode):
    """Observes uses of tensors that a recorded graph does not contain.

    Attributes:
        read: Tensors whose values Python or NumPy read, because the rest of the execution may depend on these values;
            and the records of lookups by tensors without dimensions, whose values PyTorch reads.
        differentiates: Whether the model computes gradients in its forward pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read: list[Tensor] = []
        self.differentiates = False

    @override
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        name = getattr(func, "__name__", "")
        if name in _READS and args and isinstance(args[0], Tensor):
            self.read.append(args[0])
        if name in _SUBSCRIPTS:
            self.read += looked_up(args[0], args[1])
        if (name in _DIFFERENTIATIONS and "autograd" in str(getattr(func, "__module__", ""))) or name == "backward":
            self.differentiates = True
        return func(*args, **(kwargs or {}))


_READS = frozenset({"numpy", "tolist", "__array__", "__dlpack__", "data_ptr"})
_SUBSCRIPTS = frozenset({"__getitem__", "__setitem__"})
_DIFFERENTIATIONS = frozenset({"grad", "backward"})
