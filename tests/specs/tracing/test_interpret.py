"""Reports of operators without a rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from rebasin_core import trace_spec
from rebasin_core.specs.operators.position_catalogue import PRODUCERS
from tests.specs.tracing.graphs import between, parameter

if TYPE_CHECKING:
    from rebasin_core import Call


def test_every_failure_of_a_rule_for_positions_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(call: Call) -> None:
        raise ValueError(call.operator)

    monkeypatch.setitem(PRODUCERS, "aten.argsort", failing)
    model = between(
        lambda net, h: h * net.table[net.scores.argsort()] * net.table[net.table.argsort()],
        scores=parameter(4),
        table=parameter(4),
    )
    spec = trace_spec(model, torch.randn(6, 3))
    assert spec.coverage.without_rule == {"aten.argsort (its rule failed: ValueError: aten.argsort)": 2}
