"""Taking part in the products of a running model: seeing their outputs, and computing them in another way."""

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
        use: What the reading says of it.
        function: The function.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        slots: Where the activations, the weight, and the bias are; None without a bias.
        order: The numbers of the weight's axes along the dimensions of the argument; None for new ones.
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
        found: Tensor = argument(self.args, self.kwargs, self.slots[0])
        return found

    def output(self, inputs: Tensor | None = None) -> Tensor:
        """Return the product.

        Args:
            inputs: Other activations.

        Returns:
            What the function returns.
        """
        args, kwargs = with_arguments(self.args, self.kwargs, {} if inputs is None else {self.slots[0]: inputs})
        found: Tensor = self.function(*args, **kwargs)
        return found

    def output_with(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the product of other activations with another weight, plus another bias.

        Args:
            inputs: The activations.
            weight: Of the shape of the weight.
            bias: As many values as units, or None.

        Returns:
            The product.
        """
        values: dict[Slot, object] = {self.slots[0]: inputs, self.slots[1]: self._arranged(weight)}
        slot = self.slots[2]
        if slot is not None:
            values[slot] = None if bias is None else bias.reshape(argument(self.args, self.kwargs, slot).shape)
            if bias is None and not PRODUCTS[function_name(self.function)[0]].has_weight:
                values[slot] = inputs.new_zeros(())  # what is added to a matrix product cannot be left out
        args, kwargs = with_arguments(self.args, self.kwargs, values)
        found: Tensor = self.function(*args, **kwargs)
        return found if slot is not None or bias is None else found + self.use.along_units(bias)

    def variance(self, weight: Tensor | None, bias: Tensor | None) -> Tensor | None:
        r"""Return the variance of the output, when weights and biases are independent: $\Sigma_W x^2 + \sigma_b^2$.

        Args:
            weight: The variances of the weight; None if it is not random.
            bias: The variances of the bias; None if it is not random.

        Returns:
            The variances, broadcastable to the output; None if nothing is random.
        """
        if weight is None:
            return None if bias is None else self.use.along_units(bias)
        return self.output_with(self.inputs.square(), weight, bias)

    def _arranged(self, weight: Tensor) -> Tensor:
        """Return a tensor of the weight's shape, arranged as the function takes it."""
        given: Tensor = argument(self.args, self.kwargs, self.slots[1])
        if self.order == tuple(range(weight.dim())):
            return weight.to(given.dtype)
        order = [number for number in self.order if number is not None]
        missing = [number for number in range(weight.dim()) if number not in order]
        return weight.permute(*order, *missing).reshape(given.shape).to(given.dtype)


@final
class Interception(AbstractFunctionMode):
    """While it is entered, hands over every product with some weights, and its output.

    Args:
        uses: The products, as from a `ModelReading`; of each weight one.
        tensors: The tensors that the model is run with, by name.
        on_product: Is given every product before it is computed, and returns what it returns.
        on_output: Is given every output, with its bias, and returns what the model goes on with.
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
        # Tensors are kept alive so that no identity is given twice.
        self._weights = {id(tensors[name]): (tensors[name], Origin.of(name, tensors[name])) for name in names}
        self._products: dict[int, tuple[Tensor, WeightUse]] = {}

    @override
    def _is_entered(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        # A function meets a known tensor inside only if it is given one.
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
        """Return the product that is computed, if it is one with a known weight."""
        slots = function.slots(args, kwargs) or ()
        for number, slot in enumerate(slots):
            origin = self._origin(argument(args, kwargs, slot))
            use = None if origin is None or origin.source is None else self._uses.get(origin.source)
            if origin is not None and use is not None:
                bias = None if use.bias is None or use.bias_is_separate else function.bias_slot(args, kwargs)
                return Product(use, func, args, kwargs, (slots[0 if number else 1], slot, bias), origin.order)
        return None

    def _origin(self, value: object) -> Origin | None:
        known = self._weights.get(id(value))
        return None if known is None else known[1]

    def _seen(self, use: WeightUse, output: Tensor) -> Tensor:
        """Return what the model goes on with after a product; a bias that is yet to come is waited for."""
        if self._on_output is None:
            return output
        if not use.bias_is_separate:
            return self._on_output(use, output)
        self._products[id(output)] = output, use
        return output

    def _follow(self, name: str, values: Sequence[Any], output: Any) -> Any:  # ruff: ignore[any-type]
        """Follow weights and products through views, and biases that are added; return what the model goes on with."""
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
    """Return the items of a list or tuple, or a value itself as the only one."""
    return value if isinstance(value, list | tuple) else (value,)
