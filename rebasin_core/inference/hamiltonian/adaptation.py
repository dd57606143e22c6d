"""Adaptation of step sizes and mass matrices during warm-up, in the windows of Stan."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch

if TYPE_CHECKING:
    from torch import Tensor

# Constants of Stan: first and last interval without adaptation of the mass matrix, and its first window.
_FIRST, _LAST, _WINDOW = 75, 50, 25
# Regularization of the variances: of a window with 5 draws, half is this prior value.
_PRIOR_DRAWS, _PRIOR_VARIANCE = 5.0, 1e-3
# Fewer transitions are too few for variances.
_FEWEST = 20


def windows(warmup: int) -> tuple[int, ...]:
    """Return the bounds of the windows in which a mass matrix is estimated.

    Args:
        warmup: Number of transitions of warm-up.

    Returns:
        Increasing indices of transitions: the start of the first window, and the index after each; empty for fewer than
        20 transitions.

    Examples:
        >>> windows(1000)
        (75, 100, 150, 250, 450, 950)
    """
    if warmup < _FEWEST:
        return ()
    if warmup < _FIRST + _LAST + _WINDOW:
        # Stan leaves 10 %, too few for the step size of a short warm-up.
        return int(0.15 * warmup), warmup - int(0.25 * warmup)
    bounds = [_FIRST]
    size = _WINDOW
    last = warmup - _LAST
    while bounds[-1] < last:
        bound = bounds[-1] + size
        # A window is extended if the next one, of twice the size, does not fit.
        bounds.append(last if bound + 2 * size > last else bound)
        size *= 2
    return tuple(bounds)


@final
class StepSizes:
    r"""Step sizes adapted to a target acceptance probability by dual averaging.

    Attributes:
        state: The state as tensors, updated by `update`: ``size`` is the present step size, ``[K]``.

    Args:
        size: Initial step sizes, ``[K]`` in float64.
        target: The target, in (0, 1).

    References:
        M. D. Hoffman, A. Gelman (2014), "The No-U-Turn sampler", JMLR 15, arXiv 1111.4246, section 3.2.1, with its
        constants.
    """

    def __init__(self, size: Tensor, target: float) -> None:
        self._target = target
        names = ("size", "center", "error", "average", "count")
        self.state = {name: torch.zeros_like(size) for name in names}
        self.restart(size)

    def restart(self, size: Tensor) -> None:
        """Restart the adaptation.

        Args:
            size: Initial step sizes, ``[K]``.
        """
        for tensor in self.state.values():
            tensor.zero_()
        self.state["size"].copy_(size)
        self.state["center"].copy_((10 * size).log())

    def update(self, acceptance: Tensor) -> None:
        """Adapt the step sizes to the acceptance probabilities of a transition.

        Args:
            acceptance: ``[K]``.
        """
        state = self.state
        state["count"] += 1
        count = state["count"]
        weight = 1 / (count + 10)
        state["error"].lerp_(self._target - acceptance, weight)
        logarithm = state["center"] - count.sqrt() / 0.05 * state["error"]
        state["average"].lerp_(logarithm, count**-0.75)
        state["size"].copy_(logarithm.exp())

    def finish(self) -> None:
        """Set the step sizes to the averages of the adaptation."""
        self.state["size"].copy_(self.state["average"].exp())


@final
class Variances:
    """Diagonals of inverse mass matrices, estimated as variances of the draws in windows.

    Attributes:
        state: The state as tensors, updated by `close`: ``variances`` are those in use, ``[K, D]``.

    Args:
        like: Positions of the chains, ``[K, D]``, which determine shape and dtype.
    """

    def __init__(self, like: Tensor) -> None:
        self.state = {
            "variances": torch.ones_like(like),
            "mean": torch.zeros_like(like),
            "squares": torch.zeros_like(like),
            "count": like.new_zeros(()),
        }

    def add(self, position: Tensor) -> None:
        """Add a draw of each chain to the present window.

        Args:
            position: ``[K, D]``.
        """
        state = self.state
        state["count"] += 1
        difference = position - state["mean"]
        state["mean"] += difference / state["count"]
        state["squares"] += difference * (position - state["mean"])

    def close(self) -> None:
        """Set the variances to those of the window, regularized, and start a new one."""
        state = self.state
        count = state["count"].item()
        if count > 1:
            weight = count / (count + _PRIOR_DRAWS)
            state["variances"].copy_(
                weight * state["squares"] / (count - 1) + _PRIOR_VARIANCE * _PRIOR_DRAWS / (count + _PRIOR_DRAWS)
            )
        for name in ("mean", "squares", "count"):
            state[name].zero_()
