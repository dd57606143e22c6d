"""Tables with one row for the tensors of like modules."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.errors import SpecError
from rebasin_core.specs import TableSpec
from rebasin_core.symmetry.stack_action import permuted_member
from tests.symmetry.experts import (
    EXPERTS,
    HIDDEN,
    TABLE,
    WIDTH,
    Expert,
    Mixture,
    spec,
    stacked,
    stacked_spec,
    tensors_of,
)

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


def test_group_is_that_of_the_model_with_stacked_weights() -> None:
    assert spec().layout.groups == stacked_spec().layout.groups
    assert spec().layout.log10_order == stacked_spec().layout.log10_order
    layout = spec().layout
    for own, name in (("up", "experts.{expert}.up.weight"), ("down", "experts.{expert}.down.weight")):
        assert layout.axes[name] == stacked_spec().layout.axes[own]


def test_check_passes() -> None:
    check = rc.check_spec(spec(), Mixture(), X)
    check.require()
    assert "experts.{expert}.up.bias" in check.moved
    assert check.error < 1e-12


@pytest.mark.parametrize(
    ("change", "suggestion"),
    [
        ({"gate.bias": "-"}, "'expert': `gate.bias`, axis 0: should belong to the group"),
        ({"experts.{expert}.up.bias": "-"}, "'hidden': `experts.{expert}.up.bias`, axis 1: should belong to the group"),
    ],
)
def test_check_names_the_wrong_axis(change: dict[str, str], suggestion: str) -> None:
    wrong = rc.table_spec({**TABLE, **change}, Mixture())
    check = rc.check_spec(wrong, Mixture(), X)
    assert not check.kept
    assert suggestion in check.suggestions


class Ordered(Mixture):
    """A mixture in which the last expert sees another function of its inputs."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.embed(x))
        weights = self.gate(h).softmax(-1)
        mixed = h
        for number, expert in enumerate(self.experts):
            seen = h * (2 if number == EXPERTS - 1 else 1)
            mixed = torch.add(mixed, weights[..., number : number + 1] * expert(seen))
        output: Tensor = self.out(mixed)
        return output


def test_check_rejects_experts_with_different_functions() -> None:
    check = rc.check_spec(rc.table_spec(TABLE, Ordered()), Ordered(), X)
    assert not check.kept
    assert "expert" in check.failing_groups


class Unused(Mixture):
    """A mixture that does not use the bias of one expert."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.embed(x))
        weights = self.gate(h).softmax(-1)
        mixed = h
        for number, expert in enumerate(cast("list[Expert]", [*self.experts])):
            bias = None if number == 0 else expert.up.bias
            hidden = nn.functional.linear(h, expert.up.weight, bias).tanh()
            mixed = torch.add(mixed, weights[..., number : number + 1] * expert.down(hidden))
        output: Tensor = self.out(mixed)
        return output


def test_check_detects_a_bias_that_one_expert_does_not_use() -> None:
    assert not rc.check_spec(rc.table_spec(TABLE, Unused()), Unused(), X).passed


class Heads(nn.Module):
    """Attention with one module for each head; outputs are concatenated."""

    def __init__(self, heads: int = 3, width: int = 2) -> None:
        super().__init__()
        self.query = nn.ModuleList([nn.Linear(4, width) for _ in range(heads)])
        self.key = nn.ModuleList([nn.Linear(4, width) for _ in range(heads)])
        self.value = nn.ModuleList([nn.Linear(4, width) for _ in range(heads)])
        self.out = nn.Linear(heads * width, 4)

    @override
    def forward(self, x: Tensor) -> Tensor:
        found = []
        for query, key, value in zip(self.query, self.key, self.value, strict=True):
            scores = (query(x) @ key(x).mT).softmax(-1)
            found.append(scores @ value(x))
        output: Tensor = self.out(torch.cat(found, -1))
        return output


def test_heads_in_separate_modules_are_exchanged() -> None:
    table = {f"{part}.{{head}}.{name}": "-" for part in ("query", "key", "value") for name in ("weight", "bias")}
    table = {name: "qk@head" if name[:3] != "val" else "v@head" for name in table}
    table = {name: f"{axes}, -" if name.endswith("weight") else axes for name, axes in table.items()}
    table |= {"out.weight": "-, head*v", "out.bias": "-"}
    given = rc.table_spec(table, Heads(), sizes={"head": 3})
    assert given.layout.index_shape("v") == (3, 2)
    check = rc.check_spec(given, Heads(), torch.randn(2, 5, 4))
    assert check.kept
    assert set(check.inert) | set(check.untested) <= {"key.{head}.bias"}


class Named(nn.Module):
    """Two branches with names, whose outputs are added."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 2), nn.Linear(3, 2)

    @override
    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.left(x).tanh() + self.right(x).tanh()
        return output


def test_branches_with_names_are_exchanged() -> None:
    table = {"{side=left|right}.weight": "-, -", "{side=left|right}.bias": "-"}
    rc.check_spec(rc.table_spec(table, Named()), Named(), X).require()
    wrong = {**table, "{side=left|right}.bias": "-"}
    nested = rc.table_spec({**wrong, "{side=left|right}.weight": "units@side, -"}, Named(), sizes={"units": 2})
    assert not rc.check_spec(nested, Named(), X).kept


