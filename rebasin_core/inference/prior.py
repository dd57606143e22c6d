"""The Gaussian prior, and selection of parameters by name patterns."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.prior import GaussianPrior

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.inference.options import PriorScale


def scales_of(parameters: Mapping[str, Tensor], scale: PriorScale, *, by_fan_in: bool = False) -> dict[str, float]:
    """Return the standard deviation of the prior of every parameter.

    Args:
        parameters: Parameters by name.
        scale: A number, or pairs of a name pattern (``layers.0.*``) and a number; the first match applies.
        by_fan_in: Whether the scale of tensors with several dimensions is divided by the square root of their fan-in,
            the number of entries per output unit (the first dimension).

    Returns:
        Standard deviations by name.

    Raises:
        InvalidInputError: If a parameter matches no pattern.
    """
    patterns = scale if isinstance(scale, tuple) else (("*", float(scale)),)
    scales: dict[str, float] = {}
    for name, tensor in parameters.items():
        matching = [value for pattern, value in patterns if fnmatchcase(name, pattern)]
        if not matching:
            message = f"expected a pattern of `prior_scale` that matches `{name}`; add one, or `*` for all others"
            raise InvalidInputError(message)
        fan_in = tensor[0].numel() if by_fan_in and tensor.dim() > 1 and len(tensor) else 1
        scales[name] = matching[0] / math.sqrt(max(fan_in, 1))
    return scales


def prior_of(parameters: Mapping[str, Tensor], scale: PriorScale, *, by_fan_in: bool = False) -> GaussianPrior | None:
    """Return the zero-mean Gaussian prior with the given standard deviations.

    Args:
        parameters: Parameters by name, which determine device and dtype.
        scale: A number, or pairs of a name pattern and a number.
        by_fan_in: Whether the scale of tensors with several dimensions is divided by the square root of their fan-in.

    Returns:
        The prior; None if any of the parameters has an infinite scale (a flat prior).
    """
    scales = scales_of(parameters, scale, by_fan_in=by_fan_in)
    if any(math.isinf(value) for value in scales.values()):
        return None
    stddev = {n: torch.tensor(scales[n], dtype=t.dtype, device=t.device) for n, t in parameters.items()}
    return GaussianPrior({name: torch.zeros_like(tensor) for name, tensor in stddev.items()}, stddev)


def chosen_names(names: Sequence[str], patterns: Sequence[str] | None, option: str) -> list[str]:
    """Return the names that match a pattern.

    Args:
        names: All names.
        patterns: Glob patterns (`fnmatch`); all names if None.
        option: Name of the option that holds the patterns, for messages.

    Returns:
        The matching names, in the order of ``names``.

    Raises:
        InvalidInputError: If a pattern matches no name.
    """
    if patterns is None:
        return list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            message = f"the pattern {pattern!r} of `{option}` matches none of {list(names)[:8]}"
            raise InvalidInputError(message)
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def negative_log_prior(precisions: Mapping[str, float], parameters: Mapping[str, Tensor]) -> Tensor:
    r"""Return $\tfrac12 \sum_j \lambda_j \lVert \theta_j \rVert^2$, with one operation per tensor and direction.

    Args:
        precisions: $\lambda_j$ of each tensor; tensors without one, or with 0, are omitted.
        parameters: The tensors $\theta_j$.

    Returns:
        The sum, a scalar; differentiable once.
    """
    chosen = [(weight, parameters[name]) for name, weight in precisions.items() if weight]
    if not chosen:
        return torch.zeros(())
    total: Tensor = _HalfSquares.apply([weight for weight, _ in chosen], *(tensor for _, tensor in chosen))  # type: ignore[no-untyped-call]  # of torch
    return total


class _HalfSquares(torch.autograd.Function):
    """Half the weighted sum of squares; automatic differentiation would need a temporary of each tensor twice."""

    @staticmethod
    @override
    def forward(ctx: Any, weights: Sequence[float], *tensors: Tensor) -> Tensor:
        ctx.weights = weights
        ctx.save_for_backward(*tensors)
        flat = (tensor.reshape(-1) for tensor in tensors)
        squares = [0.5 * weight * torch.dot(one, one) for weight, one in zip(weights, flat, strict=True)]
        return torch.stack(squares).sum()

    @staticmethod
    @override
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        pairs = zip(ctx.weights, ctx.saved_tensors, strict=True)
        return None, *(tensor * (gradient * weight) for weight, tensor in pairs)
