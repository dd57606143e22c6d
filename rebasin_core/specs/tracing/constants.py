"""Values in a graph that do not depend on inputs, parameters or buffers of the state dict."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, Final, final

import torch
from torch import Tensor
from torch.fx.node import map_arg

from rebasin_core.specs.operators.call import is_constant
from rebasin_core.specs.tracing.graph import value_of
from rebasin_core.specs.unification.terms import fresh, uniform

if TYPE_CHECKING:
    from torch.fx import Node

    from rebasin_core.specs.unification.terms import AxisTerms

_LARGEST: Final = 1 << 16  # elements; larger constants are not evaluated
_UNDEFINED: Final = ("aten.empty", "aten.new_empty")


@final
class KnownConstants:
    """Values of the constants in a graph, and of operators whose arguments are all constants."""

    def __init__(self) -> None:
        self._values: dict[Node, Tensor] = {}

    def record(self, node: Node, value: object) -> None:
        """Record the value of a constant that the graph does not write to.

        Args:
            node: The node of the constant.
            value: The value; ignored unless it is a tensor that holds data.
        """
        known = None if node.meta.get("unknown") else values_of(value)
        if known is not None:
            self._values[node] = known

    def compute(self, node: Node) -> Tensor | None:
        """Compute the value of an operator if all its arguments are known.

        Args:
            node: The node of the operator.

        Returns:
            The value, which is also recorded for later operators; None if it is unknown, random, or large.
        """
        target = node.target
        if not all(argument in self._values for argument in node.all_input_nodes):
            return None
        if target is torch.ops.aten.detach_.default:
            self._values[node] = self._values[node.all_input_nodes[0]]
            return self._values[node]
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
        known = values_of(value)
        if known is not None:
            self._values[node] = known
        return known

    def value(self, node: Node) -> Tensor | None:
        """Return the recorded value of a node.

        Args:
            node: A node.

        Returns:
            The value, or None if it was not recorded.
        """
        return self._values.get(node)

    def example(self, node: Node, name: str) -> Any:  # ruff: ignore[any-type] - nested lists of tensors and records
        """Return the value of an argument if it is a constant, else a record of its shape and dtype.

        Args:
            node: The node of the operator.
            name: Name of the argument in the operator's schema.

        Returns:
            A tensor or a record; a list of these for a list; None if the argument is missing.
        """
        schema = getattr(node.target, "_schema", None)
        names = [argument.name for argument in schema.arguments] if schema is not None else []
        given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}.get(name)
        return map_arg(given, lambda argument: self._values.get(argument, value_of(argument)))


def values_of(value: object) -> Tensor | None:
    """Return the values of a constant.

    Args:
        value: A tensor, or anything else.

    Returns:
        The tensor, detached; None if it is not a tensor that holds data.
    """
    if not isinstance(value, Tensor) or type(value) not in {Tensor, torch.nn.Parameter}:
        return None
    found: object = value.detach()  # of a tensor that left `torch.func.grad`, it has another type
    return found if is_constant(found) else None


def _is_computable(node: Node, target: torch._ops.OpOverload) -> bool:
    """Return whether an operator is deterministic, has no side effects, and returns at most 2^16 elements."""
    if target._schema.is_mutable or torch.Tag.nondeterministic_seeded in target.tags:  # ruff: ignore[private-member-access]
        return False
    shape = getattr(value_of(node), "shape", None)
    if shape is None or not all(isinstance(size, int) for size in shape) or prod(shape) > _LARGEST:
        return False
    return not str(target).startswith(_UNDEFINED)


def refined(terms: AxisTerms, value: Tensor) -> AxisTerms:
    """Return the axes of a constant, unconstrained where permutations leave its values unchanged.

    An axis along which the values do not vary is uniform. If the last two axes form matrices ``a I + b J``, such as the
    identity matrix, both are the same free axis: permuting rows and columns identically leaves the matrices unchanged.

    Args:
        terms: The axes of the constant.
        value: The values of the constant.

    Returns:
        The axes, some of them replaced by uniform or new free ones.
    """
    if 0 in value.shape or value.layout is not torch.strided:
        return terms
    found = list(terms)
    signs = _zero_signs(value)
    for dim, size in enumerate(value.shape):
        if size > 1 and all(bool((part == part.narrow(dim, 0, 1)).all()) for part in (value, signs)):
            found[dim] = uniform(size)
    if _is_equivariant(value) and not signs.any():
        found[-2:] = [fresh(value.shape[-1])] * 2
    return tuple(found)


def _zero_signs(value: Tensor) -> Tensor:
    """Return where a tensor is negative zero, which equals zero although functions such as ``1 / x`` differ."""
    if value.is_complex():
        return _zero_signs(value.real) + 2 * _zero_signs(value.imag)
    if not value.is_floating_point():
        return torch.zeros((), dtype=torch.bool, device=value.device).expand(value.shape)
    wide = value.double()
    return (wide == 0) & wide.signbit()


def _is_equivariant(value: Tensor) -> bool:
    """Return whether all matrices in the last two dimensions are ``a I + b J`` with nonzero ``a`` (J: all ones)."""
    if value.dim() < 2 or value.shape[-1] != value.shape[-2] or value.shape[-1] == 1:
        return False
    diagonal = value.diagonal(dim1=-2, dim2=-1)
    off = ~torch.eye(value.shape[-1], dtype=torch.bool, device=value.device)
    off_diagonal = value[..., off]
    same = (diagonal == diagonal[..., :1]).all() and (off_diagonal == off_diagonal[..., :1]).all()
    return bool(same) and not bool((diagonal[..., 0] == off_diagonal[..., 0]).all())
