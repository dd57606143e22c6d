"""PyTorch functions that compute products of tensors, with the labels of their dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, final

from rebasin_core.evaluation.reading.functions import Slot, argument
from rebasin_core.evaluation.reading.labels import BATCH, LabelledProduct, Labels

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

ProductKind: TypeAlias = Literal["dense", "convolution", "transposed convolution", "bilinear", "attention"]


@final
@dataclass(frozen=True, slots=True)
class ProductFunction:
    """A function that computes a product of tensors, such as a matrix product or a convolution.

    Attributes:
        kind: Type of the product, for messages and to select layers.
        signature: Names of its arguments, in order.
        factors: Names of the arguments that are multiplied; the second is the weight if `has_weight`.
        label: Returns the labels, given the factors, all arguments by name, and the number of output dimensions.
        bias: Name of the argument that is added; None if there is none.
        has_weight: Whether the second factor is a weight by the definition of the function.
    """

    kind: ProductKind
    signature: tuple[str, ...]
    factors: tuple[str, ...]
    label: Callable[[Sequence[Tensor], Mapping[str, Any], int], LabelledProduct | None]
    bias: str | None = None
    has_weight: bool = False

    def slots(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Slot, ...] | None:
        """Return the locations of the factors.

        Args:
            args: Positional arguments.
            kwargs: Keyword arguments.

        Returns:
            One location for each factor; None if one is missing.
        """
        if self.factors == ("operands",):
            return tuple((1, index) for index in range(len(args[1]))) if len(args) > 1 else None
        slots = [self._slot(name, args, kwargs) for name in self.factors]
        present = tuple(slot for slot in slots if slot is not None)
        return present if len(present) == len(slots) else None

    def bias_slot(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Slot | None:
        """Return the location of the bias.

        Args:
            args: Positional arguments.
            kwargs: Keyword arguments.

        Returns:
            The location; None if the function has no bias, or none is passed.
        """
        slot = None if self.bias is None else self._slot(self.bias, args, kwargs)
        return None if slot is None or argument(args, kwargs, slot) is None else slot

    def labels(self, args: Sequence[Any], kwargs: Mapping[str, Any], rank: int) -> LabelledProduct | None:
        """Return the labels of a call.

        Args:
            args: Positional arguments.
            kwargs: Keyword arguments.
            rank: Number of dimensions of the output.

        Returns:
            The labels; None if the call is not supported.
        """
        slots = self.slots(args, kwargs)
        if slots is None:
            return None
        named = dict(zip(self.signature, args, strict=False)) | dict(kwargs)
        return self.label([argument(args, kwargs, slot) for slot in slots], named, rank)

    def _slot(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Slot | None:
        if name in kwargs:
            return (name,)
        index = self.signature.index(name)
        return (index,) if index < len(args) else None


def _padded(labels: Labels, rank: int) -> Labels:
    """Return the labels of the last dimensions, preceded by `BATCH` for leading dimensions."""
    return (*(BATCH for _ in range(rank - len(labels))), *labels)


def _linear(factors: Sequence[Tensor], named: Mapping[str, Any], rank: int) -> LabelledProduct:
    del named
    inputs, weight = factors
    own = ("o", "i")[2 - weight.dim() :]
    return LabelledProduct((_padded(("i",), inputs.dim()), own), _padded(own[:-1], rank))


def _matmul(factors: Sequence[Tensor], named: Mapping[str, Any], rank: int) -> LabelledProduct:
    del named
    first, second = factors
    left = ("m",)[: first.dim() - 1]
    right = ("n",)[: second.dim() - 1]
    operands = _padded((*left, "i"), first.dim()), _padded(("i", *right), second.dim())
    return LabelledProduct(operands, _padded((*left, *right), rank))


def _convolution(factors: Sequence[Tensor], named: Mapping[str, Any], rank: int) -> LabelledProduct:
    inputs, weight = factors
    kernel = ("",) * (weight.dim() - 2)
    groups = int(named.get("groups", 1))
    units, channels = ("o", "i") if groups == 1 else ("go", "gi")
    operands = _padded((channels, *kernel), inputs.dim()), (units, "i", *kernel)
    return LabelledProduct(operands, _padded((units, *kernel), rank), groups)


def _transposed(factors: Sequence[Tensor], named: Mapping[str, Any], rank: int) -> LabelledProduct:
    inputs, weight = factors
    kernel = ("",) * (weight.dim() - 2)
    groups = int(named.get("groups", 1))
    units, channels = ("o", "i") if groups == 1 else ("go", "gi")
    if groups == weight.shape[0]:  # depthwise: no sum over channels
        channels = "g" if groups > 1 else "i"
    operands = _padded((channels, *kernel), inputs.dim()), (channels, "o", *kernel)
    return LabelledProduct(operands, _padded((units, *kernel), rank), groups)


def _bilinear(factors: Sequence[Tensor], named: Mapping[str, Any], rank: int) -> LabelledProduct:
    del named
    first, _, second = factors
    operands = _padded(("i",), first.dim()), ("o", "i", "j"), _padded(("j",), second.dim())
    return LabelledProduct(operands, _padded(("o",), rank))


def _attention(factors: Sequence[Tensor], named: Mapping[str, Any], rank: int) -> LabelledProduct:
    del named
    shared = (("q", "e"), ("k", "e"), ("k", "v"))
    operands = tuple(_padded(labels, factor.dim()) for labels, factor in zip(shared, factors, strict=True))
    return LabelledProduct(operands, _padded(("q", "v"), rank))


def _einsum(factors: Sequence[Tensor], named: Mapping[str, Any], rank: int) -> LabelledProduct | None:
    equation = named.get("equation")
    if not isinstance(equation, str):
        return None
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow:
        joined = "".join(terms).replace(".", "")
        right = ("..." if "." in left else "") + "".join(sorted({k for k in joined if joined.count(k) == 1}))
    operands = tuple(_expanded(term, factor.dim()) for term, factor in zip(terms, factors, strict=True))
    return LabelledProduct(operands, _expanded(right, rank))


def _expanded(term: str, rank: int) -> Labels:
    """Return the labels of a term of ``einsum``, with the ellipsis expanded."""
    before, _, after = term.partition("...")
    return (*before, *(BATCH for _ in range(rank - len(before) - len(after))), *after)


def _tensordot(factors: Sequence[Tensor], named: Mapping[str, Any], rank: int) -> LabelledProduct | None:
    del rank
    first, second = factors
    if not {"dims_self", "dims_other"} <= named.keys():
        return None
    pairs = list(zip(named["dims_self"], named["dims_other"], strict=True))
    left = [f"m{dim}" for dim in range(first.dim())]
    right = [f"n{dim}" for dim in range(second.dim())]
    for k, (dim, other) in enumerate(pairs):
        left[dim] = right[other] = chr(ord("a") + k)
    summed = {chr(ord("a") + k) for k in range(len(pairs))}
    singles = {label: chr(ord("A") + k) for k, label in enumerate([*left, *right]) if label not in summed}
    operands = tuple(tuple(singles.get(label, label) for label in side) for side in (left, right))
    output = tuple(singles[label] for label in (*left, *right) if label in singles)
    return LabelledProduct(operands, output)


def _layer(kind: ProductKind, rest: str, label: Callable[..., LabelledProduct]) -> ProductFunction:
    signature = ("input", "weight", "bias", *rest.split())
    return ProductFunction(kind, signature, ("input", "weight"), label, "bias", has_weight=True)


def _pair(first: str, second: str) -> ProductFunction:
    return ProductFunction("dense", (first, second), (first, second), _matmul)


def _added(first: str, second: str) -> ProductFunction:
    return ProductFunction("dense", ("input", first, second), (first, second), _matmul, "input")


PRODUCTS: Mapping[str, ProductFunction] = {
    "linear": _layer("dense", "", _linear),
    **dict.fromkeys(
        ("conv1d", "conv2d", "conv3d"), _layer("convolution", "stride padding dilation groups", _convolution)
    ),
    **dict.fromkeys(
        ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
        _layer("transposed convolution", "stride padding output_padding groups dilation", _transposed),
    ),
    "matmul": _pair("input", "other"),
    "mm": _pair("input", "mat2"),
    "bmm": _pair("input", "mat2"),
    "mv": _pair("input", "vec"),
    "dot": _pair("input", "tensor"),
    "vdot": _pair("input", "other"),
    "addmm": _added("mat1", "mat2"),
    "addmv": _added("mat", "vec"),
    "baddbmm": _added("batch1", "batch2"),
    "bilinear": ProductFunction(
        "bilinear",
        ("input1", "input2", "weight", "bias"),
        ("input1", "weight", "input2"),
        _bilinear,
        "bias",
        has_weight=True,
    ),
    "einsum": ProductFunction("dense", ("equation", "operands"), ("operands",), _einsum),
    "tensordot": ProductFunction("dense", ("self", "other", "dims_self", "dims_other"), ("self", "other"), _tensordot),
    "scaled_dot_product_attention": ProductFunction(
        "attention", ("query", "key", "value"), ("query", "key", "value"), _attention
    ),
}
"""Product functions by name."""
