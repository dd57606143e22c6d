"""Checks of networks that choose among scores: equal scores are no evidence against a specification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from rebasin_core import check_spec, table_spec, trace_spec
from rebasin_core.specs.checking.advice import Adviser
from rebasin_core.specs.checking.ties import TieWatch
from tests.specs.operators.test_positions import Routed, equal_scores, next_expert, topk_and_lookup

if TYPE_CHECKING:
    from collections.abc import Callable

    from rebasin_core.specs import PermutationSpec

pytestmark = pytest.mark.usefixtures("without_advice")


@pytest.fixture
def without_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the slow search for suggestions."""
    monkeypatch.setattr(Adviser, "advice", lambda *_: [])


# The permutations of experts and of hidden units, as a table.
EXPERTS = {
    "embed.weight": "hidden, -",
    "embed.bias": "hidden",
    "gate.weight": "experts, hidden",
    "gate.bias": "experts",
    "matrix": "experts, hidden, -",
    "bias": "experts, -",
}


def product_of_two(net: Routed, h: Tensor, p: Tensor) -> Tensor:
    """Combine two experts; where the gate is saturated, the second one is chosen by position."""
    chosen = p.topk(2, -1)[1]
    return (net.looked_up(h, chosen[:, 0]) * net.looked_up(h, chosen[:, 1])).sum(1, keepdim=True)


def routed(route: Callable[..., Tensor], seed: int) -> tuple[Routed, Tensor]:
    torch.manual_seed(seed)
    return Routed(route), torch.randn(40, 3)


def of_table(model: nn.Module, **changes: str) -> PermutationSpec:
    return table_spec({**EXPERTS, **changes}, model)


@pytest.mark.parametrize("seed", [0, 2, 3, 9])
def test_saturated_gates_are_no_evidence_against_a_right_specification(seed: int) -> None:
    model, x = routed(product_of_two, seed)
    check_spec(trace_spec(model, x), model, x).require()
    check_spec(of_table(model), model, x).require()


WRONG: list[dict[str, str]] = [
    {"gate.weight": "-, hidden", "gate.bias": "-"},
    {"gate.bias": "-"},
    {"bias": "-, -"},
    {"matrix": "experts, -, -"},
]


@pytest.mark.parametrize("seed", [0, 2, 3, 9])
@pytest.mark.parametrize("changes", WRONG)
def test_wrong_tables_of_routers_fail(seed: int, changes: dict[str, str]) -> None:
    model, x = routed(product_of_two, seed)
    assert not check_spec(of_table(model, **changes), model, x).kept


@pytest.mark.parametrize("route", [equal_scores, next_expert])
def test_experts_that_are_chosen_by_position_at_all_parameters_fail(route: Callable[..., Tensor]) -> None:
    model, x = routed(route, 0)
    found = check_spec(of_table(model), model, x)
    assert not found.kept
    assert "experts" in found.failing_groups


class _Rectified(nn.Module):
    """Two layers between which a router has equal scores, zero, for most inputs, and does not depend on the choice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 6), nn.Linear(6, 2)

    @override
    def forward(self, x: Tensor) -> Tensor:
        h = (self.first(x) - 1).relu()
        output: Tensor = self.last(h) * h.topk(5, -1).values.sum(-1, keepdim=True)
        return output


def test_a_wrong_axis_fails_although_scores_are_equal_at_all_parameters() -> None:
    model, x = _Rectified(), torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    right = {"first.weight": "h, -", "first.bias": "h", "last.weight": "-, h", "last.bias": "-"}
    check_spec(table_spec(right, model), model, x).require()
    assert not check_spec(table_spec({**right, "last.weight": "-, -"}, model), model, x).kept


def test_routers_with_distinct_scores_pass_with_all_parameters() -> None:
    model, x = routed(topk_and_lookup, 0)
    check_spec(of_table(model), model, x).require()


def watched(function: Callable[[Tensor], Any], *scores: float) -> bool:
    watch = TieWatch()
    with watch:
        function(torch.tensor([scores], dtype=torch.float64))
    return bool(watch.found)


@pytest.mark.parametrize(
    ("function", "distinct", "equal"),
    [
        (lambda s: s.topk(2, -1), [[3, 2, 1, 1], [1, 2, 1, 3]], [[3, 1, 1, 0], [2, 2, 1, 0], [1 + 1e-15, 1, 2, 0]]),
        (lambda s: s.topk(2, -1, largest=False), [[3, 3, 2, 1]], [[3, 2, 2, 1]]),
        (lambda s: s.topk(4, -1), [[3, 2, 1, 0]], [[3, 1, 1, 0]]),
        (lambda s: s.sort(-1), [[3, 2, 1]], [[3, 2, 3]]),
        (lambda s: s.argsort(0), [[3, 3, 3]], []),
        (lambda s: s.argmax(-1), [[3, 1, 1]], [[3, 1, 3]]),
        (lambda s: s.argmax(), [[3, 1, 1]], [[3, 1, 3]]),
        (lambda s: s.argmin(-1), [[3, 1, 3]], [[3, 1, 1]]),
        (lambda s: s.max(-1), [[3, 1, 1]], [[3, 3, 1]]),
        (lambda s: s.min(-1), [[3, 3, 1]], [[3, 1, 1]]),
        (lambda s: s.kthvalue(2, -1), [[3, 2, 1]], [[2, 2, 1]]),
        (lambda s: s.max(), [[3, 3, 3]], []),  # the value alone
        (lambda s: s.maximum(s), [[3, 3, 3]], []),
        (lambda s: s.int().sort(-1), [[3, 3, 3]], []),  # positions themselves
        (lambda s: s.relu(), [[3, 3, 3]], []),
    ],
)
def test_ties_are_found_where_they_decide(
    function: Callable[[Tensor], Any], distinct: list[list[float]], equal: list[list[float]]
) -> None:
    assert not [scores for scores in distinct if watched(function, *scores)]
    assert all(watched(function, *scores) for scores in equal)
