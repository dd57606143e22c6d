"""Like branches in graphs: exchanges are derived, checked on the model, and compared with enumerations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.specs import TracedSpec
from rebasin_core.specs.tracing.branches.regrouping import regrouped
from rebasin_core.specs.tracing.branches.stacking import Stacking
from rebasin_core.specs.tracing.capture import capture
from rebasin_core.specs.tracing.model_tensors import ModelTensors
from rebasin_core.symmetry.axis import is_fixed
from tests.symmetry.experts import EXPERTS, HIDDEN, WIDTH, Mixture, stacked, tensors_of

COUNT = 3


def modules(make: Callable[[], nn.Module]) -> nn.ModuleList:
    return nn.ModuleList([make() for _ in range(COUNT)])


def dense(hidden: int = 2) -> nn.Module:
    return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 2))


class Averaged(nn.Module):
    """The mean of the outputs of networks."""

    def __init__(self) -> None:
        super().__init__()
        self.members = modules(dense)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)


class Heads(nn.Module):
    """Attention with a module for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.query = modules(lambda: nn.Linear(4, 2))
        self.key = modules(lambda: nn.Linear(4, 2))
        self.value = modules(lambda: nn.Linear(4, 2))
        self.out = nn.Linear(2 * COUNT, 4)

    @override
    def forward(self, x: Tensor) -> Tensor:
        heads = zip(self.query, self.key, self.value, strict=True)
        found = [(query(x) @ key(x).mT).softmax(-1) @ value(x) for query, key, value in heads]
        output: Tensor = self.out(torch.cat(found, -1))
        return output


class Sides(nn.Module):
    """Two branches with names."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 2)

    @override
    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.out(self.left(x).tanh() + self.right(x).tanh())
        return output


class Aggregated(nn.Module):
    """A residual block of ResNeXt with a branch for each path."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 2)
        self.paths = modules(
            lambda: nn.Sequential(
                nn.Conv2d(4, 2, 1, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 4, 3, padding=1)
            )
        )

    @override
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.stem(x).relu()
        total = hidden
        for path in self.paths:
            total = torch.add(total, path(hidden))
        output: Tensor = self.head(total.relu().mean((2, 3)))
        return output


class Accumulated(Mixture):
    """Experts whose outputs are added to the memory of the result."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.embed(x))
        weights = self.gate(h).softmax(-1).unbind(-1)
        mixed = torch.zeros_like(h)
        for weight, expert in zip(weights, self.experts, strict=True):
            mixed += weight.unsqueeze(-1) * expert(h)
        output: Tensor = self.out(mixed + h)
        return output


class Summed(Mixture):
    """Experts whose outputs are added by `sum`, of the two with the largest weights only."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.embed(x))
        scores = self.gate(h)
        masked = scores.where(scores >= scores.topk(2).values[..., -1:], torch.zeros_like(scores))
        parts = [masked[..., number, None] * expert(h) for number, expert in enumerate(self.experts)]
        output: Tensor = self.out(sum(parts))
        return output


