"""Tensors that files store in another form than the model."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor

from rebasin_core.checkpoints import StoredForm, StoredTensor
from rebasin_core.errors import InvalidInputError

EXPERTS, INNER, WIDTH = 3, 4, 5


def experts_form() -> StoredForm:
    """Return the form of gated experts: two matrices of each expert are one part of a tensor of three dimensions."""
    stored = {"norm": StoredTensor.whole("norm", torch.empty(WIDTH))}
    for expert in range(EXPERTS):
        for position, name in enumerate(("w1", "w3")):
            offset = (2 * expert + position) * INNER * WIDTH
            stored[f"experts.{expert}.{name}"] = StoredTensor("gate_up", (INNER, WIDTH), (WIDTH, 1), offset)
        # Transposed in files.
        stored[f"experts.{expert}.w2"] = StoredTensor("down", (INNER, WIDTH), (1, INNER), expert * INNER * WIDTH)
    shapes = {"norm": (WIDTH,), "gate_up": (EXPERTS, 2 * INNER, WIDTH), "down": (EXPERTS, WIDTH, INNER)}
    return StoredForm(shapes, stored)


def files() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(part.shape, generator=generator) for name, part in experts_form().stored.items()}


def test_tensors_are_assembled_from_their_parts() -> None:
    given = files()
    found = experts_form().model_tensors(given)
    assert list(found) == ["norm", "gate_up", "down"]
    assert found["norm"] is given["norm"]
    rows = [torch.cat([given[f"experts.{e}.w1"], given[f"experts.{e}.w3"]]) for e in range(EXPERTS)]
    assert torch.equal(found["gate_up"], torch.stack(rows))
    assert torch.equal(found["down"], torch.stack([given[f"experts.{e}.w2"].t() for e in range(EXPERTS)]))
    assert len(found) == 3
    with pytest.raises(KeyError):
        found["experts.0.w1"]


def test_tensors_are_written_in_the_form_of_files() -> None:
    given, form = files(), experts_form()
    produced: list[str] = []
    model = form.model_tensors(given)

    def produce(name: str) -> Tensor:
        produced.append(name)
        return model[name]

    stored = form.stored_tensors(produce)
    for name in sorted(given):
        found = stored(name)
        assert torch.equal(found, given[name])
        assert found.is_contiguous()
        assert found.untyped_storage().nbytes() == 4 * found.numel()
    # Each is produced once, although files contain six parts of it.
    assert sorted(produced) == ["down", "gate_up", "norm"]


def test_assembled_tensors_are_freed_after_their_last_part() -> None:
    form, alive = experts_form(), weakref.WeakSet[Tensor]()

    def produce(name: str) -> Tensor:
        tensor = torch.zeros(form.shapes[name])
        alive.add(tensor)
        return tensor

    stored = form.stored_tensors(produce)
    for name in form.stored:
        if name.endswith(("w1", "w3")):
            stored(name)
    gc.collect()
    assert not alive


def test_permuted_tensors_that_are_not_contiguous_are_written_correctly() -> None:
    form = StoredForm({"w": (2, 3)}, {"a": StoredTensor("w", (3,), (1,)), "b": StoredTensor("w", (3,), (1,), 3)})
    whole = torch.arange(6.0).reshape(3, 2).t()
    stored = form.stored_tensors(lambda _: whole)
    assert stored("b").tolist() == whole[1].tolist()


def test_files_of_the_model_are_unchanged() -> None:
    form = StoredForm({"a": (2, 3), "b": (), "c": (0, 4)})
    given = {"a": torch.ones(2, 3), "b": torch.tensor(1.0), "c": torch.empty(0, 4)}
    found = form.model_tensors(given)
    assert all(found[name] is tensor for name, tensor in given.items())
    assert "d" not in found


def test_tensors_with_missing_parts_are_missing() -> None:
    given = files()
    del given["experts.2.w3"]
    assert list(experts_form().model_tensors(given)) == ["norm", "down"]


def test_parts_of_different_dtypes_are_an_error() -> None:
    given = files()
    given["experts.2.w3"] = given["experts.2.w3"].half()
    with pytest.raises(InvalidInputError, match=r"parts of one dtype, got \['torch.float16', 'torch.float32'\]"):
        experts_form().model_tensors(given)["gate_up"]


@pytest.mark.parametrize(
    "part",
    [
        StoredTensor("other", (6,), (1,)),
        StoredTensor("w", (6,), (1,), 1),
        StoredTensor("w", (6,), (-1,), 5),
        StoredTensor("w", (6,), (1,), -1),
        StoredTensor("w", (3, 3), (3, 1)),
    ],
)
def test_parts_outside_of_the_tensor_are_errors(part: StoredTensor) -> None:
    with pytest.raises(InvalidInputError, match="expected a part of a tensor of the model"):
        StoredForm({"w": (2, 3)}, {"a": part})


def test_incomplete_parts_are_errors() -> None:
    with pytest.raises(InvalidInputError, match="w: expected parts with 6 entries, got 3"):
        StoredForm({"w": (2, 3)}, {"a": StoredTensor("w", (3,), (1,))})
