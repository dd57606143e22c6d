"""Conversion of tensors in parts that share their memory."""

from __future__ import annotations

import pytest
import torch

from rebasin_core.tensors import widening
from rebasin_core.tensors.widening import wide_parts

LIMIT = 40

pytestmark = pytest.mark.usefixtures("small_parts")


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut every tensor of more than 40 entries."""
    monkeypatch.setattr(widening, "PART", LIMIT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float32])
@pytest.mark.parametrize(("shape", "dim"), [((97,), None), ((7, 30), None), ((30, 7), 0), ((3, 9, 20), 1)])
def test_the_parts_are_those_of_the_converted_tensor(
    dtype: torch.dtype, shape: tuple[int, ...], dim: int | None, generator: torch.Generator
) -> None:
    tensor = torch.randn(shape, generator=generator).to(dtype)
    parts = [(part.clone(), part.data_ptr()) for part in wide_parts(tensor, torch.float64, dim=dim)]
    along = shape.index(max(shape)) if dim is None else dim
    assert torch.equal(torch.cat([part for part, _ in parts], dim=along), tensor.double())
    assert len(parts) > 1
    assert len({address for _, address in parts}) == 1
    slice_entries = tensor.numel() // shape[along]
    assert all(part.dtype == torch.float64 and part.numel() <= max(LIMIT, slice_entries) for part, _ in parts)


@pytest.mark.parametrize("number", range(3))
def test_views_of_any_strides_are_cut(number: int) -> None:
    whole = torch.randn(20, 12).bfloat16()
    tensor = (whole.T, whole[:, 2:9], whole[::2].unsqueeze(0))[number]
    total = sum(float(part.sum()) for part in wide_parts(tensor, torch.float64))
    assert total == pytest.approx(float(tensor.double().sum()))


def test_a_tensor_that_needs_no_conversion_is_its_only_part() -> None:
    tensor = torch.randn(20, 12)
    (part,) = wide_parts(tensor, torch.float32)
    assert part.data_ptr() == tensor.data_ptr()
    assert part.shape == tensor.shape


def test_copies_can_be_changed() -> None:
    tensor = torch.ones(20, 12)
    for part in wide_parts(tensor, torch.float32, copy=True):
        part.zero_()
    assert bool((tensor == 1).all())


@pytest.mark.parametrize("shape", [(), (0,), (0, 5), (5, 0)])
def test_scalars_and_empty_tensors_are_one_part(shape: tuple[int, ...]) -> None:
    (part,) = wide_parts(torch.zeros(shape).bfloat16(), torch.float32, copy=True)
    assert part.shape == shape
    assert part.dtype == torch.float32
