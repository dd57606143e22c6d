"""Index tensors and masks of every dtype that PyTorch accepts, constant and computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from rebasin_core import check_spec, trace_spec
from tests.specs.tracing.graphs import Net, axes, between, parameter

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.nn import Module

ROWS = torch.randn(6, 3)
MASKS = [torch.bool, torch.uint8]

pytestmark = pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")


def _traced(model: Module) -> dict[str, str]:
    """Return the axes from a recorded execution, after verifying them."""
    spec = trace_spec(model, ROWS, method="execution")
    check_spec(spec, model, ROWS).require(allow_untested=True)
    assert not spec.coverage.without_rule
    return axes(spec)


@pytest.mark.parametrize("dtype", MASKS)
@pytest.mark.parametrize(
    ("values", "rows", "columns"),
    [
        ([1, 1, 1, 1], "first", "first"),
        ([0, 1, 1, 1], "1 + first", "first"),
        ([1, 0, 1, 1], "2 + first", "1 + first"),
    ],
)
def test_constant_masks_split_the_axis(dtype: torch.dtype, values: list[int], rows: str, columns: str) -> None:
    model = between(lambda _, h: h[:, torch.tensor(values, dtype=dtype)], sum(values))
    found = _traced(model)
    assert found["first.weight"] == f"{rows}, 3"
    assert found["last.weight"] == f"2, {columns}"


@pytest.mark.parametrize("dtype", MASKS)
def test_masks_created_by_an_operator_are_masks(dtype: torch.dtype) -> None:
    assert _traced(between(lambda _, h: h[:, torch.ones(4, dtype=dtype)]))["first.weight"] == "first, 3"


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_constant_indices_of_every_dtype_split_the_axis(dtype: torch.dtype) -> None:
    found = _traced(between(lambda _, h: h[:, torch.tensor([-1, 0, 0], dtype=dtype)], 3))
    assert found["first.weight"] == "1 + first + 1, 3"


@pytest.mark.parametrize("dtype", MASKS)
@pytest.mark.parametrize(
    "function",
    [
        lambda h, mask: h.unflatten(1, (2, 2))[:, torch.stack([mask[:2], mask[2:]])],
        lambda h, mask: h.unflatten(1, (2, 2))[:, mask[:2], torch.tensor([0, 1])].repeat(1, 2),
    ],
)
def test_masks_of_several_dimensions_and_with_indices_are_sound(
    function: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype
) -> None:
    assert _traced(between(lambda _, h: function(h, torch.ones(4, dtype=dtype))))["first.weight"] == "4, 3"


@pytest.mark.parametrize("dtype", MASKS)
def test_a_computed_mask_that_selects_everything_is_still_a_mask(dtype: torch.dtype) -> None:
    model = between(
        lambda net, h: h * net.table[net.scores.argsort()[(net.scores.abs() >= 0).to(dtype)]],
        scores=parameter(4),
        table=parameter(4),
    )
    found = _traced(model)
    assert found["scores"] == found["table"] == "4"


def test_a_range_of_one_byte_integers_is_a_mask() -> None:
    def written(net: Net, h: Tensor) -> Tensor:
        mask, value = torch.arange(4, dtype=torch.uint8), torch.tensor(0.5)
        result: Tensor = h * net.table.index_put([mask], value, accumulate=True)
        return result

    assert _traced(between(written, table=parameter(4)))["table"] == "4"


@pytest.mark.parametrize(
    "function",
    [
        lambda scalar: scalar.gather(0, torch.tensor(0)),
        lambda scalar: scalar.index_select(0, torch.tensor(0)),
        lambda scalar: scalar.scatter(0, torch.tensor(0), scalar.tanh()),
        lambda scalar: scalar.index_select(0, scalar.expand(2).argmax() * 0),
    ],
)
def test_lookups_in_tensors_without_dimensions_have_a_rule(function: Callable[[Tensor], Tensor]) -> None:
    model = between(lambda net, h: h * function(net.scalar), scalar=nn.Parameter(torch.tensor(0.5)))
    assert _traced(model)["first.weight"] == "first, 3"


def _with_layer(net: Net, h: Tensor) -> Tensor:
    """Return the units that a mask keeps; the mask is a constant of the model's code."""
    kept: Tensor = h[:, [True, False, True, True]] * net.scale
    return kept


def test_lists_of_booleans_are_masks() -> None:
    found = _traced(between(_with_layer, 3, scale=parameter(3)))
    assert found["scale"] == "1 + scale"
