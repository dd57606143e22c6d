"""Tracing as a registered specification factory."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, final

from typing_extensions import override

from rebasin_core.specs.base import PermutationSpec, SpecFactory
from rebasin_core.specs.operators.catalogue import BUILT_IN_RULES
from rebasin_core.specs.tracing.trace import derive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from rebasin_core.specs.operators.base import Rules
    from rebasin_core.specs.tracing.graph import Method


class AbstractRuleBasedFactory(SpecFactory):
    """A specification factory that uses rules for operators; it is given those of all plugins."""

    @abstractmethod
    def with_rules(self, rules: Rules) -> AbstractRuleBasedFactory:
        """Return the same factory with other rules.

        Args:
            rules: A rule for every operator that has one.

        Returns:
            A new factory.
        """


@final
class TracedSpecFactory(AbstractRuleBasedFactory):
    """Derives the specification of every model as `rebasin_core.trace_spec` does.

    Args:
        freeze: Patterns of parameters and buffers that are fixed.
        method: ``export`` or ``execution``.
        rules: A rule for every operator that has one.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
        >>> TracedSpecFactory().derive(model, torch.zeros(1, 4))
        TracedSpec(units.0=5; log10 of the order 2.1)
    """

    def __init__(self, *, freeze: Sequence[str] = (), method: Method = "export", rules: Rules = BUILT_IN_RULES) -> None:
        self._freeze, self._method, self._rules = tuple(freeze), method, rules

    @override
    def with_rules(self, rules: Rules) -> TracedSpecFactory:
        return TracedSpecFactory(freeze=self._freeze, method=self._method, rules=rules)

    @override
    def derive(self, model: nn.Module, example_inputs: Tensor) -> PermutationSpec:
        return derive(model, example_inputs, freeze=self._freeze, method=self._method, rules=self._rules)
