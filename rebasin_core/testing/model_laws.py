"""The laws of architectures, specification factories and operator rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from rebasin_core.api.tracing import trace_spec
from rebasin_core.specs.check import check_spec
from rebasin_core.tensors.modules import copied, named_tensors
from rebasin_core.testing.cases import network
from rebasin_core.testing.law import expect, expect_equal, law, seeded

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from rebasin_core.architectures.base import Architecture
    from rebasin_core.specs.base import SpecFactory

# Images of one channel, as in all built-in datasets but CIFAR-10.
_INPUT_SHAPE = (1, 8, 8)
_OUTPUTS = 5


def _model(architecture: object, seed: int) -> nn.Module:
    return cast("Architecture", architecture).build(_INPUT_SHAPE, _OUTPUTS, generator=seeded(seed))


def _inputs(architecture: object) -> Tensor:
    return cast("Architecture", architecture).example_inputs(_INPUT_SHAPE, _OUTPUTS, count=4, generator=seeded())


@law("architecture")
def shapes(architecture: object, folder: Path) -> None:
    """A network maps a batch of examples to one row of outputs each."""
    del folder
    with torch.no_grad():
        outputs = _model(architecture, 0).eval()(_inputs(architecture))
    expect(
        tuple(outputs.shape[:2]) == (4, _OUTPUTS),
        f"expected an output shape that starts with {(4, _OUTPUTS)}, got {tuple(outputs.shape)}",
    )


@law("architecture")
def seeded_initialization(architecture: object, folder: Path) -> None:
    """The parameters depend only on the given generator: equal seeds give equal networks, others do not."""
    del folder
    state = torch.get_rng_state()
    first = named_tensors(_model(architecture, seed=1))
    second = named_tensors(_model(architecture, seed=1))
    other = named_tensors(_model(architecture, seed=2))
    expect_equal(first, second, "two networks with the same seed")
    expect(any(not torch.equal(first[name], other[name]) for name in first), "two different seeds give equal networks")
    expect(torch.equal(state, torch.get_rng_state()), "the global generator was used")


@law("architecture")
def function_preserved(architecture: object, folder: Path) -> None:
    """Group elements of the specification leave the outputs unchanged, to a relative error of 1e-9 in float64."""
    del folder
    model = _model(architecture, 3)
    spec = cast("Architecture", architecture).spec(model)
    found = check_spec(spec, model, _inputs(architecture), generator=seeded(1))
    expect(found.passed, str(found))
    expect(spec.groups, "the specification has no groups")


@law("spec")
def derived_function_preserved(factory: object, folder: Path) -> None:
    """The specification derived for an MLP 6-5-4-3 preserves its function, and the model is not changed."""
    del folder
    case = network()
    inputs = case.data[0][0]
    before = copied(named_tensors(case.model))
    spec = cast("SpecFactory", factory).derive(case.model, inputs)
    expect_equal(named_tensors(case.model), before, "the model after deriving")
    found = check_spec(spec, case.model, inputs, generator=seeded(1))
    expect(found.passed, str(found))


@law("operator_rules")
def rules_are_sound(example: object, folder: Path) -> None:
    """Group elements of the traced specification preserve the function of a network with these operators."""
    del folder
    model, inputs = cast("tuple[nn.Module, Tensor]", example)
    spec = trace_spec(model, inputs)
    expect(not spec.coverage.without_rule, f"operators without a rule: {sorted(spec.coverage.without_rule)}")
    expect(spec.groups, "the traced specification of the example has no groups, so it tests nothing")
    found = check_spec(spec, model, inputs, generator=seeded(1))
    expect(found.kept, f"{found}\n{spec.layout.as_json()['axes']}")
