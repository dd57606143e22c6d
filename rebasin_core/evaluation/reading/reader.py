"""Reading what each weight is to a model from one execution."""

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
# Functions besides pointwise ones through which axes of parameters become axes of activations.
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
    """Read how a model uses its parameters and buffers, from one execution.

    Args:
        call: Runs the model with given tensors on ``inputs``.
        tensors: Parameters and buffers; not changed.
        inputs: What the model is given: everything that depends on them is an activation.

    Returns:
        The reading.
    """
    # Copies: a pass in training mode updates normalization statistics in place.
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
        """The argument ``dim``, by keyword or second."""
        return self.kwargs.get("dim", self.args[1] if len(self.args) > 1 else None)


@final
@dataclass(frozen=True, slots=True)
class _Units:
    """A product to which a bias may yet be added: its number, and the dimension of its units from the end."""

    number: int
    dim: int


@final
class _Reader(AbstractFunctionMode):
    """Follows parameters and activations through an execution."""

    def __init__(self, tensors: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.ledger = Ledger(tensors)
        self.unseen = False
        # Tensors are kept alive so that no identity is given twice.
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
        """Return what a tensor is made of; nothing that is known for activations."""
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
                self._meet(call, self._origin(tensor), tensor)
        self._activate(call)
        self._follow_views(call)

    def _derive(self, call: _Call, tensors: Sequence[Tensor]) -> None:
        """Note what tensors are made of that a function makes without activations."""
        operands = [(self._origin(tensor), tensor) for tensor in tensors]
        dim = call.dim if isinstance(call.dim, int) else 0
        written = [*call.outputs, *(tensors[:1] if call.is_in_place else [])]
        for output in written:
            if call.is_in_place or id(output) not in {id(tensor) for tensor in tensors}:
                self._origins[id(output)] = derived(call.name, operands, output, dim)

    def _activate(self, call: _Call) -> None:
        """Note that what a function returns, or writes to, depends on the inputs."""
        for tensor in (*call.outputs, *(call.tensors[:1] if call.is_in_place else [])):
            self._origins.pop(id(tensor), None)
            self._active.add(id(tensor))

    def _meet(self, call: _Call, origin: Origin, tensor: Tensor) -> None:
        """Note that a tensor of parameters meets activations in a function that is no product."""
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
                    self.ledger.add_bias(units.number, origin.source, tensor, units.dim)
        else:
            self.ledger.assign(origin, [Role.UNKNOWN] * tensor.dim())
            if tensor.is_floating_point():
                self.ledger.explain(origin.names, f"it is used by {call.name}, which is not understood")

    def _follow_views(self, call: _Call) -> None:
        """Follow the units of products through views, and note factors that are summed over."""
        first = call.tensors[0]
        units = self._units.get(id(first))
        factor = self._factors.get(id(first))
        if units is not None and len(call.tensors) == 1:
            for output in (output for output in call.outputs if shares_memory(first, output)):
                covered = covered_dims(first, output)
                dims = [dim for dim, held in enumerate(covered) if first.dim() + units.dim in held]
                if len(dims) == 1 and len(covered[dims[0]]) == 1 and output.shape[dims[0]] == first.shape[units.dim]:
                    self._units[id(output)] = _Units(units.number, dims[0] - output.dim())
        if factor is not None and call.name == "sum":
            origin, rank = factor
            dims = [call.dim] if isinstance(call.dim, int) else list(call.dim or range(first.dim()))
            places = [rank - first.dim() + dim % first.dim() for dim in dims]
            for place in (place for place in places if place >= 0):
                self.ledger.assign_summed(origin.axes[place])

    def _follow_product(self, function: ProductFunction, call: _Call) -> bool:
        """Note a product; return whether it is understood."""
        slots = function.slots(call.args, call.kwargs)
        labels = function.labels(call.args, call.kwargs, call.outputs[0].dim())
        if slots is None or labels is None:
            return False
        factors: list[Tensor] = [argument(call.args, call.kwargs, slot) for slot in slots]
        unknown = {id(factor) for factor in factors} - self._active - self._origins.keys()
        made = [k for k, factor in enumerate(factors) if self._origin(factor).names]
        active = [k for k, factor in enumerate(factors) if id(factor) in self._active | unknown]
        if function.has_weight and not active and 1 in made:
            # What a layer is given are activations, even if they are parameters, such as learned queries.
            active = [k for k in range(len(factors)) if k != 1]
            self._put_out(*(factors[k] for k in active))
            made = [1]
        if not active:
            origins = [self._origin(factor) for factor in factors]
            self._origins[id(call.outputs[0])] = multiplied(origins, labels, call.outputs[0])
            return True
        self.unseen |= bool(unknown)
        for k in made:
            self.ledger.count(self._origin(factors[k]))
            self.ledger.assign(self._origin(factors[k]), labels.roles(k, active))
        slot = function.bias_slot(call.args, call.kwargs)
        bias = None if slot is None else argument(call.args, call.kwargs, slot)
        if isinstance(bias, Tensor):
            self._put_out(bias)
        self._activate(call)
        if made:
            self._note(_Product(function, call, labels, factors, bias), made, active)
        return True

    def _put_out(self, *tensors: Tensor) -> None:
        """Note that tensors become activations as they are."""
        for tensor in tensors:
            self.ledger.count(self._origin(tensor))
            self.ledger.assign(self._origin(tensor), [Role.OUTPUT] * tensor.dim())

    def _note(self, product: _Product, made: Sequence[int], active: Sequence[int]) -> None:
        """Note what a product of parameters with activations is to each weight."""
        origins = [self._origin(product.factors[k]) for k in made]
        self.ledger.finish(frozenset[str]().union(*(origin.names for origin in origins)))
        for k, origin in zip(made, origins, strict=True):
            if origin.source is None:
                along = {name for axes in origin.axes for name, _ in axes}
                self.ledger.explain(along or origin.names, f"it is used {origin.how}")
            elif len(made) > 1:
                self.ledger.explain(origin.names, "it is multiplied together with other parameters")
            else:
                use = product.use(origin, k, active, self._origin)
                number = self.ledger.add(use)
                if use.output_axis is not None and use.bias is None and use.bias_is_clear:
                    self._units[id(product.call.outputs[0])] = _Units(number, use.product_dim)


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
        """Return what the product is to the weight of a given number."""
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
            input_axes=_numbers(origin, [dim for dim, role in enumerate(roles) if role is Role.INPUT]),
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


def _numbers(origin: Origin, dims: Sequence[int]) -> tuple[int, ...]:
    """Return the numbers of the source's axes along some dimensions, in order."""
    numbers = [origin.order[dim] for dim in dims]
    return tuple(sorted(number for number in numbers if number is not None))


def _tensors_in(value: object) -> list[Tensor]:
    """Return the tensors in nested containers, in order."""
    if isinstance(value, Tensor):
        return [value]
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
