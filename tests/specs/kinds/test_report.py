"""Linear maps in the coverage of a traced specification."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.specs.kinds.report import described
from rebasin_core.symmetry import Kind
from tests.specs.kinds.networks import Block, Gated, convolutional, dense, images, normalized, rows, tokens

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("model", "maps", "limit"),
    [
        (dense(nn.ReLU(), 5), "positive", "units are seen by relu (relu)"),
        (dense(nn.Tanh(), 5), "sign", "units are seen by tanh (tanh)"),
        (dense(nn.GELU(), 5), "", "units are seen by gelu (gelu)"),
        (dense(nn.Identity(), 5), "invertible", ""),
        (Gated(), "nonzero", "units are seen by silu (silu)"),
        (
            normalized(nn.RMSNorm(5)),
            "nonzero, sign; orthogonal after folding",
            "units are divided by their norm (rms_norm)",
        ),
        (
            normalized(nn.LayerNorm(5)),
            "nonzero; orthogonal_fixing_ones after folding",
            "their mean is subtracted (layer_norm)",
        ),
    ],
)
def test_each_group_has_its_kinds_and_the_operator_that_limits_them(model: nn.Module, maps: str, limit: str) -> None:
    (group,) = rc.trace_spec(model, rows().float()).coverage.kinds
    assert (group.maps, group.limit.label if group.limit else "") == (maps, limit)
    assert str(group) == f"{group.name}: {maps or 'permutation'}" + (f"; limited by: {limit}" if limit else "")


def test_dimensions_and_signs_add_up_to_those_of_the_symmetry() -> None:
    for model, inputs in ((Block(), tokens()), (convolutional(nn.BatchNorm2d(4), nn.ReLU()), images().float())):
        spec = rc.trace_spec(model.eval(), inputs)
        coverage = spec.coverage
        assert coverage.dimension == spec.symmetry.dimension
        assert coverage.folded_dimension == spec.folded_symmetry.dimension
        assert sum(group.log2_signs for group in coverage.kinds) == spec.symmetry.log2_signs
        assert sum(group.log10_order for group in coverage.kinds) == pytest.approx(coverage.log10_order)


def test_heads_have_no_maps_but_those_of_their_width() -> None:
    groups = {group.name: group for group in rc.trace_spec(Block(), tokens()).coverage.kinds}
    assert not groups["query"].kinds
    assert groups["query"].limit is None
    assert groups["query.inner"].within == "query"
    assert groups["query.inner"].kinds == (Kind.INVERTIBLE,)
    assert groups["query.inner"].dimension == 2 * 4
    assert groups["query.inner"].log10_order == pytest.approx(2 * math.log10(2))


def test_the_text_joins_groups_with_equal_maps() -> None:
    text = "positive, limited by: units are seen by relu (relu)"
    lines = described(rc.trace_spec(dense(nn.ReLU(), *(4,) * 8), torch.randn(2, 3)).coverage.kinds)
    assert lines == [
        "linear maps: 32 continuous dimensions, 0 signs",
        f"  units.0, units.2, units.4, units.6, units.8, units.10 and 2 more: {text}",
    ]
    assert described(()) == []


class Combined(nn.Module):
    """Two layers, and a function between them."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.first, self.last = function, nn.Linear(3, 4), nn.Linear(4, 2)

    @override
    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.last(self.function(self.first(x)))
        return output


@pytest.mark.parametrize(
    ("function", "limit"),
    [
        (lambda hidden: hidden + 1, "the same number is added to all units (add)"),
        (lambda hidden: hidden.maximum(hidden.mean()), "units are reduced to one number (mean)"),
        (lambda hidden: torch.complex(hidden, hidden.tanh()).abs(), "units are combined by any function (complex)"),
    ],
)
def test_combinations_that_limit_maps_are_described(function: Callable[[Tensor], Tensor], limit: str) -> None:
    (group,) = rc.trace_spec(Combined(function), torch.randn(2, 3)).coverage.kinds
    assert group.limit is not None
    assert group.limit.label == limit