class Grouped(nn.Module):
    """Branches that read consecutive units each, whose outputs are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.branches = nn.Linear(4, 2 * COUNT), modules(lambda: nn.Linear(2, 2))
        self.out = nn.Linear(2 * COUNT, 2)

    @override
    def forward(self, x: Tensor) -> Tensor:
        parts = self.embed(x).tanh().chunk(COUNT, -1)
        found = [branch(part).tanh() for branch, part in zip(self.branches, parts, strict=True)]
        output: Tensor = self.out(torch.cat(found, -1))
        return output


def rows(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


F = math.factorial
CASES: dict[str, tuple[Callable[[], nn.Module], Tensor, int]] = {
    "gate": (Mixture, rows(6, 3), F(WIDTH) * F(EXPERTS) * F(HIDDEN) ** EXPERTS),
    "added to memory": (Accumulated, rows(6, 3), F(WIDTH) * F(EXPERTS) * F(HIDDEN) ** EXPERTS),
    "sum and topk": (Summed, rows(6, 3), F(WIDTH) ** 2 * F(EXPERTS) * F(HIDDEN) ** EXPERTS),
    "mean of stack": (Averaged, rows(6, 4), F(COUNT) * 2**COUNT),
    "heads": (Heads, rows(2, 5, 4), F(COUNT) * 2**COUNT * 2**COUNT),
    "names": (Sides, rows(6, 4), 2 * F(5)),
    "convolutions": (Aggregated, rows(2, 1, 6, 6), F(4) * F(COUNT) * 2**COUNT),
    "parts": (Grouped, rows(6, 4), F(COUNT) * 2**COUNT * 2**COUNT),
}


def order_of(spec: rc.PermutationSpec) -> float:
    return float(10**spec.layout.log10_order)


@pytest.mark.parametrize("name", CASES)
def test_order_of_the_derived_group(name: str) -> None:
    make, inputs, order = CASES[name]
    spec = rc.trace_spec(make(), inputs)
    assert order_of(spec) == pytest.approx(order, rel=1e-6)
    check = rc.check_spec(spec, make(), inputs)
    assert check.kept
    assert not check.untested


@pytest.mark.parametrize("name", CASES)
def test_graph_with_stacked_weights_computes_the_same(name: str) -> None:
    make, inputs, _ = CASES[name]
    model = make().double().eval()
    inputs = inputs.double()
    graph = capture(model, (inputs,), {}, "export")
    found = Stacking.of(graph, ModelTensors.of(model), ())
    assert found.labels
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    members: dict[str, list[str]] = {}
    for member, stack in found.stacks.items():
        members.setdefault(stack, []).append(member)
    joint = {stack: torch.stack([tensors[member] for member in own]) for stack, own in members.items()}
    changed = regrouped(graph, [site for site, _ in found.labels], found.stacks)
    values = [
        inputs if (origin := changed.origins[placeholder]) is None else {**tensors, **joint}[origin]
        for placeholder in changed.placeholders
    ]
    (output,) = changed.module(*values)
    assert torch.allclose(output, model(inputs), rtol=1e-12, atol=1e-12)


def test_groups_are_those_of_stacked_weights() -> None:
    spec = rc.trace_spec(Mixture(), rows(6, 3).double())
    axes = spec.layout.as_json()["axes"]
    assert axes["gate.weight"].split(", ")[0] == "experts"
    assert axes["experts.{experts}.up.weight"].startswith("experts.up.inner@experts, ")
    assert spec.layout.groups["experts"].size == EXPERTS


def test_kinds_of_maps_are_those_of_the_plain_graph() -> None:
    # One sign for each unit that tanh sees: of every expert, and of the embedding.
    spec = rc.trace_spec(Mixture(), rows(6, 3).double())
    assert spec.folded_symmetry.log2_signs == EXPERTS * HIDDEN + WIDTH


def test_planted_exchange_is_undone() -> None:
    model = Mixture()
    spec = rc.trace_spec(model, rows(6, 3).double())
    planted = spec.random_permutation(generator=torch.Generator().manual_seed(3))
    candidate = planted.apply(model)
    found = rc.match(model, candidate, spec, "weight")
    assert found.permutation == planted.inverse()
    reference, aligned = tensors_of(model), tensors_of(found.apply(candidate))
    assert all(torch.equal(aligned[name], tensor) for name, tensor in reference.items())


def permutations_that_preserve(model: nn.Module, inputs: Tensor, prefix: str) -> int:
    """Return the number of orders of the modules of a list that leave the outputs unchanged."""
    tensors = {name: tensor.detach() for name, tensor in model.named_parameters()}
    expected = torch.func.functional_call(model, tensors, (inputs,))
    found = 0
    for order in itertools.permutations(range(COUNT)):
        changed = dict(tensors)
        for name in tensors:
            if name.startswith(prefix):
                number, _, rest = name.removeprefix(prefix).partition(".")
                changed[name] = tensors[f"{prefix}{order[int(number)]}.{rest}"]
        found += bool(torch.allclose(torch.func.functional_call(model, changed, (inputs,)), expected, atol=1e-5))
    return found


def test_enumeration_of_orders() -> None:
    assert permutations_that_preserve(Averaged(), rows(6, 4), "members.") == F(COUNT)
    assert permutations_that_preserve(Weighted(), rows(6, 4), "members.") == 1


class Weighted(Averaged):
    """A weighted sum of networks: they cannot be exchanged."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([(1 + k) * member(x) for k, member in enumerate(self.members)]).sum(0)


