"""Interception of the products of a running model: observe their outputs, or compute them differently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, final

from torch import Tensor
from typing_extensions import override

from rebasin_core.evaluation.reading.derivations import COPIES
from rebasin_core.evaluation.reading.functions import (
    AbstractFunctionMode,
    argument,
    function_name,
    with_arguments,
)
from rebasin_core.evaluation.reading.origins import Origin, shares_memory, viewed
from rebasin_core.evaluation.reading.products import PRODUCTS, ProductFunction

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rebasin_core.evaluation.reading.functions import Slot
    from rebasin_core.evaluation.reading.uses import WeightUse

OnProduct: TypeAlias = "Callable[[WeightUse, Product], Tensor]"
OnOutput: TypeAlias = "Callable[[WeightUse, Tensor], Tensor]"


@final
@dataclass(frozen=True, slots=True)
class Product:
    """A product of activations with a weight, before it is computed.

    Attributes:
        use: The entry of the `ModelReading` for this product.
        function: The function that computes it.
        args: Positional arguments of the function.
        kwargs: Keyword arguments of the function.
        slots: Locations of activations, weight and bias among the arguments; the last is None without a bias.
        order: Axis of the weight along each dimension of the weight argument; None for new dimensions of length 1.
    """

    use: WeightUse
    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    slots: tuple[Slot, Slot, Slot | None]
    order: tuple[int | None, ...]

    @property
    def inputs(self) -> Tensor:
        """The activations."""
        inputs: Tensor = argument(self.args, self.kwargs, self.slots[0])
        return inputs

    def output(self, inputs: Tensor | None = None) -> Tensor:
        """Compute the product.

        Args:
            inputs: Activations to use instead; those of the call if None.

        Returns:
            The output of the function.
        """
        args, kwargs = with_arguments(self.args, self.kwargs, {} if inputs is None else {self.slots[0]: inputs})
        output: Tensor = self.function(*args, **kwargs)
        return output

    def output_with(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the product with other activations, another weight and another bias.

        Args:
            inputs: Activations.
            weight: Weight, in the shape of the parameter.
            bias: One value per unit, or None.

        Returns:
            The product plus the bias.
        """
        values: dict[Slot, object] = {self.slots[0]: inputs, self.slots[1]: self._arranged(weight)}
        slot = self.slots[2]
        if slot is not None:
            values[slot] = None if bias is None else bias.reshape(argument(self.args, self.kwargs, slot).shape)
            if bias is None and not PRODUCTS[function_name(self.function)[0]].has_weight:
                values[slot] = inputs.new_zeros(())  # `addmm` requires the argument
        args, kwargs = with_arguments(self.args, self.kwargs, values)
        product: Tensor = self.function(*args, **kwargs)
        return product if slot is not None or bias is None else product + self.use.along_units(bias)

    def variance(self, weight: Tensor | None, bias: Tensor | None) -> Tensor | None:
        r"""Return the variance of the output for independent weights and biases: $\Sigma_W x^2 + \sigma_b^2$.

        Args:
            weight: Variances of the weight; None if it is not random.
            bias: Variances of the bias; None if it is not random.

        Returns:
            Variances, broadcastable to the output; None if neither is random.
        """
        if weight is None:
            return None if bias is None else self.use.along_units(bias)
        return self.output_with(self.inputs.square(), weight, bias)

    def _arranged(self, weight: Tensor) -> Tensor:
        """Return a tensor of the parameter's shape in the layout of the weight argument."""
        given: Tensor = argument(self.args, self.kwargs, self.slots[1])
        if self.order == tuple(range(weight.dim())):
            return weight.to(given.dtype)
        order = [number for number in self.order if number is not None]
        missing = [number for number in range(weight.dim()) if number not in order]
        return weight.permute(*order, *missing).reshape(given.shape).to(given.dtype)


