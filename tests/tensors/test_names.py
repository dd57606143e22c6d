"""Names of tensors in state dicts: prefixes and older spellings, with `load_state_dict` as the reference."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import rebasin_core as rc
from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.names import TensorNames
from rebasin_core.tensors.prefixes import Renaming, split_common
from rebasin_core.tensors.spelling import canonical_names


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))


SPEC = rc.trace_spec(network(), torch.randn(2, 3))


def compiled(model: nn.Module) -> nn.Module:
    return cast("nn.Module", cast("Any", torch.compile(model)))


class Experiment(nn.Module):
    """A training module, as of Lightning."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.loss = nn.Linear(2, 2)


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "module": lambda model: model,
    "parallel": nn.DataParallel,
    "compiled": compiled,
    "averaged": torch.optim.swa_utils.AveragedModel,
    "training module": Experiment,
    "all": lambda m: Experiment(torch.optim.swa_utils.AveragedModel(compiled(nn.DataParallel(m)))),
    "compiled part": lambda m: nn.Sequential(*[
        compiled(part) if i == 3 else part for i, part in enumerate(m.children())
    ]),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_renamed_tensors_of_wrappers_are_accepted_by_the_network(wrapper: str) -> None:
    model = network(1)
    state = WRAPPERS[wrapper](model).state_dict()
    names = TensorNames.of_module(network())
    resolved = names.resolved(state, "the state dict")
    other = network(2)
    other.load_state_dict({own: state[name] for name, own in resolved.items()})
    x = torch.randn(4, 3)
    assert torch.equal(other(x), model(x))


def test_a_prefix_of_the_network_is_added() -> None:
    backbone = network(1)
    whole = nn.ModuleDict({"backbone": network(), "head": nn.Linear(2, 2)})
    state = {**backbone.state_dict(), **{f"head.{n}": t for n, t in nn.Linear(2, 2).state_dict().items()}}
    resolved = TensorNames.of_module(whole).resolved(state, "the state dict")
    whole.load_state_dict({own: state[name] for name, own in resolved.items()})
    assert torch.equal(whole["backbone"](torch.ones(1, 3)), backbone(torch.ones(1, 3)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (nn.utils.weight_norm, nn.utils.parametrizations.weight_norm),
        (nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm),
    ],
)
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
def test_older_spellings_of_reparameterized_weights_are_replaced(old: Any, new: Any) -> None:
    torch.manual_seed(0)
    before, after = old(nn.Linear(4, 3)), new(nn.Linear(4, 3))
    state = before.state_dict()
    resolved = TensorNames.of_module(after).resolved(state, "the state dict")
    after.load_state_dict({own: state[name] for name, own in resolved.items()})
    assert torch.allclose(after.eval()(torch.ones(4)), before.eval()(torch.ones(4)))


def test_gamma_is_a_weight_only_if_there_is_no_weight() -> None:
    assert canonical_names(["a.gamma", "a.beta", "b.gamma", "b.weight"]) == {
        "a.gamma": "a.weight",
        "a.beta": "a.bias",
        "b.gamma": "b.gamma",
        "b.weight": "b.weight",
    }


def test_shapes_distinguish_networks_with_the_same_names() -> None:
    small, large = nn.Linear(2, 2).state_dict(), nn.Linear(3, 2).state_dict()
    state = {**{f"small.{n}": t for n, t in small.items()}, **{f"large.{n}": t for n, t in large.items()}}
    resolved = TensorNames.of_module(nn.Linear(3, 2)).resolved(state, "the state dict")
    assert resolved == {"large.weight": "weight", "large.bias": "bias"}


def test_one_network_under_two_names_needs_no_prefix() -> None:
    model = network()
    state = nn.ModuleDict({"model": model, "encoder": model}).state_dict()
    resolved = TensorNames.of_module(model).resolved(state, "the state dict")
    assert set(resolved.values()) == set(model.state_dict())


def test_a_layer_is_not_mistaken_for_another() -> None:
    state = {name: tensor for name, tensor in network().state_dict().items() if not name.startswith("0.")}
    resolved = TensorNames.of_module(network()).resolved(state, "the state dict")
    assert resolved == {name: name for name in state}


def test_part_of_a_state_dict_has_no_prefix() -> None:
    with pytest.raises(InvalidInputError, match=r"not in the specification: `other.3.bias`"):
        rc.Permutation.identity(SPEC.layout).apply({"other.3.bias": torch.ones(6)})


def test_networks_with_different_prefixes_are_matched() -> None:
    first, second = network(1), network(2)
    expected = rc.match(first, second, SPEC)
    reference = {f"model.{name}": tensor for name, tensor in first.state_dict().items()}
    candidate = {f"student.net.{name}": tensor for name, tensor in second.state_dict().items()}
    found = rc.match(reference, candidate, SPEC)
    assert found.permutation == expected.permutation
    aligned = found.apply(candidate)
    assert list(aligned) == list(candidate)
    permuted = expected.apply(second).state_dict()
    assert all(torch.equal(aligned[f"student.net.{name}"], permuted[name]) for name in permuted)


def tied_state(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    embedding = torch.randn(5, 4)
    return {"embedding": embedding, "inner": torch.randn(4, 4), "head": embedding}


def test_tied_weights_in_a_state_dict_need_no_alias_in_the_specification() -> None:
    first, second = tied_state(1), tied_state(2)
    once = {name: tensor for name, tensor in first.items() if name != "head"}
    spec = rc.table_spec({"embedding": "-, stream", "inner": "stream, stream"}, once)
    found = rc.match(first, second, spec)
    assert found.permutation == rc.match(once, {n: t for n, t in second.items() if n != "head"}, spec).permutation
    aligned = found.apply(second)
    assert list(aligned) == ["embedding", "inner", "head"]
    assert torch.equal(aligned["head"], aligned["embedding"])
    separate = {name: tensor.clone() for name, tensor in second.items()}
    with pytest.raises(InvalidInputError, match="not in the specification: `head`"):
        rc.match(first, separate, spec)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [("a.b.c", "x.b.c", ("a.", "x.")), ("b.c", "x.b.c", ("", "x.")), ("c", "c", ("", "")), ("a", "b", ("a.", "b."))],
)
def test_common_last_parts_are_removed(first: str, second: str, expected: tuple[str, str]) -> None:
    assert split_common(first, second) == expected


def test_renamings_are_inverted() -> None:
    renaming = Renaming("a.", "x.y.")
    assert renaming.of("a.w") == "x.y.w"
    assert renaming.source_of("x.y.w") == "a.w"
    assert renaming.of("b.w") is None


def test_prefixes_of_large_networks_are_found_quickly() -> None:
    # Names as of a mixture of experts, in which all tensors have one shape.
    names = [f"layers.{i}.experts.{j}.{part}.weight" for i in range(20) for j in range(128) for part in "abc"]
    expected = TensorNames(tuple(names), shapes=dict.fromkeys(names, (4, 3)))
    tensor = torch.zeros(4, 3)
    start = time.process_time()
    resolved = expected.resolved({f"model.{name}": tensor for name in names}, "the file")
    assert resolved == {f"model.{name}": name for name in names}
    assert time.process_time() - start < 10  # 0.3 s; quadratic time would be minutes
