"""The products of inputs with parameters that a model computes, seen while it runs, whatever modules it is made of."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.evaluation.functional import FunctionalModel

_MATRIX = _OPERANDS = 2
# Functions with a weight [outputs, inputs, ...] as second argument: where their outputs stand, from the end.
_LAYERS: dict[Any, int] = {functional.linear: -1, functional.conv1d: -2, functional.conv2d: -3, functional.conv3d: -4}
_MATMULS = {torch.matmul, torch.mm, torch.Tensor.matmul, torch.Tensor.mm, torch.Tensor.__matmul__}
_ADDED = {torch.addmm, torch.Tensor.addmm}
_GETTERS: tuple[Any, ...] = (torch.Tensor.T, torch.Tensor.mT)
_VIEWS = {
    torch.t, torch.transpose, torch.Tensor.t, torch.Tensor.transpose, torch.Tensor.permute, torch.permute,
    *(getter.__get__ for getter in _GETTERS),
}  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class WeightProduct:
    """A product of something with a weight.

    Attributes:
        name: The weight's.
        axis: The number of its axis along which the output's units stand.
        dim: The dimension of the output where they stand, from the end.
    """

    name: str
    axis: int
    dim: int

    def by_unit(self, output: Tensor) -> Tensor:
        """Return an output with its units first.

        Args:
            output: The product.

        Returns:
            ``[units, everything else]``, a view where possible.
        """
        return output.movedim(self.dim, 0).flatten(1)


@final
class ProductWatch(TorchFunctionMode):
    """While it is entered, tells of every product with a weight: layers, ``x @ weight``, ``weight @ x``, ``einsum``.

    Args:
        tensors: The model's tensors by name.
        seen: Is given each product and its output, and returns what the model goes on with.
    """

    def __init__(self, tensors: Mapping[str, Tensor], seen: Callable[[WeightProduct, Tensor], Tensor]) -> None:
        super().__init__()
        # Of each tensor, also transposed: its name, and its axes in order. Kept alive, so that no id is given twice.
        self._known = {id(t): (t, name, tuple(range(t.dim()))) for name, t in tensors.items() if t.dim() >= _MATRIX}
        self._seen = seen

    @override
    def __torch_function__(
        self, func: Any, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        output = func(*args, **(kwargs or {}))
        if func in _VIEWS:
            self._note_view(args, output)
            return output
        product = self._product(func, args, kwargs or {})
        return output if product is None else self._seen(product, output)

    def _weight(self, value: object) -> tuple[str, tuple[int, ...]]:
        """Return the name of a weight and the numbers of its axes, in the order of the tensor; empty for others."""
        _, name, axes = self._known.get(id(value), (None, "", ()))
        return name, axes

    def _note_view(self, args: Sequence[Any], output: Tensor) -> None:
        name, axes = self._weight(args[0])
        if len(axes) == _MATRIX and output.stride() == args[0].stride()[::-1]:
            self._known[id(output)] = output, name, axes[::-1]

    def _product(self, func: object, args: Sequence[Any], kwargs: Mapping[str, Any]) -> WeightProduct | None:
        if func in _LAYERS:
            name, axes = self._weight(kwargs.get("weight", args[1] if len(args) > 1 else None))
            return WeightProduct(name, axes[0], _LAYERS[func]) if name else None
        if func in _MATMULS or func in _ADDED:
            (left, left_axes), (right, right_axes) = map(self._weight, args[-2:])
            if right and not left:
                return WeightProduct(right, right_axes[-1], -1) if len(right_axes) == _MATRIX else None
            return WeightProduct(left, left_axes[0], -2) if len(left_axes) == _MATRIX else None
        return self._contraction(args) if func is torch.functional.einsum else None

    def _contraction(self, args: Sequence[Any]) -> WeightProduct | None:
        """Return the product that ``einsum`` computes, if one of two operands is a weight with one axis of its own."""
        equation, operands = args[0], args[1:]
        if not isinstance(equation, str) or "->" not in equation or "." in equation or len(operands) != _OPERANDS:
            return None
        (*terms, result) = equation.replace(" ", "").replace("->", ",").split(",")
        for weight, letters, others in ((operands[0], *terms), (operands[1], *terms[::-1])):
            name, axes = self._weight(weight)
            own = [letter for letter in letters if letter in result and letter not in others]
            if name and len(own) == 1:
                return WeightProduct(name, axes[letters.index(own[0])], result.index(own[0]) - len(result))
        return None


def products_computed_once(
    model: FunctionalModel, inputs: Tensor, tensors: Mapping[str, Tensor]
) -> list[WeightProduct]:
    """Return the products with weights that each stand in one product of a forward pass, in order.

    Args:
        model: The model.
        inputs: A small batch.
        tensors: Parameters and buffers to run it at; not changed.

    Returns:
        The products.
    """
    found: list[WeightProduct] = []

    def note(product: WeightProduct, output: Tensor) -> Tensor:
        found.append(product)
        return output

    # Copies, since a pass in training mode updates normalisation statistics in place.
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    with torch.no_grad(), ProductWatch(copies, note):
        model(copies, inputs)
    counts = Counter(product.name for product in found)
    return [product for product in found if counts[product.name] == 1]
