"""Names of a network's tensors in files: missing, extra, tied and differently shaped tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rebasin_core.checkpoints.naming import NamePolicy, match_names
from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.names import TensorNames


class Network(nn.Module):
    """Convolutions with batch normalization and a buffer that is not saved."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)
        self.register_buffer("mask", torch.ones(7), persistent=False)


class Tied(nn.Module):
    """An embedding and a head with the same weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.inner = nn.Linear(4, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embedding.weight


def saved(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def names_of(kind: type[nn.Module] = Network) -> TensorNames:
    with torch.device("meta"):
        return TensorNames.of_module(kind())


def test_missing_tensors_are_named_with_the_nearest_name_and_shapes() -> None:
    state = saved(Network())
    state["head.wieght"] = state.pop("head.weight")
    message = r"a\.pt does not fit .*missing: `head.weight` \[5, 4\] \(did you mean `head.wieght` \[5, 4\]\?\)"
    with pytest.raises(InvalidInputError, match=message):
        match_names(names_of(), state, "a.pt")


def test_the_nearest_name_has_the_prefix_of_the_file() -> None:
    state = {f"net.{name}": tensor for name, tensor in saved(Network()).items()}
    state["net.haed.weight"] = state.pop("net.head.weight")
    with pytest.raises(InvalidInputError, match=r"did you mean `net.haed.weight` \[5, 4\]"):
        match_names(names_of(), state, "a.pt")


def test_a_file_of_another_network_is_an_error() -> None:
    with pytest.raises(InvalidInputError, match=r"none of the 10 tensors is in it: expected `first.weight`, got `x`"):
        match_names(names_of(), {"x": torch.ones(3)}, "a.pt")


def test_missing_tensors_can_be_skipped() -> None:
    state = saved(Network())
    del state["head.weight"]
    found = match_names(names_of(), state, "a.pt", NamePolicy(missing="skip"))
    assert found.missing == ("head.weight",)
    assert "1 missing" in found.summary()


def test_statistics_are_required_and_counters_and_unsaved_buffers_are_not() -> None:
    state = saved(Network())
    del state["norm.num_batches_tracked"]
    found = match_names(names_of(), state, "a.pt", NamePolicy(mode="strict"))
    assert set(found.optional) == {"norm.num_batches_tracked", "mask"}
    del state["norm.running_mean"]
    with pytest.raises(InvalidInputError, match=r"missing: `norm.running_mean` \[4\]"):
        match_names(names_of(), state, "a.pt")


@pytest.mark.parametrize("extra", ["keep", "skip"])
def test_extra_tensors_are_copied_or_omitted(extra: Any) -> None:
    kept = extra == "keep"
    state = saved(Network()) | {"step": torch.tensor(3), "loss.weight": torch.ones(5)}
    found = match_names(names_of(), state, "a.pt", NamePolicy(extra=extra))
    assert found.extra == ("step", "loss.weight")
    assert found.kept == (found.extra if kept else ())
    assert {"step", "loss.weight"} <= set(found.output_names) or not kept
    restored = found.restore(found.select(state), state)
    assert all(restored[name] is state[name] for name in restored)
    assert ("step" in restored) is kept


def test_extra_tensors_can_be_errors() -> None:
    state = saved(Network()) | {"loss.weight": torch.ones(5)}
    with pytest.raises(InvalidInputError, match=r"not in the network: `loss.weight` \[5\].*`extra=\"skip\"` omits"):
        match_names(names_of(), state, "a.pt", NamePolicy(extra="error"))


def test_a_counter_of_averages_is_no_error() -> None:
    state = torch.optim.swa_utils.AveragedModel(Network()).state_dict()
    found = match_names(names_of(), state, "a.pt", NamePolicy(extra="error"))
    assert found.extra == ("n_averaged",)
    assert found.removed == "module."


def test_a_constant_of_another_length_is_extra() -> None:
    state = saved(Network()) | {"mask": torch.ones(12)}
    found = match_names(names_of(), state, "a.pt")
    assert found.extra == ("mask",)
    assert found.optional == ("mask",)


def test_names_are_restored_in_the_order_of_the_file() -> None:
    state = {f"module.{name}": tensor for name, tensor in sorted(saved(Network()).items())}
    found = match_names(names_of(), state, "a.pt")
    assert list(found.select(state)) == [name for name in names_of().known if name != "mask"]
    assert list(found.restore(found.select(state), state)) == list(state)


@pytest.mark.parametrize("removed", ["embedding.weight", "head.weight", None])
@pytest.mark.parametrize("mode", ["strict", "lenient"])
def test_tied_weights_have_one_or_both_names(removed: str | None, mode: Any) -> None:
    state = saved(Tied())
    state.pop(removed or "", None)
    found = match_names(names_of(Tied), state, "a.pt", NamePolicy(mode=mode))
    assert found.names["embedding.weight"] == ("head.weight" if removed == "embedding.weight" else "embedding.weight")
    assert dict(found.tied) == ({} if removed else {"head.weight": "embedding.weight"})
    changed = {name: tensor + 1 for name, tensor in found.select(state).items()}
    restored = found.restore(changed, state)
    assert list(restored) == list(state)
    assert all(torch.equal(restored[name], state[name] + 1) for name in state)


def test_the_own_name_is_preferred_to_the_second_one_with_any_prefix() -> None:
    state = {f"model.{name}": tensor for name, tensor in reversed(saved(Tied()).items())}
    found = match_names(names_of(Tied), state, "a.pt")
    assert found.names["embedding.weight"] == "model.embedding.weight"
    assert dict(found.tied) == {"model.head.weight": "embedding.weight"}


def test_strict_names_have_exactly_the_given_prefix() -> None:
    state = {f"net.{name}": tensor for name, tensor in saved(Network()).items()}
    policy = NamePolicy(mode="strict", prefix="net.")
    assert match_names(names_of(), state, "a.pt", policy).removed == "net."
    with pytest.raises(InvalidInputError, match=r"not in the network: `net.first.weight`"):
        match_names(names_of(), state, "a.pt", policy.replace(prefix="module.net."))


def test_two_files_are_matched_without_a_network() -> None:
    tensors = saved(Tied()) | {"step": torch.tensor(3)}
    tensors["head.weight"] = tensors["embedding.weight"]
    names = TensorNames.of_tensors(tensors)
    assert dict(names.aliases) == {"head.weight": "embedding.weight"}
    other = {f"module.{name}": tensor for name, tensor in saved(Tied()).items()} | {"step": torch.tensor(5)}
    found = match_names(names, other, "b.pt")
    assert set(found.names) == set(names.known)
    assert found.names["step"] == "step"


def test_tied_weights_with_different_values_are_errors() -> None:
    state = saved(Tied())
    state["head.weight"] += 1
    with pytest.raises(InvalidInputError, match=r"`embedding.weight` and `head.weight` are one tensor"):
        match_names(names_of(Tied), state, "a.pt")


def test_an_extra_matrix_with_equal_values_is_tied_and_vectors_are_not() -> None:
    network = nn.Sequential(nn.Embedding(6, 4, padding_idx=0), nn.LayerNorm(4))
    state = saved(network)
    state |= {"lm_head.weight": state["0.weight"].clone(), "other.bias": state["1.bias"].clone()}
    found = match_names(TensorNames.of_module(network), state, "a.pt")
    assert dict(found.tied) == {"lm_head.weight": "0.weight"}
    assert found.extra == ("other.bias",)


def test_constant_matrices_are_not_tied() -> None:
    network = nn.Linear(4, 4, bias=False)
    state = {"weight": torch.zeros(4, 4), "other.weight": torch.zeros(4, 4)}
    assert match_names(TensorNames.of_module(network), state, "a.pt").extra == ("other.weight",)


def test_other_shapes_are_errors_unless_they_are_kept() -> None:
    state = saved(Network()) | {"head.weight": torch.ones(9, 4), "head.bias": torch.ones(9)}
    message = r"of another shape: `head.weight` \[9, 4\] instead of \[5, 4\], `head.bias` \[9\] instead of \[5\]"
    with pytest.raises(InvalidInputError, match=message):
        match_names(names_of(), state, "a.pt")
    found = match_names(names_of(), state, "a.pt", NamePolicy(resized="keep"))
    assert dict(found.resized) == {"head.weight": (9, 4), "head.bias": (9,)}
    assert "not [5, 4]" in found.table()


def test_another_number_of_dimensions_is_always_an_error() -> None:
    state = saved(Network()) | {"head.weight": torch.ones(5, 4, 1)}
    with pytest.raises(InvalidInputError, match=r"`head.weight` \[5, 4, 1\] instead of \[5, 4\]"):
        match_names(names_of(), state, "a.pt", NamePolicy(resized="keep"))


def test_quantized_weights_are_errors() -> None:
    state = saved(Network())
    state["head.weight"] = state["head.weight"].to(torch.int8)
    with pytest.raises(InvalidInputError, match=r"`head.weight` is a parameter of the network, got torch.int8"):
        match_names(names_of(), state, "a.pt")


def test_a_student_and_a_teacher_need_a_prefix() -> None:
    states = {f"{part}.{name}": tensor for part in ("student", "teacher") for name, tensor in saved(Network()).items()}
    states["student.head.bias"] += 1
    with pytest.raises(InvalidInputError, match=r"contained several times, under the prefixes `student.` and `teacher"):
        match_names(names_of(), states, "a.pt")
    found = match_names(names_of(), states, "a.pt", NamePolicy(prefix="teacher."))
    assert found.removed == "teacher."
    assert len(found.extra) == len(states) / 2
    with pytest.raises(InvalidInputError, match=r"no tensor .* prefix 'ema.'; its prefixes: `student.` \(9 tensors\)"):
        match_names(names_of(), states, "a.pt", NamePolicy(prefix="ema."))


def test_equal_names_are_preferred_to_a_prefix() -> None:
    state = saved(Network())
    both = {**{f"ema.{name}": tensor + 1 for name, tensor in state.items()}, **state}
    found = match_names(names_of(), both, "a.pt")
    assert dict(found.names) == {name: name for name in state}


def test_no_value_is_read_without_need(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bool:
        raise AssertionError

    monkeypatch.setattr(torch, "equal", fail)
    state = {f"module.{name}": tensor for name, tensor in Network().state_dict().items()}
    assert match_names(names_of(), state, "a.pt").removed == "module."
