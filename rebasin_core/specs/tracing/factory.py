"""Tracing as a registered specification factory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

from typing_extensions import override

from rebasin_core.specs.base import PermutationSpec, SpecFactory
from rebasin_core.specs.tracing.capture import Method
from rebasin_core.specs.tracing.trace import derive

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rebasin_core.specs.operators.base import Rules


@final
class TracedSpecFactory(SpecFactory):
    """Derives the specification of every model from its graph, as `rebasin_core.trace_spec` does.

    Rules for operators are not options: they are those of all installed plugins, unless others are passed to `derive`.

    Raises:
        ConfigError: If an option is invalid.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
        >>> TracedSpecFactory().derive(model, torch.zeros(1, 4))
        TracedSpec(units.0=5; log10 of the order 2.1)
    """

    name: Literal["traced"] = "traced"

    freeze: tuple[str, ...] = ()
    """Patterns, as in `fnmatch`, of parameters and buffers that are not permuted."""

    free: tuple[str, ...] = ()
    """Patterns, as in `fnmatch`, of buffers that are permuted with the parameters, although training does not write to
    them."""

    method: Method = "auto"
    """``export`` traces with `torch.export`; ``execution`` records one execution, for models whose control flow depends
    on data; ``auto`` takes the first that works."""

    @override
    def derive(self, model: nn.Module, example_inputs: Tensor, *, rules: Rules | None = None) -> PermutationSpec:
        return derive(model, example_inputs, freeze=self.freeze, free=self.free, method=self.method, rules=rules)
