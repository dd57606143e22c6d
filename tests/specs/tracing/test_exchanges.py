"""The traced group compared with the true group by enumeration: permutations of whole tensors."""

from __future__ import annotations

from itertools import permutations, product, starmap
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rebasin_core import trace_spec
from tests.specs.tracing.graphs import Graph, Net, parameter

if TYPE_CHECKING:
    from collections.abc import Iterable

INPUTS = torch.randn(16, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _orders(model: nn.Module, candidates: Iterable[dict[str, Tensor]]) -> tuple[int, int]:
    """Return the order of the traced group, and the number of candidates that preserve the function."""
    model.double()
    expected = model(INPUTS)
    preserving = sum(
        torch.allclose(torch.func.functional_call(model, tensors, INPUTS), expected, atol=1e-9)
        for tensors in candidates
    )
    return round(10 ** trace_spec(model, INPUTS).layout.log10_order), preserving


def test_members_of_a_sum() -> None:
    torch.manual_seed(0)
    members = nn.ModuleList(nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1), nn.Tanh()) for _ in range(3))
    model = Graph(lambda net, x: sum(member(x) for member in net.members), members=members).double()
    values = dict(model.named_parameters())
    units = [(member, unit) for member in range(3) for unit in range(2)]

    def permuted(order: tuple[int, ...], biases: tuple[int, ...]) -> dict[str, Tensor]:
        chosen = [units[index] for index in order]
        found: dict[str, Tensor] = {}
        for member in range(3):
            own = chosen[2 * member : 2 * member + 2]
            rows = [values[f"members.{m}.0.weight"][u] for m, u in own]
            found[f"members.{member}.0.weight"] = torch.stack(rows)
            found[f"members.{member}.0.bias"] = torch.stack([values[f"members.{m}.0.bias"][u] for m, u in own])
            columns = [values[f"members.{m}.2.weight"][0, u] for m, u in own]
            found[f"members.{member}.2.weight"] = torch.stack(columns)[None]
            found[f"members.{member}.2.bias"] = values[f"members.{biases[member]}.2.bias"]
        return found

    candidates = (permuted(order, biases) for order in permutations(range(6)) for biases in permutations(range(3)))
    assert _orders(model, candidates) == (48, 48)


def test_equal_branches() -> None:
    torch.manual_seed(0)
    model = Graph(lambda net, x: net.last(net.a(x).tanh() * net.b(x).tanh()), a=nn.Linear(3, 4), b=nn.Linear(3, 4),
                  last=nn.Linear(4, 2)).double()  # fmt: skip
    values = dict(model.named_parameters())

    def permuted(order: tuple[int, ...], swapped: tuple[bool, ...]) -> dict[str, Tensor]:
        index = list(order)
        swap = torch.tensor(swapped)
        found = {"last.weight": values["last.weight"][:, index]}
        for one, other in (("a", "b"), ("b", "a")):
            for name in ("weight", "bias"):
                own, its = values[f"{one}.{name}"][index], values[f"{other}.{name}"][index]
                found[f"{one}.{name}"] = torch.where(swap if name == "bias" else swap[:, None], its, own)
        return found

    candidates = (
        permuted(order, swap) for order in permutations(range(4)) for swap in product([False, True], repeat=4)
    )
    assert _orders(model, candidates) == (24, 24 * 2**4)


def test_heads_that_are_separate_modules() -> None:
    torch.manual_seed(0)

    def forward(net: Net, x: Tensor) -> Net:
        return net.last(torch.cat([head(x).softmax(-1) @ net.shared for head in net.heads], -1))

    heads = nn.ModuleList(nn.Linear(3, 2) for _ in range(3))
    model = Graph(forward, heads=heads, shared=parameter(2, 2), last=nn.Linear(6, 2)).double()
    values = dict(model.named_parameters())

    def permuted(order: tuple[int, ...], rows: tuple[int, ...], columns: tuple[int, ...]) -> dict[str, Tensor]:
        found = {"shared": values["shared"][list(rows)][:, list(columns)]}
        for index, head in enumerate(order):
            for name in ("weight", "bias"):
                found[f"heads.{index}.{name}"] = values[f"heads.{head}.{name}"][list(rows)]
        widths = values["last.weight"].unflatten(1, (3, 2))
        found["last.weight"] = widths[:, list(order)][:, :, list(columns)].flatten(1)
        return found

    choices = product(permutations(range(3)), permutations(range(2)), permutations(range(2)))
    assert _orders(model, starmap(permuted, choices)) == (24, 24)


def test_a_table_that_is_looked_up_by_its_nearest_row() -> None:
    torch.manual_seed(0)

    def forward(net: Net, x: Tensor) -> Net:
        return net.last(nn.functional.embedding(torch.cdist(net.first(x), net.table).argmin(1), net.table))

    model = Graph(forward, first=nn.Linear(3, 2), table=parameter(4, 2), last=nn.Linear(2, 2)).double()
    values = dict(model.named_parameters())

    def permuted(rows: tuple[int, ...], columns: tuple[int, ...]) -> dict[str, Tensor]:
        index = list(columns)
        return {
            "first.weight": values["first.weight"][index],
            "first.bias": values["first.bias"][index],
            "table": values["table"][list(rows)][:, index],
            "last.weight": values["last.weight"][:, index],
        }

    choices = product(permutations(range(4)), permutations(range(2)))
    assert _orders(model, starmap(permuted, choices)) == (48, 48)
