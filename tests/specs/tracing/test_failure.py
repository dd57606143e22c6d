"""Models and inputs that cannot be traced: every error is a `SpecError` with a remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.torch_version import TorchVersion
from typing_extensions import override

from rebasin_core import trace_spec
from rebasin_core.errors import SpecError
from tests.specs.tracing.graphs import Graph

if TYPE_CHECKING:
    from rebasin_core.specs.tracing.capture import Method

ROWS = torch.randn(6, 3)
METHODS: tuple[Method, ...] = ("auto", "export", "execution")


def _mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))


class _Masked(nn.Module):
    """A network whose number of rows depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)

    @override
    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        h = self.first(x).relu() * scale
        output: Tensor = self.last(h[h.sum(1) > 0])
        return output


def _raising(net: object, x: Tensor) -> Tensor:
    del net, x
    message = "my own\nmessage"
    raise ValueError(message)


class _Returning(nn.Module):
    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output
        self.layer = nn.Linear(3, 2)

    @override
    def forward(self, x: Tensor) -> object:
        self.layer(x)
        return self.output


def _scripted() -> nn.Module:
    model: nn.Module = torch.jit.script(_mlp())
    return model


def _quantized() -> nn.Module:
    model: nn.Module = torch.ao.quantization.quantize_dynamic(_mlp(), {nn.Linear})
    return model


def _on_meta() -> nn.Module:
    with torch.device("meta"):
        return _Masked()


CASES: list[Any] = [
    (lambda x: x, ROWS, "expected a torch.nn.Module as the model, got a function"),
    (nn.Linear, ROWS, "got the class Linear; create an instance"),
    (nn.Sequential(nn.LazyLinear(8)), ROWS, r"'0.weight' is a lazy parameter .* run the model on one batch"),
    (Graph(_raising, a=nn.Linear(3, 2)), ROWS, r"cannot be run on the example inputs, .* ValueError: my own\. Pass"),
    (nn.Module(), ROWS, "Pass a module that has a `forward` method"),
    (_mlp(), torch.randn(6, 4), "Pass inputs of the shapes that the model expects"),
    (_mlp(), [ROWS], "Pass inputs of the shapes that the model expects"),
    (
        nn.Conv1d(1, 2, 1),
        torch.ones(2, 1, 3).long(),
        "Pass inputs of a dtype that the model accepts; its parameters are torch",
    ),
    (
        nn.Bilinear(3, 3, 2),
        ROWS,
        r"does not accept the example inputs \(1 positional\): missing .* 'input2'. Pass several",
    ),
    (_mlp(), (ROWS, ROWS), "too many positional arguments"),
    (_mlp(), ROWS.numpy(), r"got a numpy.ndarray; pass `torch.as_tensor\(...\)`"),
    (_mlp(), (6, 3), r"got integers \(6, 3\); for a shape, pass `torch.zeros\(\(6, 3\)\)`"),
    (_on_meta(), ROWS, "meta device, where tensors have no values"),
    (_Returning(None), ROWS, "expected a model that returns tensors, got no tensor in the output"),
    (_Returning("text"), ROWS, "got no tensor in the output of _Returning"),
    pytest.param(
        _mlp(),
        torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3)], layout=torch.jagged),
        "Pass padded tensors instead of nested ones",
        marks=pytest.mark.skipif(
            TorchVersion(torch.__version__) < "2.13", reason="the exporter fails on nested tensors with another error"
        ),
    ),
]


@pytest.mark.parametrize(("model", "inputs", "message"), CASES)
def test_errors_name_the_problem_and_a_remedy(
    model: Any, inputs: object, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        trace_spec(model, inputs)
    assert "\n" not in str(caught.value)
    assert "method='execution'" not in str(caught.value)  # it does not help here
    printed = capfd.readouterr()
    assert not printed.out + printed.err


@pytest.mark.filterwarnings("ignore:.*(jit|quantiz).*")
@pytest.mark.parametrize("method", METHODS)
def test_compiled_and_quantized_models_are_errors_for_every_method(method: Method) -> None:
    with pytest.raises(SpecError, match=r"compiled to TorchScript; trace the original module"):
        trace_spec(_scripted(), ROWS, method=method)
    with pytest.raises(
        SpecError, match=r"its module '0', a Linear, stores quantized, packed weights .* before quantization"
    ):
        trace_spec(_quantized(), ROWS, method=method)


def test_errors_name_unknown_keyword_inputs() -> None:
    with pytest.raises(SpecError, match=r"forward\(x: .*scale: .*keywords 'temperature'.*unexpected keyword"):
        trace_spec(_Masked(), ROWS, kwargs={"temperature": 2.0})
    assert trace_spec(_Masked(), ROWS, kwargs={"scale": 2.0}).groups


def test_another_method_is_suggested_only_if_it_helps() -> None:
    with pytest.raises(SpecError, match=r"the length of an axis depends on .* or `method='auto'` to try both"):
        trace_spec(_Masked(), ROWS, method="export")
    with pytest.raises(SpecError, match="cannot be run on the example inputs"):
        trace_spec(_mlp(), torch.randn(6, 4), method="export")
