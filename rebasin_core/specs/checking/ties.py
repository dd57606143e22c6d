"""Discrete choices of a model that ties decide, such as the experts of a router whose gates are saturated.

A model that chooses by the largest of several scores computes the same function in another order of the scores, except
where two of them are equal: there, the operator chooses by position. Such parameters are exceptions among all
parameters of most models, but rounding makes them frequent: a softmax of large numbers has several zeros. A change of
the outputs there does not show that a group element changes the function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

import torch
from torch.utils._python_dispatch import TorchDispatchMode  # ruff: ignore[import-private-name] - documented there
from typing_extensions import override

from rebasin_core.specs.checking.runs import FAILURES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.specs.checking.point import Point

# Scores that differ by less, in units of the machine precision, are equal up to rounding.
_ROUNDING = 1e3
# The operators that choose by position among equal scores.
_EXTREMES: Final = {"aten::argmax": True, "aten::max": True, "aten::argmin": False, "aten::min": False}
_ORDERS: Final = frozenset({"aten::sort", "aten::argsort", "aten::kthvalue", "aten::median"})


@final
class TieWatch(TorchDispatchMode):
    """Watches the operators that choose among scores, and records whether two of these are equal up to rounding.

    Attributes:
        found: Names of the operators whose choice depends on the positions of equal scores.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch has no types there
        self.found: set[str] = set()

    @override
    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        schema = func._schema  # ruff: ignore[private-member-access] - there is no public alias
        if schema.name in _EXTREMES or schema.name in _ORDERS or schema.name == "aten::topk":
            names = [argument.name for argument in schema.arguments]
            given = {**dict(zip(names, args, strict=False)), **(kwargs or {})}
            if _ties(schema.name, given):
                self.found.add(schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


def is_decided_by_ties(point: Point) -> bool:
    """Return whether a model chooses by position among equal scores.

    Args:
        point: The model at some parameters.

    Returns:
        Whether an operator does; False if the model cannot be run.
    """
    watch = TieWatch()
    try:
        with torch.no_grad():
            point.runner(point.tensors, within=watch)
    except FAILURES:
        return False
    return bool(watch.found)


def _ties(name: str, given: Mapping[str, Any]) -> bool:
    """Return whether an operator chooses among scores that are equal up to rounding."""
    scores = given["self"]
    is_pair = name in {"aten::max", "aten::min"} and not isinstance(given.get("dim"), int)
    if is_pair or not isinstance(scores, torch.Tensor) or not scores.is_floating_point() or scores.numel() < 2:
        return False  # the extreme value alone does not depend on positions; equal integers are no rounding
    dim = given.get("dim", -1)
    dim = -1 if dim is None and name not in {"aten::argmax", "aten::argmin"} else dim
    rows = scores.flatten() if dim is None else scores.movedim(dim, -1)
    count = rows.shape[-1]
    if count < 2:
        return False
    if name in _ORDERS:
        return _has_equal_neighbors(rows.sort(-1).values)
    largest = bool(given.get("largest", True)) if name == "aten::topk" else _EXTREMES[name]
    chosen = int(given["k"]) if name == "aten::topk" else 1
    return _has_equal_neighbors(rows.sort(-1, descending=largest).values[..., : min(chosen + 1, count)])


def _has_equal_neighbors(ordered: Tensor) -> bool:
    """Return whether two successive values differ by no more than rounding."""
    first, second = ordered[..., :-1], ordered[..., 1:]
    rounding = _ROUNDING * torch.finfo(ordered.dtype).eps
    scale = torch.maximum(first.abs(), second.abs())
    return bool(((first == second) | ((first - second).abs() <= rounding * scale)).any())
