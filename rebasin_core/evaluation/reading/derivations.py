"""Propagation of axes through functions of tensors that do not depend on the model's inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from rebasin_core.evaluation.reading.functions import is_pointwise
from rebasin_core.evaluation.reading.origins import Axes, NamedAxis, Origin, shares_memory, viewed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from rebasin_core.evaluation.reading.labels import LabelledProduct

# Functions that copy the values of their first argument, possibly to another dtype or device.
COPIES = frozenset({
    "clone", "contiguous", "to", "type", "type_as", "float", "double", "half", "bfloat16", "detach", "data",
    "requires_grad", "alias", "cpu", "cuda", "as_subclass",
})  # fmt: skip
# Functions that use the shape or dtype of a tensor argument, but not its values.
LIKE_FUNCTIONS = frozenset({
    "to", "type_as", "expand_as", "view_as", "reshape_as", "zeros_like", "ones_like", "empty_like", "full_like",
    "rand_like", "randn_like", "new_zeros", "new_ones", "new_empty", "new_full", "new_tensor",
})  # fmt: skip
_RESHAPES = frozenset({"reshape", "reshape_as", "view_as", "flatten"})
# Functions that preserve the order of dimensions, or reduce some of them to length 1.
_AXIS_BY_AXIS = frozenset({
    "linalg_vector_norm", "norm", "sum", "mean", "var", "std", "amax", "amin", "prod", "logsumexp", "softmax",
    "log_softmax", "cumsum", "flip", "roll", "dropout", "renorm",
})  # fmt: skip
_WEIGHT_NORM = "_weight_norm"  # norm times direction, broadcast
_LOOKUPS = frozenset({"embedding", "getitem", "index_select"})
_NORMALIZATIONS = frozenset({"batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm"})
_REPEATS = frozenset({"repeat", "tile", "repeat_interleave"})
_JOINS = frozenset({"cat", "concat", "concatenate"})


def derived(name: str, operands: Sequence[tuple[Origin, Tensor]], output: Tensor, dim: int) -> Origin:
    """Return the origin of the output of a function of tensors that do not depend on the model's inputs.

    Args:
        name: Name of the function.
        operands: Its tensor arguments with their origins, in order.
        output: A tensor that it returns.
        dim: Its argument ``dim``, for ``stack``.

    Returns:
        The origin; with unknown axes if the function is not supported.
    """
    made = [(origin, tensor) for origin, tensor in operands if origin.names]
    if not made:
        return Origin.constant(output)
    kept = _kept(name, made[0], output) if len(operands) == 1 or name in LIKE_FUNCTIONS else None
    if kept is not None:
        return kept
    names = frozenset[str]().union(*(origin.names for origin, _ in made))
    if output.numel() == 1:  # a scalar: it reduces all axes in the same way
        return Origin(_no_axes(output), names, how=f"through {name}")
    axes = _axes(name, made, output, dim) if all(origin.is_known for origin, _ in made) else None
    if axes is None:
        return Origin(_no_axes(output), names, how=f"through {name}", is_known=False)
    return Origin(axes, names, summed=_summed(origin for origin, _ in made), how=f"through {name}")


def multiplied(origins: Sequence[Origin], labels: LabelledProduct, output: Tensor) -> Origin:
    """Return the origin of a product of tensors that do not depend on the model's inputs.

    Args:
        origins: Origins of the factors.
        labels: Labels of the product.
        output: The product.

    Returns:
        The origin. Axes that are summed over are in `Origin.summed`: either of two parameters may read the other.
    """
    names = frozenset[str]().union(*(origin.names for origin in origins))
    if not names:
        return Origin.constant(output)
    is_known = all(origin.is_known for origin in origins)
    if output.numel() == 1 or not is_known:
        return Origin(_no_axes(output), names, how="through a product", is_known=is_known)
    by_label: dict[str, frozenset[NamedAxis]] = {}
    summed = _summed(origins)
    computed = set("".join(labels.output))
    for origin, factor_labels in zip(origins, labels.factors, strict=True):
        for axes, label in zip(origin.axes, factor_labels, strict=True):
            by_label[label] = by_label.get(label, frozenset()) | axes
            if label and not set(label) & computed:
                summed |= axes
    along = tuple(by_label.get(label, frozenset()) for label in labels.output)
    return Origin(along, names, summed=summed, how="through a product")


def _kept(name: str, operand: tuple[Origin, Tensor], output: Tensor) -> Origin | None:
    """Return the origin of a view or a copy of one tensor; None if it is neither."""
    origin, tensor = operand
    if shares_memory(tensor, output):
        return viewed(origin, tensor, output)
    if name in COPIES and tensor.shape == output.shape:
        return origin
    if name in _RESHAPES:  # a copy: the output is a view of a contiguous copy
        copy = torch.empty(tensor.shape, device="meta")
        return replace(viewed(origin, copy, copy.view(output.shape)), source=None, order=(), how="reshaped")
    return None


def _axes(name: str, made: Sequence[tuple[Origin, Tensor]], output: Tensor, dim: int) -> Axes | None:
    """Return the axes along each dimension of the output of a function; None if it is not supported."""
    origin, tensor = made[0]
    axes: Axes | None = None
    if is_pointwise(name) or name == _WEIGHT_NORM or (name in _AXIS_BY_AXIS and _is_reduced(tensor, output)):
        axes = _broadcast(made, output.dim())
    elif name in _LOOKUPS:
        axes = _looked_up(origin, tensor, output)
    elif name in _NORMALIZATIONS:
        axes = _normalized(made, output, is_last=name in {"layer_norm", "rms_norm"})
    elif name in _REPEATS:
        axes = _broadcast(made[:1], output.dim())
    elif name in _JOINS:
        axes = _broadcast(made, output.dim(), joined=True)
    elif name == "stack":
        inner = _broadcast(made, output.dim() - 1)
        position = dim % output.dim()
        axes = (*inner[:position], frozenset(), *inner[position:])
    return axes


def _no_axes(tensor: Tensor) -> Axes:
    return (frozenset(),) * tensor.dim()


def _summed(origins: Iterable[Origin]) -> frozenset[NamedAxis]:
    return frozenset[NamedAxis]().union(*(origin.summed for origin in origins))


def _is_reduced(tensor: Tensor, output: Tensor) -> bool:
    """Return whether the shapes of two tensors are equal except for dimensions of length 1 in the second."""
    return tensor.dim() == output.dim() and all(
        size in {1, old} for size, old in zip(output.shape, tensor.shape, strict=True)
    )


def _looked_up(origin: Origin, table: Tensor, output: Tensor) -> Axes:
    """Return the axes along the output of a lookup, whose last dimensions are those of the table except the first."""
    axes = [*_no_axes(output)]
    for k in range(1, min(table.dim() - 1, output.dim()) + 1):
        if table.shape[-k] == output.shape[-k]:
            axes[-k] = origin.axes[-k]
    return tuple(axes)


def _normalized(made: Sequence[tuple[Origin, Tensor]], output: Tensor, *, is_last: bool) -> Axes:
    """Return the axes along a normalized tensor; scales and shifts act on its second or last dimensions."""
    axes = [*_broadcast(made[:1], output.dim())]
    for origin, tensor in made[1:]:
        if is_last:
            axes = [old | new for old, new in zip(axes, _broadcast([(origin, tensor)], output.dim()), strict=True)]
        elif tensor.dim() == 1 < output.dim():
            axes[1] |= origin.axes[0]
    return tuple(axes)


def _broadcast(made: Sequence[tuple[Origin, Tensor]], rank: int, *, joined: bool = False) -> Axes:
    """Return the axes along each of `rank` dimensions of broadcast (or concatenated) tensors."""
    axes: list[frozenset[NamedAxis]] = [frozenset()] * rank
    for origin, tensor in made:
        for k in range(1, tensor.dim() + 1):
            if tensor.shape[-k] > 1 or joined:
                axes[-k] |= origin.axes[-k]
    return tuple(axes)
