"""A custom operator, and the rule that makes models with it traceable."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from rebasin_core import OperatorRules

if TYPE_CHECKING:
    from rebasin_core import Call
    from rebasin_core.specs.operators import Result, Rules


@torch.library.custom_op("rebasin_example::decay", mutates_args=())
def decay(x: Tensor, rate: Tensor) -> Tensor:
    """Compute exponential moving averages along time, with one rate per channel.

    Args:
        x: ``[batch, time, channels]``.
        rate: ``[channels]``, in [0, 1].

    Returns:
        ``[batch, time, channels]``.
    """
    state = torch.zeros_like(x[:, 0])
    states = []
    for step in x.unbind(1):
        state = rate * state + (1 - rate) * step
        states.append(state)
    return torch.stack(states, 1)


@decay.register_fake
def _(x: Tensor, rate: Tensor) -> Tensor:
    del rate
    return torch.empty_like(x)


def decay_rule(call: Call) -> Result:
    """Fix the time axis, and constrain rates and channels to be permuted identically.

    Args:
        call: ``decay(x, rate)``.

    Returns:
        The axes of the result.
    """
    batch, time, channels = call.tensor("x")
    (rate,) = call.tensor("rate")
    return batch, call.freeze(time, "time steps are ordered"), call.unify(channels, rate)


@final
class DecayRules(OperatorRules):
    """The rule of `decay`."""

    name = "example_decay"
    rules: ClassVar[Rules] = {"rebasin_example.decay": decay_rule}


@final
class DecayNet(nn.Module):
    """A network with the operator between two dense layers, as an example for the conformance kit.

    Args:
        width: Number of channels.
    """

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.first = nn.Linear(3, width)
        self.last = nn.Linear(width, 2)
        self.rate = nn.Parameter(torch.rand(width))

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.last(decay(self.first(inputs), self.rate))
        return output