class Ordered(Averaged):
    """Concatenated outputs of networks: they cannot be exchanged."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([member(x) for member in self.members], -1)


class Masked(Averaged):
    """Networks that are weighted by a constant of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scales", torch.tensor([1.0, 2.0, 3.0]))

    @override
    def forward(self, x: Tensor) -> Tensor:
        scales = self.get_buffer("scales")
        return torch.stack([scales[k] * member(x) for k, member in enumerate(self.members)]).sum(0)


class Reused(Averaged):
    """Networks of which one is used again."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        total = torch.stack([member(x) for member in self.members]).sum(0)
        output: Tensor = total * self.members[0](x)
        return output


class Noted(Averaged):
    """Networks whose first one also returns its output."""

    @override
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # a pair here
        outputs = [member(x) for member in self.members]
        return outputs[0] + outputs[1] + outputs[2], outputs[0]


class Residual(nn.Module):
    """Layers that follow each other: they cannot be exchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.out = modules(lambda: nn.Linear(4, 4)), nn.Linear(4, 2)

    @override
    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.add(x, layer(x).tanh())
        output: Tensor = self.out(x)
        return output


@pytest.mark.parametrize("make", [Weighted, Ordered, Masked, Reused, Noted, Residual])
def test_modules_that_cannot_be_exchanged_are_not(make: Callable[[], nn.Module]) -> None:
    spec = rc.trace_spec(make(), rows(6, 4))
    assert not spec.layout.stacks
    assert rc.check_spec(spec, make(), rows(6, 4)).kept


def test_frozen_experts_are_not_exchanged() -> None:
    spec = rc.trace_spec(Mixture(), rows(6, 3).double(), freeze=["experts.1.*"])
    assert not spec.layout.stacks
    assert is_fixed(spec.axes["experts.1.up.weight"][0])


def test_recorded_execution_has_the_same_group() -> None:
    spec = rc.trace_spec(Mixture(), rows(6, 3).double(), method="execution")
    assert order_of(spec) == pytest.approx(CASES["gate"][2], rel=1e-6)


def test_model_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = Averaged()
    spec = rc.trace_spec(model, rows(6, 4))
    assert order_of(spec) == pytest.approx(F(COUNT) * 2**COUNT, rel=1e-6)


def test_coverage_reports_stacks() -> None:
    spec = rc.trace_spec(Averaged(), rows(6, 4))
    assert isinstance(spec, TracedSpec)
    assert spec.coverage.groups == 2
    assert {axis.tensor for axis in spec.coverage.frozen} == {
        "members.{members}.0.weight", "members.{members}.2.weight", "members.{members}.2.bias",
    }  # fmt: skip


def test_stacked_example_has_the_traced_order() -> None:
    assert stacked(tensors_of(Mixture()))["up"].shape == (EXPERTS, HIDDEN, WIDTH)


class Operands(nn.Module):
    """A table for each of two operands, whose units are added: the tables cannot be exchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.W_x = nn.Parameter(torch.randn(5, 4))
        self.W_y = nn.Parameter(torch.randn(5, 4))
        self.out = nn.Linear(4, 3)

    @override
    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.out((self.W_x[x[:, 0]] + self.W_y[x[:, 1]]).relu())
        return outputs


def test_groups_of_units_do_not_have_the_name_of_a_stack() -> None:
    torch.manual_seed(0)
    model = Operands()
    inputs = torch.randint(0, 5, (6, 2))
    spec = rc.trace_spec(model, inputs)
    assert [group.size for group in spec.layout.groups.values()] == [4]
    rc.check_spec(spec, model, inputs).require()
