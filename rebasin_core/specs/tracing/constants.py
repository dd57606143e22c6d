"""Constants of a graph whose values are known, since the code of the model alone determines them."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, Final, final

import torch
from torch import Tensor
from torch.fx.node import map_arg

from rebasin_core.specs.tracing.graph import value_of
from rebasin_core.specs.unification.terms import fresh, uniform

if TYPE_CHECKING:
    from torch.fx import Node

    from rebasin_core.specs.unification.terms import AxisTerms

_LARGEST: Final = 1 << 16  # elements; larger constants are not computed
_UNDEFINED: Final = ("aten.empty", "aten.new_empty")


@final
class KnownConstants:
    """The values of the constants in a graph, and of what is computed from constants alone."""

    def __init__(self) -> None:
        self._values: dict[Node, Tensor] = {}

    def give(self, node: Node, value: object) -> None:
        """Record the value of a constant that the graph does not write to.

        Args:
            node: Its node.
            value: The value; anything but a tensor with values is ignored.
        """
        if not isinstance(value, Tensor) or type(value) not in {Tensor, torch.nn.Parameter}:
            return
        if value.device.type != "meta" and not node.meta.get("unknown"):
            self._values[node] = value.detach()

    def computed(self, node: Node) -> Tensor | None:
        """Return the value of an operator, if all its arguments are known; random numbers are not.

        Args:
            node: Its node.

        Returns:
            The value, also recorded for later operators; None if it is not known, or large.
        """
        target = node.target
        if not all(argument in self._values for argument in node.all_input_nodes):
            return None
        if not isinstance(target, torch._ops.OpOverload) or not _is_computable(node, target):  # ruff: ignore[private-member-access] - there is no public alias
            return None
        args, given = map_arg((node.args, node.kwargs), lambda argument: self._values[argument])
        kwargs = dict(given)
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        try:
            with torch.no_grad():
                value = target(*args, **kwargs)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return None
        if not isinstance(value, Tensor) or value.device.type == "meta":
            return None
        self._values[node] = value
        return value

    def example(self, node: Node, name: str) -> Any:  # ruff: ignore[any-type] - nested lists of tensors and records
        """Return what is known about an argument: the tensor if it is a constant, else a record with its dtype.

        Args:
            node: The operator.
            name: The name of the argument in the schema.

        Returns:
            A tensor or a record; lists of those for lists; None for arguments that are not given.
        """
        schema = getattr(node.target, "_schema", None)
        names = [argument.name for argument in schema.arguments] if schema is not None else []
        given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}.get(name)
        return map_arg(given, lambda argument: self._values.get(argument, value_of(argument)))


def _is_computable(node: Node, target: torch._ops.OpOverload) -> bool:
    """Return whether an operator gives a constant that is not large."""
    if target._schema.is_mutable or torch.Tag.nondeterministic_seeded in target.tags:  # ruff: ignore[private-member-access]
        return False
    shape = getattr(value_of(node), "shape", None)
    if shape is None or not all(isinstance(size, int) for size in shape) or prod(shape) > _LARGEST:
        return False
    return not str(target).startswith(_UNDEFINED)


def refined(terms: AxisTerms, value: Tensor) -> AxisTerms:
    """Return the axes of a constant with fewer constraints, where its values allow it.

    Every permutation of an axis along which the values do not vary leaves the constant unchanged. So does every
    permutation of the last two axes together, if they make matrices with one value on the diagonal and one beside it,
    as the identity matrix.

    Args:
        terms: Its axes.
        value: Its values.

    Returns:
        The axes.
    """
    if 0 in value.shape:
        return terms
    found = list(terms)
    for dim, size in enumerate(value.shape):
        if size > 1 and bool((value == value.narrow(dim, 0, 1)).all()):
            found[dim] = uniform(size)
    if _is_equivariant(value):
        found[-2:] = [fresh(value.shape[-1])] * 2
    return tuple(found)


def _is_equivariant(value: Tensor) -> bool:
    """Return whether all matrices ``A`` in the last two dimensions are ``a I + b J`` with ``a`` other than 0."""
    if value.dim() < 2 or value.shape[-1] != value.shape[-2] or value.shape[-1] == 1:
        return False
    diagonal = value.diagonal(dim1=-2, dim2=-1)
    off = ~torch.eye(value.shape[-1], dtype=torch.bool, device=value.device)
    beside = value[..., off]
    same = (diagonal == diagonal[..., :1]).all() and (beside == beside[..., :1]).all()
    return bool(same) and not bool((diagonal[..., 0] == beside[..., 0]).all())
