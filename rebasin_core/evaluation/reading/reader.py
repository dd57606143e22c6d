"""Analysis of how a model uses its weights, from one forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor
from typing_extensions import override

from rebasin_core.evaluation.reading.derivations import LIKE_FUNCTIONS, derived, multiplied
from rebasin_core.evaluation.reading.functions import (
    AbstractFunctionMode,
    argument,
    function_name,
    is_pointwise,
)
from rebasin_core.evaluation.reading.labels import Role
from rebasin_core.evaluation.reading.ledger import Ledger, has_one_value_a_unit
from rebasin_core.evaluation.reading.origins import Origin, covered_dims, shares_memory
from rebasin_core.evaluation.reading.products import PRODUCTS, ProductFunction
from rebasin_core.evaluation.reading.uses import ModelReading, WeightUse
from rebasin_core.tensors.trees import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rebasin_core.evaluation.reading.labels import LabelledProduct

_PAIR = 2
# Functions, in addition to pointwise ones, whose outputs have the axes of their parameters.
_CARRYING = frozenset({
    "batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "embedding", "embedding_bag", "getitem",
    "index_select", "gather", "take_along_dim", "take", "cat", "concat", "concatenate", "stack", "setitem", "copy",
    "prelu", "pad", "outer",
})  # fmt: skip
_RECURRENT = frozenset({
    "lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell",
})  # fmt: skip


def read(
    call: Callable[[dict[str, Tensor]], object], tensors: Mapping[str, Tensor], inputs: Sequence[Tensor]
) -> ModelReading:
    """Determine how a model uses its parameters and buffers, from one forward pass.

    Args:
        call: Runs the model on ``inputs`` with the given parameters and buffers.
        tensors: Parameters and buffers by name; not changed.
        inputs: Inputs of the model; all tensors that depend on them are activations.

    Returns:
        The reading.
    """
    # Copies, because a pass in training mode updates normalization statistics in place.
    copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    reader = _Reader(copies, inputs)
    with torch.no_grad(), reader:
        call(copies)
    return reader.ledger.reading(unseen=reader.unseen)


@final
@dataclass(frozen=True, slots=True)
class _Call:
    """One call of a function, with the tensors among its arguments and results."""

    name: str
    is_in_place: bool
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    tensors: Sequence[Tensor]
    outputs: Sequence[Tensor]

    @property
    def dim(self) -> Any:  # ruff: ignore[any-type] - an integer, several, or something else
        """The argument ``dim``, by keyword or at the second position."""
        return self.kwargs.get("dim", self.args[1] if len(self.args) > 1 else None)


@final
@dataclass(frozen=True, slots=True)
class _Units:
    """A product to which a bias may be added later: its index, and the (negative) dimension of its units."""

    index: int
    dim: int


@final
class _Reader(AbstractFunctionMode):
    """Tracks parameters and activations through a forward pass."""

    def __init__(self, tensors: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.ledger = Ledger(tensors)
        self.unseen = False
        # References to the tensors prevent the reuse of their ids.
        self._kept: list[Tensor] = [*tensors.values(), *inputs]
        self._origins = {id(tensor): Origin.of(name, tensor) for name, tensor in tensors.items()}
        self._active = {id(tensor) for tensor in inputs}
        self._units: dict[int, _Units] = {}
        self._factors: dict[int, tuple[Origin, int]] = {}

    @override
    def _call(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        output = func(*args, **kwargs)
        name, is_in_place = function_name(func)
        outputs = _tensors_in(output)
        if outputs or is_in_place:
            tensors = _tensors_in([list(args), dict(kwargs)])
            self._kept += [*tensors, *outputs]
            self._follow(_Call(name, is_in_place, args, kwargs, tensors, outputs))
        return output

    def _origin(self, tensor: Tensor) -> Origin:
        """Return the origin of a tensor; that of a constant for activations and unknown tensors."""
        return self._origins.get(id(tensor)) or Origin.constant(tensor)

    def _follow(self, call: _Call) -> None:
        function = PRODUCTS.get(call.name)
        if function is not None and self._follow_product(function, call):
            return
        tensors = call.tensors[:1] if call.name in LIKE_FUNCTIONS else call.tensors
        if not any(id(tensor) in self._active for tensor in tensors):
            self._derive(call, tensors)
            return
        for tensor in tensors:
            if self._origin(tensor).names:
                self._use(call, self._origin(tensor), tensor)
        self._activate(call)
        self._follow_views(call)

    def _derive(self, call: _Call, tensors: Sequence[Tensor]) -> None:
        """Record the origins of the outputs of a function without activations."""
        operands = [(self._origin(tensor), tensor) for tensor in tensors]
        dim = call.dim if isinstance(call.dim, int) else 0
        written = [*call.outputs, *(tensors[:1] if call.is_in_place else [])]
        for output in written:
            if call.is_in_place or id(output) not in {id(tensor) for tensor in tensors}:
                self._origins[id(output)] = derived(call.name, operands, output, dim)

    def _activate(self, call: _Call) -> None:
        """Record that the outputs of a function, and tensors it modifies, are activations."""
        for tensor in (*call.outputs, *(call.tensors[:1] if call.is_in_place else [])):
            self._origins.pop(id(tensor), None)
            self._active.add(id(tensor))

    def _use(self, call: _Call, origin: Origin, tensor: Tensor) -> None:
        """Record the use of parameters with activations in a function that is not a product."""
        self.ledger.count(origin)
        if call.name in _RECURRENT:
            self.ledger.assign(origin, [Role.OUTPUT, Role.INPUT][: tensor.dim()])
            if tensor.dim() > 1:
                self.ledger.explain(origin.names, f"it is used by {call.name}, step by step")
                self.ledger.finish(origin.names)
        elif call.name in _CARRYING or is_pointwise(call.name):
            self.ledger.assign(origin, [Role.OUTPUT] * tensor.dim())
            if call.name == "mul":
                self._factors |= {id(output): (origin, tensor.dim()) for output in call.outputs}
            if call.name == "add" and call.kwargs.get("alpha", 1) == 1 and origin.source is not None:
                for units in [self._units[id(other)] for other in call.tensors if id(other) in self._units]:
                    self.ledger.add_bias(units.index, origin.source, tensor, units.dim)
        else:
            self.ledger.assign(origin, [Role.UNKNOWN] * tensor.dim())
            if tensor.is_floating_point():
                self.ledger.explain(origin.names, f"it is used by {call.name}, which is not supported")

    def _follow_views(self, call: _Call) -> None:
        """Track the units of products through views, and record factors that are summed over."""
        first = call.tensors[0]
        units = self._units.get(id(first))
        factor = self._factors.get(id(first))
        if units is not None and len(call.tensors) == 1:
            for output in (output for output in call.outputs if shares_memory(first, output)):
                covered = covered_dims(first, output)
                dims = [dim for dim, along in enumerate(covered) if first.dim() + units.dim in along]
                if len(dims) == 1 and len(covered[dims[0]]) == 1 and output.shape[dims[0]] == first.shape[units.dim]:
                    self._units[id(output)] = _Units(units.index, dims[0] - output.dim())
        if factor is not None and call.name == "sum":
            origin, rank = factor
            dims = [call.dim] if isinstance(call.dim, int) else list(call.dim or range(first.dim()))
            summed = [rank - first.dim() + dim % first.dim() for dim in dims]
            for dim in (dim for dim in summed if dim >= 0):
                self.ledger.assign_summed(origin.axes[dim])

    def _follow_product(self, function: ProductFunction, call: _Call) -> bool:
        """Record a product; return whether it is supported."""
        slots = function.slots(call.args, call.kwargs)
        labels = function.labels(call.args, call.kwargs, call.outputs[0].dim())
        if slots is None or labels is None:
            return False
        factors: list[Tensor] = [argument(call.args, call.kwargs, slot) for slot in slots]
        unknown = {id(factor) for factor in factors} - self._active - self._origins.keys()
        weights = [k for k, factor in enumerate(factors) if self._origin(factor).names]
        active = [k for k, factor in enumerate(factors) if id(factor) in self._active | unknown]
        if function.has_weight and not active and 1 in weights:
            # The input of a layer counts as an activation even if it is a parameter, such as learned queries.
            active = [k for k in range(len(factors)) if k != 1]
            self._use_as_activations(*(factors[k] for k in active))
            weights = [1]
        if not active:
            origins = [self._origin(factor) for factor in factors]
            self._origins[id(call.outputs[0])] = multiplied(origins, labels, call.outputs[0])
            return True
        self.unseen |= bool(unknown)
        for k in weights:
            self.ledger.count(self._origin(factors[k]))
            self.ledger.assign(self._origin(factors[k]), labels.roles(k, active))
        slot = function.bias_slot(call.args, call.kwargs)
        bias = None if slot is None else argument(call.args, call.kwargs, slot)
        if isinstance(bias, Tensor):
            self._use_as_activations(bias)
        self._activate(call)
        if weights:
            self._record(_Product(function, call, labels, factors, bias), weights, active)
        return True

    def _use_as_activations(self, *tensors: Tensor) -> None:
        """Record that tensors of parameters are used as activations."""
        for tensor in tensors:
            self.ledger.count(self._origin(tensor))
            self.ledger.assign(self._origin(tensor), [Role.OUTPUT] * tensor.dim())

    def _record(self, product: _Product, weights: Sequence[int], active: Sequence[int]) -> None:
        """Record a product of weights with activations: a `WeightUse`, or the reason why there is none."""
        origins = [self._origin(product.factors[k]) for k in weights]
        self.ledger.finish(frozenset[str]().union(*(origin.names for origin in origins)))
        for k, origin in zip(weights, origins, strict=True):
            if origin.source is None:
                along = {name for axes in origin.axes for name, _ in axes}
                self.ledger.explain(along or origin.names, f"it is used {origin.how}")
            elif len(weights) > 1:
                self.ledger.explain(origin.names, "it is multiplied together with other parameters")
            else:
                use = product.use(origin, k, active, self._origin)
                index = self.ledger.add(use)
                if use.output_axis is not None and use.bias is None and use.bias_is_clear:
                    self._units[id(product.call.outputs[0])] = _Units(index, use.product_dim)


@final
@dataclass(frozen=True, slots=True)
class _Product:
    """A call of a product with its labels."""

    function: ProductFunction
    call: _Call
    labels: LabelledProduct
    factors: Sequence[Tensor]
    bias: object

    def use(
        self, origin: Origin, weight: int, active: Sequence[int], origin_of: Callable[[Tensor], Origin]
    ) -> WeightUse:
        """Return the use of the weight that is the factor with a given index."""
        units = self.labels.unit_dims(weight)
        product_dim = -1 if units is None else units[1]
        bias = self.bias
        output = self.call.outputs[0]
        inputs = self.factors[active[0]]
        own_bias: str | None = None
        if isinstance(bias, Tensor):
            size = output.shape[product_dim]
            is_own = bias.numel() == size if self.function.has_weight else has_one_value_a_unit(bias, product_dim, size)
            own_bias = origin_of(bias).source if is_own else None
        roles = self.labels.roles(weight, active)
        scaled = any(self.call.kwargs.get(name, 1) != 1 for name in ("alpha", "beta"))
        return WeightUse(
            name=str(origin.source),
            output_axis=None if units is None else origin.order[units[0]],
            input_axes=_source_axes(origin, [dim for dim, role in enumerate(roles) if role is Role.INPUT]),
            bias=own_bias,
            unit_dim=product_dim,
            product_dim=product_dim,
            input_dim=self.labels.read_dim(active[0], weight) if len(active) == 1 else None,
            kind=self.function.kind,
            groups=self.labels.groups,
            input_shape=tuple(inputs.shape),
            output_shape=tuple(output.shape),
            bias_is_separate=False,
            bias_is_clear=bias is None or own_bias is not None,
            is_linear=len(self.factors) == _PAIR and self.function.kind != "attention" and not scaled,
            is_batched=any(self.factors[weight].shape[dim] > 1 for dim in self.labels.batch_dims(weight)),
        )


def _source_axes(origin: Origin, dims: Sequence[int]) -> tuple[int, ...]:
    """Return the axes of the source along some dimensions, increasing."""
    axes = [origin.order[dim] for dim in dims]
    return tuple(sorted(axis for axis in axes if axis is not None))


def _tensors_in(value: object) -> list[Tensor]:
    """Return the tensors in nested containers, in order."""
    if isinstance(value, Tensor):
        return [value]
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
