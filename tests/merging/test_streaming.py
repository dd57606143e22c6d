"""Merging of tensors that are read when they are needed."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rebasin_core.errors import InvalidInputError
from rebasin_core.merging import DAREMerge, MeanMerge, ModelStockMerge, StreamingMerge, TaskArithmeticMerge, TIESMerge


def reader(tensors: dict[str, Tensor]) -> Callable[[str], Tensor]:
    return tensors.__getitem__


def network(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "head.weight": torch.randn(3, 4, generator=generator),
        "body.weight": torch.randn(4, generator=generator),
        "body.running_var": torch.rand(4, generator=generator),
        "body.num_batches_tracked": torch.tensor(seed),
    }


BASE, FIRST, SECOND = network(0), network(1), network(2)


def test_parameters_are_merged_and_buffers_are_averaged() -> None:
    merge = StreamingMerge(TaskArithmeticMerge(), [reader(FIRST), reader(SECOND)], weights=[3, -1], base=reader(BASE))
    found = dict(merge.tensors(FIRST))
    for name in ("head.weight", "body.weight"):
        expected = BASE[name] + 3 * (FIRST[name] - BASE[name]) - (SECOND[name] - BASE[name])
        torch.testing.assert_close(found[name], expected)
    # A negative coefficient counts as zero: variances remain positive.
    assert torch.equal(found["body.running_var"], FIRST["body.running_var"])
    assert found["body.num_batches_tracked"].item() == 1
    negated = StreamingMerge(TaskArithmeticMerge(), [reader(FIRST)], weights=[-1], base=reader(BASE))
    assert torch.equal(negated.tensor("body.running_var"), BASE["body.running_var"])


def test_weights_by_pattern() -> None:
    weights = {"head.*": [1.0, 0.0], "body.*": [1.0, 3.0]}
    merge = StreamingMerge(MeanMerge(), [reader(FIRST), reader(SECOND)], weights=weights)
    assert torch.equal(merge.tensor("head.weight"), FIRST["head.weight"])
    torch.testing.assert_close(merge.tensor("body.weight"), 0.25 * FIRST["body.weight"] + 0.75 * SECOND["body.weight"])
    sums = StreamingMerge(
        TaskArithmeticMerge(), [reader(FIRST), reader(SECOND)], weights={"head.*": [0, 0]}, base=reader(BASE)
    )
    torch.testing.assert_close(sums.tensor("head.weight"), BASE["head.weight"])
    expected = FIRST["body.weight"] + SECOND["body.weight"] - BASE["body.weight"]  # coefficients of 1
    torch.testing.assert_close(sums.tensor("body.weight"), expected)


def test_listed_buffers_are_averaged_whatever_their_name() -> None:
    merge = StreamingMerge(
        TIESMerge(), [reader(FIRST), reader(SECOND)], weights=[1, 1], base=reader(BASE), buffers=["body.weight"]
    )
    torch.testing.assert_close(merge.tensor("body.weight"), (FIRST["body.weight"] + SECOND["body.weight"]) / 2)


def test_quantized_weights_are_errors_unless_they_are_equal_or_buffers() -> None:
    int8 = [{"w": torch.tensor([1, value], dtype=torch.int8)} for value in (2, 3)]
    readers = [reader(tensors) for tensors in int8]
    with pytest.raises(InvalidInputError, match=r"`w`: expected floating-point weights, got torch.int8 with different"):
        StreamingMerge(MeanMerge(), readers).tensor("w")
    assert torch.equal(StreamingMerge(MeanMerge(), readers, buffers=["w"]).tensor("w"), int8[0]["w"])
    assert torch.equal(StreamingMerge(MeanMerge(), [readers[0]] * 2).tensor("w"), int8[0]["w"])


def test_random_masks_do_not_depend_on_the_order_of_tensors() -> None:
    merge = StreamingMerge(DAREMerge(), [reader(FIRST), reader(SECOND)], base=reader(BASE), seed=3)
    forward = dict(merge.tensors(FIRST))
    backward = dict(merge.tensors(reversed(FIRST)))
    assert all(torch.equal(forward[name], backward[name]) for name in FIRST)
    assert not torch.equal(
        StreamingMerge(DAREMerge(), [reader(FIRST), reader(SECOND)], base=reader(BASE), seed=4).tensor("head.weight"),
        forward["head.weight"],
    )


def test_inputs_are_checked_before_a_tensor_is_read() -> None:
    def unread(name: str) -> Tensor:
        raise AssertionError(name)

    with pytest.raises(InvalidInputError, match="expected a base network"):
        StreamingMerge(TIESMerge(), [unread, unread])
    with pytest.raises(InvalidInputError, match="expected equal weights"):
        StreamingMerge(ModelStockMerge(), [unread, unread], weights={"head.*": [1, 2]}, base=unread)
    with pytest.raises(InvalidInputError, match="expected 2 nonnegative weights"):
        StreamingMerge(MeanMerge(), [unread, unread], weights=[1, -1])


@pytest.mark.nightly
def test_only_the_tensors_of_one_name_are_in_memory() -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def read(_: str) -> Tensor:
        nonlocal most
        gc.collect()
        tensor = torch.zeros(10)
        alive.append(weakref.ref(tensor))
        most = max(most, sum(own() is not None for own in alive))
        return tensor

    merge = StreamingMerge(MeanMerge(), [read, read])
    for _ in merge.tensors(map(str, range(5))):
        pass
    assert most == 2
