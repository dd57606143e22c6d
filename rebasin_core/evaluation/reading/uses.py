"""What each weight is to a model: a value that is read once, from one execution."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from rebasin_core.evaluation.reading.labels import Role

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.evaluation.reading.origins import NamedAxis
    from rebasin_core.evaluation.reading.products import ProductKind

_MATRIX = 2


@final
@dataclass(frozen=True, slots=True)
class WeightUse:
    """One product of activations with a whole weight.

    Attributes:
        name: The weight.
        output_axis: The number of its axis that runs along the units of the output; None if there is no such axis, or
            the units lie on several.
        input_axes: The numbers of its axes that are summed over together with the activations.
        bias: The parameter that is added to the product, by the same function or the next one, one value a unit.
        unit_dim: The dimension of the output where the units are, from the end; of the sum with the bias, if it is
            added by a function of its own.
        product_dim: The same for the product before a bias is added.
        input_dim: The dimension of the activations that is summed over, from the end; None unless there is one.
        kind: The kind of product.
        groups: The number of groups of a convolution.
        input_shape: The shape of the activations.
        output_shape: The shape of the product.
        bias_is_separate: Whether the bias is added by a function of its own.
        bias_is_clear: Whether the product's function adds nothing, or a parameter of its own.
        is_linear: Whether the product is linear in one tensor of activations and can be computed with other weights.
        is_batched: Whether the weight has an axis along which it is multiplied entry by entry, such as heads.
    """

    name: str
    output_axis: int | None
    input_axes: tuple[int, ...]
    bias: str | None
    unit_dim: int
    product_dim: int
    input_dim: int | None
    kind: ProductKind
    groups: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    bias_is_separate: bool
    bias_is_clear: bool
    is_linear: bool
    is_batched: bool

    @property
    def layer(self) -> str:
        """The name of the layer: that of the weight, without the ending ``.weight``."""
        return self.name.removesuffix(".weight")

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The names of the weight and the bias."""
        return (self.name,) if self.bias is None else (self.name, self.bias)

    def is_one_row_an_example(self, rows: int) -> bool:
        """Return whether every example meets the weight once, with its own row of activations.

        Args:
            rows: The number of examples in the batch.

        Returns:
            Whether input and output are ``[rows, features]``.
        """
        return (
            self.kind == "dense"
            and len(self.input_shape) == len(self.output_shape) == _MATRIX
            and self.input_shape[0] == self.output_shape[0] == rows
            and self.input_dim == self.product_dim == -1
        )

    def has_examples_first(self, rows: int) -> bool:
        """Return whether the first dimension of input and output is that of the examples.

        Args:
            rows: The number of examples in the batch.

        Returns:
            Whether it is, and neither is the one of the units.
        """
        inputs = len(self.input_shape)
        outputs = len(self.output_shape)
        return (
            self.input_shape[:1] == self.output_shape[:1] == (rows,)
            and self.input_dim != -inputs
            and self.product_dim != -outputs
        )

    def by_unit(self, output: Tensor) -> Tensor:
        """Return an output with its units first.

        Args:
            output: The output, with its bias.

        Returns:
            ``[units, everything else]``, a view where possible.
        """
        return output.movedim(self.unit_dim, 0).flatten(1)

    def along_units(self, values: Tensor) -> Tensor:
        """Return one value a unit, broadcastable to the product.

        Args:
            values: As many values as units, of any shape.

        Returns:
            A view.
        """
        return values.reshape(-1, *(1 for _ in range(-self.product_dim - 1)))

    def along_weight(self, values: Tensor, weight: Tensor) -> Tensor:
        """Return one value a unit, broadcastable to the weight.

        Args:
            values: ``[units]``.
            weight: The weight.

        Returns:
            A view.
        """
        shape = [1] * weight.dim()
        shape[self.output_axis or 0] = -1
        return values.reshape(shape)


@final
@dataclass(frozen=True, slots=True)
class ModelReading:
    """How a model uses its parameters and buffers.

    `FunctionalModel.reading` reads a model.

    Attributes:
        uses: The products with whole weights, in order.
        times: How often each parameter and buffer meets activations, in any function.
        roles: What each axis of each parameter and buffer does; empty where it does not meet activations.
        reasons: Why parameters that are multiplied with activations in another way than in `uses` are not there.
        last: The weights of the last product.
    """

    uses: tuple[WeightUse, ...]
    times: Mapping[str, int]
    roles: Mapping[str, tuple[frozenset[Role], ...]]
    reasons: Mapping[str, str]
    last: frozenset[str]

    @property
    def products(self) -> list[WeightUse]:
        """The products whose weight is in no other product, in order; their outputs have one unit a row."""
        counts = Counter(use.name for use in self.uses)
        return [
            use
            for use in self.uses
            if counts[use.name] == 1 and use.output_axis is not None and not use.is_batched
            if use.name not in self.reasons
        ]

    @property
    def layers(self) -> list[WeightUse]:
        """The products whose weight and bias are used nowhere else, so that they can be changed alone, in order."""
        return [use for use in self.products if self._why_shared(use) is None]

    @property
    def left_out(self) -> dict[str, str]:
        """The weights that are multiplied with activations and are not those of `layers`, and why."""
        layers = {use.name for use in self.layers}
        found = dict(self.reasons)
        for use in self.uses:
            if use.name not in layers and use.name not in found:
                found[use.name] = self._why_shared(use) or "its units are not those of one of its axes"
        return found

    def _why_shared(self, use: WeightUse) -> str | None:
        """Return why a product is no layer, if it is none."""
        for name in use.parameter_names:
            if self.times[name] > 1:
                return f"{'it' if name == use.name else f'its bias {name}'} is used {self.times[name]} times"
        if not use.bias_is_clear:
            return "what is added to the product is not a parameter of its own"
        return None if use.is_linear else f"the product is {use.kind}, or scaled"

    @property
    def input_axes(self) -> frozenset[NamedAxis]:
        """The axes along which parameters read units, and do nothing else."""
        return self._axes(frozenset({Role.INPUT}))

    @property
    def unclear_axes(self) -> frozenset[NamedAxis]:
        """The axes of which it is unknown, or ambiguous, whether units are read or computed along them."""
        unclear = {frozenset(roles) for held in self.roles.values() for roles in held}
        sets = [roles for roles in unclear if Role.UNKNOWN in roles or len(roles) > 1]
        return frozenset[tuple[str, int]]().union(*map(self._axes, sets))

    def _axes(self, wanted: frozenset[Role]) -> frozenset[NamedAxis]:
        return frozenset(
            (name, number) for name, held in self.roles.items() for number, roles in enumerate(held) if roles == wanted
        )
