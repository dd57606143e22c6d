"""How a model uses its weights: the result of the analysis of one forward pass."""

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
    """A product of activations with a complete weight.

    Dimensions of activations and outputs are counted from the end (negative).

    Attributes:
        name: Name of the weight.
        output_axis: Axis of the weight along the units of the output; None if there is no such axis, or several.
        input_axes: Axes of the weight that are summed over together with the activations.
        bias: Name of the parameter with one value per unit that is added to the product, by the same function or a
            later one; None if there is none.
        unit_dim: Dimension of the units in the output, after a separate bias was added.
        product_dim: Dimension of the units in the product, before a separate bias is added.
        input_dim: Dimension of the activations that is summed over; None unless there is exactly one.
        kind: Type of the product.
        groups: Number of groups of a convolution.
        input_shape: Shape of the activations.
        output_shape: Shape of the product.
        bias_is_separate: Whether the bias is added by another function than the product.
        bias_is_clear: Whether the function of the product adds nothing, or a parameter with one value per unit.
        is_linear: Whether the product is linear in one tensor of activations and can be computed with other weights.
        is_batched: Whether an axis of the weight is multiplied entry by entry, such as heads.
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
        """Name of the layer: that of the weight without the suffix ``.weight``."""
        return self.name.removesuffix(".weight")

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the weight and, if there is one, the bias."""
        return (self.name,) if self.bias is None else (self.name, self.bias)

    def is_one_row_an_example(self, rows: int) -> bool:
        """Return whether each example is one row of the activations, so that it uses the weight once.

        Args:
            rows: Number of examples in the batch.

        Returns:
            Whether input and output of a dense product are ``[rows, features]``.
        """
        return (
            self.kind == "dense"
            and len(self.input_shape) == len(self.output_shape) == _MATRIX
            and self.input_shape[0] == self.output_shape[0] == rows
            and self.input_dim == self.product_dim == -1
        )

    def has_examples_first(self, rows: int) -> bool:
        """Return whether the first dimension of input and output is the batch dimension.

        Args:
            rows: Number of examples in the batch.

        Returns:
            Whether both have `rows` entries, and neither is a dimension of units.
        """
        inputs = len(self.input_shape)
        outputs = len(self.output_shape)
        return (
            self.input_shape[:1] == self.output_shape[:1] == (rows,)
            and self.input_dim != -inputs
            and self.product_dim != -outputs
        )

    def by_unit(self, output: Tensor) -> Tensor:
        """Return an output with the units as first dimension and all others flattened.

        Args:
            output: The output, including its bias.

        Returns:
            ``[units, n]``, a view if possible.
        """
        return output.movedim(self.unit_dim, 0).flatten(1)

    def along_units(self, values: Tensor) -> Tensor:
        """Reshape one value per unit to be broadcastable to the product.

        Args:
            values: One value per unit, of any shape.

        Returns:
            A view.
        """
        return values.reshape(-1, *(1 for _ in range(-self.product_dim - 1)))

    def along_weight(self, values: Tensor, weight: Tensor) -> Tensor:
        """Reshape one value per unit to be broadcastable to the weight.

        Args:
            values: One value per unit, ``[units]``.
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
    """How a model uses its parameters and buffers, as determined by `FunctionalModel.reading`.

    Attributes:
        uses: Products of activations with complete weights, in the order of execution.
        times: Number of operations with activations, by parameter or buffer.
        roles: Roles of each axis of each parameter and buffer; empty for those that are not used with activations.
        reasons: Reason, by name, why a parameter that is multiplied with activations is not among `uses`.
        last: Names of the weights of the last product.
    """

    uses: tuple[WeightUse, ...]
    times: Mapping[str, int]
    roles: Mapping[str, tuple[frozenset[Role], ...]]
    reasons: Mapping[str, str]
    last: frozenset[str]

    @property
    def products(self) -> list[WeightUse]:
        """Products whose weight is in no other product and has one axis of units, in the order of execution."""
        counts = Counter(use.name for use in self.uses)
        return [
            use
            for use in self.uses
            if counts[use.name] == 1 and use.output_axis is not None and not use.is_batched
            if use.name not in self.reasons
        ]

    @property
    def layers(self) -> list[WeightUse]:
        """Products whose weight and bias are used in no other operation, in the order of execution."""
        return [use for use in self.products if self._why_shared(use) is None]

    @property
    def excluded(self) -> dict[str, str]:
        """Reason, by name, why a weight that is multiplied with activations is not among `layers`."""
        layers = {use.name for use in self.layers}
        reasons = dict(self.reasons)
        for use in self.uses:
            if use.name not in layers and use.name not in reasons:
                reasons[use.name] = self._why_shared(use) or "no single axis runs along its units"
        return reasons

    def _why_shared(self, use: WeightUse) -> str | None:
        """Return the reason why a product is not among `layers`; None if it is."""
        for name in use.parameter_names:
            if self.times[name] > 1:
                return f"{'it' if name == use.name else f'its bias {name}'} is used {self.times[name]} times"
        if not use.bias_is_clear:
            return "the term added to the product is not a bias with one value per unit"
        return None if use.is_linear else f"the product is {use.kind}, or scaled"

    @property
    def input_axes(self) -> frozenset[NamedAxis]:
        """Axes along which parameters only read units."""
        return self._axes(frozenset({Role.INPUT}))

    @property
    def unclear_axes(self) -> frozenset[NamedAxis]:
        """Axes whose role is unknown or ambiguous."""
        combinations = {frozenset(roles) for axes in self.roles.values() for roles in axes}
        unclear = [roles for roles in combinations if Role.UNKNOWN in roles or len(roles) > 1]
        return frozenset[tuple[str, int]]().union(*map(self._axes, unclear))

    def _axes(self, wanted: frozenset[Role]) -> frozenset[NamedAxis]:
        return frozenset(
            (name, axis) for name, axes in self.roles.items() for axis, roles in enumerate(axes) if roles == wanted
        )
