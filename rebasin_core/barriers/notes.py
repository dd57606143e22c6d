"""Caveats of a loss curve: endpoints between which a barrier has no meaning, and unreliable standard errors."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import torch

from rebasin_core.barriers.chord import excess_over_chord
from rebasin_core.errors import EndpointWarning, MeasurementWarning, StatedErrorWarning
from rebasin_core.evaluation.trust import EXCESS_SHARE, why_untrusted
from rebasin_core.tensors.statistics import mean_stderr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.evaluation.loss import LossEstimate

# Relative to the loss: losses of two copies of one network agree to rounding.
_ROUNDING = 1e-5
_ERRORS = 2.0
_UNTRUSTED = "cannot be trusted"


def curve_notes(
    t: Sequence[float], estimates: Sequence[LossEstimate], top: int, *, random: bool, baseline: float
) -> tuple[str, ...]:
    """Return the caveats of a loss curve.

    Args:
        t: Interpolation coefficients, from 0 to 1.
        estimates: The loss at each t, all with the same noise and examples.
        top: Index of the largest interior excess.
        random: Whether the losses are Monte Carlo estimates.
        baseline: The loss of the best constant prediction; NaN if unknown.

    Returns:
        Sentences without a full stop, such as ``the reference is no better than ...``.
    """
    notes = [
        _identical(estimates[0], estimates[-1]),
        _no_better(estimates[0], estimates[-1], baseline),
        _worse_than_midpoint(t, estimates, random=random),
    ]
    if random:
        notes += [_untrusted_losses(t, estimates), _untrusted_excess(t, estimates, top)]
    return tuple(note for note in notes if note)


def warn_of(notes: Sequence[str], *, stacklevel: int) -> None:
    """Issue each note as a warning.

    Args:
        notes: Notes of a curve (`curve_notes`) or of a loss (`LossEstimate.notes`).
        stacklevel: As for `warnings.warn`, counted from the caller.
    """
    for note in notes:
        category: type[MeasurementWarning] = StatedErrorWarning if _UNTRUSTED in note else EndpointWarning
        warnings.warn(note, category, stacklevel=stacklevel + 1)


def _identical(first: LossEstimate, last: LossEstimate) -> str:
    pairs = ((first.example_losses, last.example_losses), (first.sample_influence, last.sample_influence))
    if all(a.shape == b.shape and torch.allclose(a, b, rtol=_ROUNDING, atol=_ROUNDING) for a, b in pairs):
        return (
            "both endpoints have the same loss on every example: they are copies of one network or posterior, up to a "
            "symmetry; check the seeds"
        )
    return ""


def _no_better(first: LossEstimate, last: LossEstimate, baseline: float) -> str:
    """Return the note on endpoints whose loss is not below that of the best constant prediction."""
    poor = {
        role: estimate.loss
        for role, estimate in (("the reference", first), ("the candidate", last))
        if estimate.loss >= baseline - _ROUNDING * abs(baseline)
    }
    if not poor:
        return ""
    losses = " and ".join(f"{loss:.4g}" for loss in poor.values())
    verb = "are" if len(poor) > 1 else "is"
    return (
        f"{' and '.join(poor)} {verb} no better than the best prediction that ignores the inputs (loss {losses}, that "
        f"prediction {baseline:.4g}): the barrier says nothing about trained networks. Check the preprocessing of the "
        "data, or train longer"
    )


def _worse_than_midpoint(t: Sequence[float], estimates: Sequence[LossEstimate], *, random: bool) -> str:
    """Return the note on endpoints that are both worse than the midpoint, by more than two standard errors."""
    midpoint = estimates[min(range(len(t)), key=lambda index: abs(t[index] - 0.5))]
    endpoints = estimates[0], estimates[-1]
    if not all(_is_above(endpoint, midpoint, random=random) for endpoint in endpoints):
        return ""
    return (
        f"both endpoints (loss {endpoints[0].loss:.4g} and {endpoints[1].loss:.4g}) are worse than the midpoint "
        f"({midpoint.loss:.4g}): averaging improves them, so a barrier of zero does not show that they are equivalent"
    )


def _is_above(endpoint: LossEstimate, midpoint: LossEstimate, *, random: bool) -> bool:
    sampling = mean_stderr(_difference("sample_influence", endpoint, midpoint)).item() if random else 0.0
    data = mean_stderr(_difference("example_losses", endpoint, midpoint)).item()
    errors = [error for error in (sampling, data) if math.isfinite(error)]
    return endpoint.loss - midpoint.loss > max(_ERRORS * math.hypot(*errors), _ROUNDING)


def _difference(part: str, endpoint: LossEstimate, midpoint: LossEstimate) -> torch.Tensor:
    return excess_over_chord(part, 0.0, endpoint, midpoint, midpoint)


def _untrusted_losses(t: Sequence[float], estimates: Sequence[LossEstimate]) -> str:
    reasons: dict[str, str] = {}
    for point, estimate in zip(t, estimates, strict=True):
        reason = why_untrusted(estimate.sample_influence, estimate.bias_error, independent=estimate.independent)
        if reason is not None and not estimate.is_point:
            reasons[f"{point:g}"] = reason
    if not reasons:
        return ""
    where = f"at t = {', '.join(reasons)}" if len(reasons) < len(t) else "along the path"
    return f"the Monte Carlo errors of the losses {where} {_UNTRUSTED}: {next(iter(reasons.values()))}"


def _untrusted_excess(t: Sequence[float], estimates: Sequence[LossEstimate], top: int) -> str:
    at, first, last = estimates[top], estimates[0], estimates[-1]
    residual_bias = 0.0
    if at.bias_errors is not None and first.bias_errors is not None and last.bias_errors is not None:
        # The residual bias that all three points have in common cancels in the excess, but not entirely if it is large.
        total = at.bias_error + (1 - t[top]) * first.bias_error + t[top] * last.bias_error
        excess = excess_over_chord("bias_errors", t[top], at, first, last).abs().mean().item()
        residual_bias = max(excess, EXCESS_SHARE * total)
    influence = excess_over_chord("sample_influence", t[top], at, first, last)
    bias = excess_over_chord("bias", t[top], at, first, last).item()
    reason = why_untrusted(influence, residual_bias, independent=at.independent, share=EXCESS_SHARE, bias=bias)
    return "" if reason is None else f"the Monte Carlo error of the barrier {_UNTRUSTED}: {reason}"
