"""The specification factory `traced`."""

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
    """Derives the specification of a model from its graph, as `rebasin_core.trace_spec` does.

    Operator rules are not an option: `derive` uses the rules of all installed plugins, or those in its argument
    ``rules``.

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
    """Glob patterns (`fnmatch`) of parameters and buffers to keep fixed."""

    free: tuple[str, ...] = ()
    """Glob patterns (`fnmatch`) of buffers to permute with the parameters although training does not write to them."""

    method: Method = "auto"
    """``export`` uses `torch.export`. ``execution`` records one forward pass, for data-dependent control flow. ``auto``
    uses export. It records an execution if export fails or leaves operators without a rule, and returns the larger
    group."""

    @override
    def derive(self, model: nn.Module, example_inputs: Tensor, *, rules: Rules | None = None) -> PermutationSpec:
        return derive(model, example_inputs, freeze=self.freeze, free=self.free, method=self.method, rules=rules)