class Multiplied(nn.Module):
    """The product of two branches, unit by unit."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

    @override
    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.last(self.a(x).tanh() * self.b(x).tanh())
        return output


def test_branches_are_swapped_in_each_unit() -> None:
    table = {"{side@h=a|b}.weight": "h, -", "{side@h=a|b}.bias": "h", "last.weight": "-, h", "last.bias": "-"}
    model = Multiplied()
    given = rc.table_spec(table, model)
    assert round(10**given.layout.log10_order) == 2**4 * 24
    rc.check_spec(given, model, X).require()
    planted = given.random_permutation(generator=torch.Generator().manual_seed(1))
    candidate = planted.apply(model)
    assert rc.match(model, candidate, given, "weight").permutation == planted.inverse()
    tensors = {name: tensor.detach() for name, tensor in model.named_parameters()}
    for name in ("a.weight", "b.bias"):
        assert torch.equal(permuted_member(planted, name, tensors), candidate.get_parameter(name))


def test_table_of_a_class_applies_to_all_numbers_of_experts() -> None:
    class OfMixture(TableSpec):
        """The table of a mixture."""

        table = TABLE

    tensors = tensors_of(Mixture())
    larger = dict(tensors)
    for part in ("up.weight", "up.bias", "down.weight"):
        larger[f"experts.3.{part}"] = tensors[f"experts.0.{part}"]
    larger |= {"gate.weight": torch.zeros(4, WIDTH), "gate.bias": torch.zeros(4)}
    assert OfMixture(tensors).groups["expert"].size == EXPERTS
    assert OfMixture(larger).groups["expert"].size == 4


class Sparse(Mixture):
    """A loop over experts that selects the tokens of each, as in Mixtral and DeepSeek."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.embed(x)).reshape(-1, WIDTH)
        weights, chosen = self.gate(h).softmax(-1).topk(2, dim=-1)
        weights = torch.div(weights, weights.sum(-1, keepdim=True))
        mixed = torch.zeros_like(h)
        mask = nn.functional.one_hot(chosen, num_classes=EXPERTS).permute(2, 1, 0)
        for number, expert in enumerate(self.experts):
            rank, token = torch.where(mask[number])
            mixed.index_add_(0, token, expert(h[token]) * weights[token, rank, None])
        output: Tensor = self.out(h + mixed)
        return output


def test_experts_of_a_loop_over_tokens_are_exchanged_by_a_table() -> None:
    tokens = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    rc.check_spec(rc.table_spec(TABLE, Sparse()), Sparse(), tokens).require()
    wrong = rc.table_spec({**TABLE, "gate.weight": "-, d", "gate.bias": "-"}, Sparse())
    assert not rc.check_spec(wrong, Sparse(), tokens).kept
    traced = rc.trace_spec(Sparse(), tokens.double())
    assert not traced.layout.stacks
    assert sum(group.size for group in traced.groups.values()) == WIDTH + EXPERTS * HIDDEN


def test_numbers_within_names_of_modules() -> None:
    tensors = {f"experts.expert_{number}.wi.weight": torch.zeros(2, 3) for number in range(12)}
    layout = rc.table_spec({"experts.expert_{expert}.wi.weight": "-, -"}, tensors).layout
    assert layout.groups["expert"].size == 12
    assert layout.tensors == tuple(tensors)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"other.{expert}.weight": "-, -"}, "expected a tensor such as `other.0.weight`"),
        ({"e.{n}.weight": "-, -"}, "missing: `e.1.weight`"),
        ({"f.{n}.weight": "-, -"}, r"tensors of equal shapes, got `f.0.weight` \(2, 3\), `f.1.weight` \(2, 4\)"),
        ({"g.{n}.weight": "-, -", "g.{m}.weight": "-, -"}, "which another row contains, too"),
        ({"g.{n}.weight": "-, -", "g.0.weight": "-, -"}, "which another row contains, too"),
        ({"g.{n}.weight": "-"}, "the table has 2 axes"),
        ({"g.{n=0|7}.weight": "-, -"}, "missing: `g.7.weight`"),
    ],
)
def test_rows_that_do_not_fit_are_rejected(table: dict[str, str], expected: str) -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "e.0.weight": (2, 3),
        "e.2.weight": (2, 3),
        "f.0.weight": (2, 3),
        "f.1.weight": (2, 4),
    }
    shapes |= {"g.0.weight": (2, 3), "g.1.weight": (2, 3), "gate": (5,)}
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    with pytest.raises(SpecError, match=expected):
        rc.table_spec(table, tensors)


def test_number_of_modules_must_be_that_of_the_gate() -> None:
    tensors = {"g.0.weight": torch.zeros(2), "g.1.weight": torch.zeros(2), "gate": torch.zeros(5)}
    with pytest.raises(SpecError, match=r"`gate` of shape \(5,\): group 'n' has 5 units here and 2 elsewhere"):
        rc.table_spec({"g.{n}.weight": "-", "gate": "n"}, tensors)


def test_git_rebasin_format_cannot_state_exchanges() -> None:
    table = {"{side=left|right}.weight": "-, -", "{side=left|right}.bias": "-"}
    with pytest.raises(SpecError, match=r"those of several tensors that are exchanged: `\{side=left\|right\}.weight`"):
        rc.specs.to_git_rebasin(rc.table_spec(table, Named()))


def test_function_of_the_stacked_example_is_the_same() -> None:
    # The oracle of the tests of matchers: equal objectives mean equal functions of the weights.
    first, second = tensors_of(Mixture(0)), tensors_of(Mixture(1))
    product = sum((first[name] * second[name]).sum() for name in first)
    joint = sum((stacked(first)[name] * stacked(second)[name]).sum() for name in stacked(first))
    assert torch.allclose(torch.as_tensor(product), torch.as_tensor(joint))