@final
class Interception(AbstractFunctionMode):
    """Context manager that calls functions for the products of some weights, and for their outputs.

    Args:
        uses: The products, as from a `ModelReading`; one for each weight.
        tensors: The parameters and buffers that the model is run with, by name.
        on_product: Called with each product before it is computed; returns the output of the product.
        on_output: Called with each output after its bias is added; returns the output that the model uses.
    """

    def __init__(
        self,
        uses: Sequence[WeightUse],
        tensors: Mapping[str, Tensor],
        *,
        on_product: OnProduct | None = None,
        on_output: OnOutput | None = None,
    ) -> None:
        super().__init__()
        self._on_product = on_product
        self._on_output = on_output
        self._uses = {use.name: use for use in uses}
        names = [name for use in uses for name in use.parameter_names]
        # References to the tensors prevent the reuse of their ids.
        self._weights = {id(tensors[name]): (tensors[name], Origin.of(name, tensors[name])) for name in names}
        self._products: dict[int, tuple[Tensor, WeightUse]] = {}

    @override
    def _is_entered(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        # A function uses a known tensor only if it is among the arguments.
        values = [item for value in (*args, *kwargs.values()) for item in _items(value)]
        return any(id(item) in self._weights or id(item) in self._products for item in values)

    @override
    def _call(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        name, _ = function_name(func)
        function = PRODUCTS.get(name)
        product = None if function is None else self._product(function, func, args, kwargs)
        if product is not None:
            output = product.output() if self._on_product is None else self._on_product(product.use, product)
            return self._seen(product.use, output)
        output = func(*args, **kwargs)
        first = id(args[0]) if args else 0
        if first in self._weights or first in self._products or (name == "add" and self._products):
            return self._follow(name, [*args, *kwargs.values()], output)
        return output

    def _product(
        self, function: ProductFunction, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Product | None:
        """Return the product that a call computes; None unless one of its factors is a known weight."""
        slots = function.slots(args, kwargs) or ()
        for index, slot in enumerate(slots):
            origin = self._origin(argument(args, kwargs, slot))
            use = None if origin is None or origin.source is None else self._uses.get(origin.source)
            if origin is not None and use is not None:
                bias = None if use.bias is None or use.bias_is_separate else function.bias_slot(args, kwargs)
                return Product(use, func, args, kwargs, (slots[0 if index else 1], slot, bias), origin.order)
        return None

    def _origin(self, value: object) -> Origin | None:
        known = self._weights.get(id(value))
        return None if known is None else known[1]

    def _seen(self, use: WeightUse, output: Tensor) -> Tensor:
        """Return the output of a product for the model; `on_output` is deferred if a separate bias follows."""
        if self._on_output is None:
            return output
        if not use.bias_is_separate:
            return self._on_output(use, output)
        self._products[id(output)] = output, use
        return output

    def _follow(self, name: str, values: Sequence[Any], output: Any) -> Any:  # ruff: ignore[any-type]
        """Track weights and products through views, and added biases; return the output for the model."""
        if name == "add" and self._products and self._on_output is not None:
            for first, second in (values[:2], values[1::-1]):
                product = self._products.get(id(first))
                origin = self._origin(second)
                if product is not None and origin is not None and origin.source == product[1].bias:
                    return self._on_output(product[1], output)
        first = values[0]
        origin = self._origin(first)
        product = self._products.get(id(first))
        if isinstance(output, Tensor) and output is not first and (origin is not None or product is not None):
            is_view = shares_memory(first, output)
            if product is not None and is_view:
                self._products[id(output)] = output, product[1]
            if origin is not None and is_view:
                self._weights[id(output)] = output, viewed(origin, first, output)
            elif origin is not None and name in COPIES and first.shape == output.shape:
                self._weights[id(output)] = output, origin
        return output


def _items(value: object) -> Sequence[object]:
    """Return the items of a list or tuple, or a tuple of the value itself."""
    return value if isinstance(value, list | tuple) else (value,)
