"""Networks ``Linear - operators - Linear``, with two oracles: random traced group elements, and the true group."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import permutations
from math import factorial, prod
from typing import TYPE_CHECKING, TypeAlias
from unittest import mock

import torch
from torch import Tensor, nn
from typing_extensions import override

from rebasin_core import trace_spec
from rebasin_core.specs.operators.catalogue import BUILT_IN_RULES
from rebasin_core.specs.operators.default import sights_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from rebasin_core import Call
    from rebasin_core.specs import TracedSpec
    from rebasin_core.specs.operators import Result, Rule

Operators: TypeAlias = "Callable[..., Tensor | tuple[Tensor, ...] | list[Tensor]]"

aten = torch.ops.aten
BATCH = 2
NUM_PARAMETERS = 3  # random parameter sets: discrete operators such as argmax may agree by chance for one


@dataclass(frozen=True)
class Case:
    """Operators on ``h``, ``[batch, width]``, and on parameters of some shapes."""

    width: int
    function: Operators
    shapes: tuple[tuple[int, ...], ...] = ()


class Network(nn.Module):
    """A dense layer, operators on its output, and a dense layer on one or all of their outputs."""

    def __init__(self, case: Case, output: int | None = None) -> None:
        super().__init__()
        self.case = case
        self.output = output
        self.first = nn.Linear(3, case.width)
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(shape)) for shape in case.shapes])
        self.double()
        self.last = nn.Linear(self.hidden(self.first(self.inputs())).shape[1], 2).double()

    @staticmethod
    def inputs() -> Tensor:
        return torch.randn(BATCH, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def outputs(self, hidden: Tensor) -> list[Tensor]:
        found = self.case.function(hidden, *self.weights)
        return [found] if isinstance(found, Tensor) else list(found)

    def hidden(self, hidden: Tensor) -> Tensor:
        found = self.outputs(hidden)
        chosen = found if self.output is None else [found[self.output]]
        return torch.cat([_rows(value) for value in chosen], 1)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.last(self.hidden(self.first(inputs)))
        return output


def _rows(value: Tensor) -> Tensor:
    if value.is_complex():
        value = torch.view_as_real(value.resolve_conj())
    return value.flatten(1).to(torch.float64)


def networks(case: Case) -> list[Network]:
    """Return the network that uses all outputs, and one network for each single output."""
    torch.manual_seed(0)
    alone = Network(case)
    count = len(alone.outputs(alone.first(alone.inputs())))
    return [alone] if count == 1 else [alone, *(Network(case, output) for output in range(count))]


def traced(network: nn.Module, inputs: Tensor, calls: list[Call]) -> TracedSpec:
    """Return the specification of a network, and append the calls of all rules to a list."""

    def recording(rule: Rule) -> Rule:
        def record(call: Call) -> Result:
            calls.append(call)
            return rule(call)

        return record

    rules = {name: recording(rule) for name, rule in BUILT_IN_RULES.items()}
    sights = sights_of(BUILT_IN_RULES)
    # Sights belong to rules, and the recording rules are others.
    with mock.patch("rebasin_core.specs.tracing.second.sights_of", return_value=sights):
        return trace_spec(network, inputs, method="execution", rules=rules)


def error_of(network: Network, spec: TracedSpec, tries: int = 6) -> float:
    """Return the largest change of the output under random group elements and random parameters."""
    generator = torch.Generator().manual_seed(0)
    inputs = network.inputs()
    largest = 0.0
    for _ in range(NUM_PARAMETERS if spec.groups else 0):
        values = {
            name: torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            for name, tensor in network.named_parameters()
        }
        expected = torch.func.functional_call(network, values, inputs)
        for _ in range(tries):
            permuted = spec.random_permutation(generator=generator).apply(values)
            found = torch.func.functional_call(network, permuted, inputs)
            change = ((found - expected).abs().max() / expected.abs().max()).item()
            largest = max(largest, change if change == change else 0.0)  # ruff: ignore[comparison-with-itself]
    return largest


def true_order(network: Network) -> int:
    """Return the number of pairs of permutations, of ``h`` and of the results, that preserve the function.

    By enumeration: a permutation of ``h`` is counted if it permutes the results of 24 random ``h``, once for each such
    permutation of the results. The network must not have other parameters.
    """
    width = network.case.width
    count = 12
    batch = torch.randn(count * BATCH, width, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    halves = batch.split(BATCH)
    expected = Counter(_columns(torch.cat([network.hidden(half) for half in halves])))
    copies = prod(factorial(number) for number in expected.values())
    found = 0
    for order in permutations(range(width)):
        columns = Counter(_columns(torch.cat([network.hidden(half[:, list(order)]) for half in halves])))
        found += columns == expected
    return found * copies


def _columns(values: Tensor) -> list[tuple[float, ...]]:
    rounded = (values.detach() * 1e6).round() / 1e6 + 0.0
    return [tuple(column) for column in rounded.T.tolist()]


def grid(hidden: Tensor, *shape: int) -> Tensor:
    """Return hidden units, ``[batch, width]``, in the shape ``[batch, *shape]``."""
    value: Tensor = hidden.unflatten(1, shape)
    return value


def column(values: Tensor) -> Tensor:
    """Return a parameter expanded to a batch of two."""
    return values.expand(2, *values.shape)


def after(hidden: Tensor, value: Tensor) -> Tensor:
    """Return the hidden units concatenated with a value that depends on parameters only."""
    return torch.cat([hidden, column(value).flatten(1).to(hidden.dtype)], 1)
