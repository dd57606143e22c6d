"""Analysis of how a model uses its weights, for different implementations, and interception of its products."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.errors import RebasinWarning
from rebasin_core.evaluation import FunctionalModel
from rebasin_core.evaluation.reading import Interception, ModelReading, Product, WeightUse
from tests.evaluation.implementations import IMPLEMENTATIONS, layers, spec_of


class FunctionModule(nn.Module):
    """A module that applies a function to its inputs and parameters."""

    def __init__(self, function: Callable[..., Tensor], **shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        generator = torch.Generator().manual_seed(0)
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)))

    @override
    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs, *self.parameters())


def reading_of(model: nn.Module, *inputs: Tensor) -> ModelReading:
    return FunctionalModel(model, dtype=torch.float64).reading_of_call(inputs, {})


def short(use: WeightUse) -> tuple[str, int | None, tuple[int, ...], str | None, int]:
    return use.name, use.output_axis, use.input_axes, use.bias, use.unit_dim


ROWS, IMAGES, TOKENS = torch.zeros(2, 5), torch.zeros(2, 4, 8, 8), torch.zeros(2, 3, 5)

# Function, shapes of its parameters, inputs, and the expected products.
PRODUCTS: dict[str, tuple[Callable[..., Tensor], dict[str, tuple[int, ...]], Tensor, list[tuple[Any, ...]]]] = {
    "linear": (functional.linear, {"w": (7, 5), "b": (7,)}, ROWS, [("w", 0, (1,), "b", -1)]),
    "linear without bias": (functional.linear, {"w": (7, 5)}, TOKENS, [("w", 0, (1,), None, -1)]),
    "stored as inputs, outputs": (lambda x, w, b: x @ w + b, {"w": (5, 7), "b": (7,)}, ROWS, [("w", 1, (0,), "b", -1)]),
    "square": (operator.matmul, {"w": (5, 5)}, ROWS, [("w", 1, (0,), None, -1)]),
    "square, transposed": (lambda x, w: x @ w.t(), {"w": (5, 5)}, ROWS, [("w", 0, (1,), None, -1)]),
    "from the left": (lambda x, w, b: (w @ x.T).T + b, {"w": (7, 5), "b": (7,)}, ROWS, [("w", 0, (1,), "b", -1)]),
    "a column of biases": (lambda x, w, b: w @ x.T + b, {"w": (7, 5), "b": (7, 1)}, ROWS, [("w", 0, (1,), "b", -2)]),
    "addmm": (lambda x, w, b: torch.addmm(b, x, w.mT), {"w": (7, 5), "b": (7,)}, ROWS, [("w", 0, (1,), "b", -1)]),
    "einsum": (
        lambda x, w, b: torch.einsum("nti,io->not", x, w) + b[:, None],
        {"w": (5, 7), "b": (7,)},
        TOKENS,
        [("w", 1, (0,), "b", -2)],
    ),
    "einsum with dots": (
        lambda x, w: torch.einsum("...i,oi->...o", x, w),
        {"w": (7, 5)},
        TOKENS,
        [("w", 0, (1,), None, -1)],
    ),
    "einsum without arrow": (lambda x, w: torch.einsum("ni,io", x, w), {"w": (5, 7)}, ROWS, [("w", 1, (0,), None, -1)]),
    "einsum of a list": (
        lambda x, w: torch.einsum("ni,io->no", [x, w]),
        {"w": (5, 7)},
        ROWS,
        [("w", 1, (0,), None, -1)],
    ),
    "einsum of sublists": (
        lambda x, w: torch.einsum(x, [0, 1], w, [1, 2], [0, 2]),
        {"w": (5, 7)},
        ROWS,
        [("w", 1, (0,), None, -1)],
    ),
    "tensordot": (lambda x, w: torch.tensordot(x, w, 1), {"w": (5, 7)}, ROWS, [("w", 1, (0,), None, -1)]),
    "in place": (lambda x, w, b: (x @ w).add_(b).relu_(), {"w": (5, 7), "b": (7,)}, ROWS, [("w", 1, (0,), "b", -1)]),
    "vector": (operator.matmul, {"w": (5,)}, ROWS, [("w", None, (0,), None, -1)]),
    "bilinear": (
        lambda x, w, b: functional.bilinear(x, x, w, b),
        {"w": (7, 5, 5), "b": (7,)},
        ROWS,
        [("w", 0, (1, 2), "b", -1)],
    ),
    "convolution": (
        lambda x, w, b: functional.conv2d(x, w, b, padding=1),
        {"w": (7, 4, 3, 3), "b": (7,)},
        IMAGES,
        [("w", 0, (1,), "b", -3)],
    ),
    "convolution in groups": (
        lambda x, w, b: functional.conv2d(x, w, groups=2) + b[:, None, None],
        {"w": (6, 2, 3, 3), "b": (6,)},
        IMAGES,
        [("w", 0, (1,), "b", -3)],
    ),
    "transposed convolution": (
        lambda x, w, b: functional.conv_transpose2d(x, w, b, stride=2),
        {"w": (4, 7, 3, 3), "b": (7,)},
        IMAGES,
        [("w", 1, (0,), "b", -3)],
    ),
    "two layers": (
        lambda x, w, b, v: functional.linear(torch.tanh(x @ w + b), v),
        {"w": (5, 7), "b": (7,), "v": (3, 7)},
        ROWS,
        [("w", 1, (0,), "b", -1), ("v", 0, (1,), None, -1)],
    ),
    "two biases": (
        lambda x, w, b, c: x @ w + b + c,
        {"w": (5, 7), "b": (7,), "c": (7,)},
        ROWS,
        [("w", 1, (0,), "b", -1)],
    ),
    "added term is not a bias": (
        lambda x, w, p: functional.linear(x, w) + p,
        {"w": (5, 5), "p": (3, 5)},
        TOKENS,
        [("w", 0, (1,), None, -1)],
    ),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_products_are_recognized(case: str) -> None:
    function, shapes, inputs, expected = PRODUCTS[case]
    assert [short(use) for use in reading_of(FunctionModule(function, **shapes), inputs).uses] == expected


@pytest.mark.parametrize("case", [case for case, (_, _, _, uses) in PRODUCTS.items() if uses[0][1] is not None])
def test_units_of_a_product_are_those_of_its_weight(case: str) -> None:
    """Oracle: scaling weight and bias unit by unit scales the intercepted outputs by the same factors."""
    function, shapes, inputs, _ = PRODUCTS[case]
    model = FunctionalModel(FunctionModule(function, **shapes), dtype=torch.float64)
    x = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    tensors = {name: p.detach() for name, p in model.module.named_parameters()}
    use = reading_of(model.module, inputs).uses[0]

    def outputs(given: dict[str, Tensor]) -> Tensor:
        seen: list[Tensor] = []

        def keep(_: WeightUse, output: Tensor) -> Tensor:
            seen.append(use.by_unit(output).clone())
            return output

        with Interception([use], given, on_output=keep):
            model(given, x)
        assert len(seen) == 1
        return seen[0]

    before = outputs(tensors)
    scale = torch.arange(1.0, len(before) + 1, dtype=torch.float64)
    scaled = tensors | {use.name: tensors[use.name] * use.along_weight(scale, tensors[use.name])}
    if use.bias is not None:
        scaled[use.bias] = tensors[use.bias] * scale.reshape(tensors[use.bias].shape)
    torch.testing.assert_close(outputs(scaled), before * scale[:, None])


@pytest.mark.parametrize("case", [case for case, (_, _, _, uses) in PRODUCTS.items() if uses[0][1] is not None])
def test_products_with_other_weights_and_their_variance(case: str) -> None:
    """Oracles: the product of a model with the other weights, and the variance as a sum over basis vectors."""
    function, shapes, inputs, _ = PRODUCTS[case]
    model = FunctionalModel(FunctionModule(function, **shapes), dtype=torch.float64)
    use = reading_of(model.module, inputs).uses[0]
    if not use.is_linear:
        pytest.skip("not linear in one tensor of activations: it cannot be computed with other weights")
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(inputs.shape, generator=generator, dtype=torch.float64)
    tensors = {name: p.detach() for name, p in model.module.named_parameters()}
    other = {name: torch.rand(t.shape, generator=generator, dtype=torch.float64) for name, t in tensors.items()}
    found: list[Tensor] = []

    def compute(use: WeightUse, product: Product) -> Tensor:
        bias = None if use.bias is None else other[use.bias]
        found.extend([
            product.output_with(product.inputs, other[use.name], bias),
            product.output_with(product.inputs, other[use.name], None),
        ])
        variance = product.variance(other[use.name], bias)
        assert variance is not None
        found.append(variance)
        return product.output()

    def basis(weight: Tensor) -> Tensor:
        """Return the product of the inputs with a weight, without a bias."""
        kept: list[Tensor] = []

        def keep(_: WeightUse, product: Product) -> Tensor:
            kept.append(product.output())
            return kept[0].clone()  # a later function may modify its inputs in place

        zeros = {name: torch.zeros_like(t) for name, t in tensors.items()}
        with Interception([use], zeros | {use.name: weight}, on_product=keep):
            model(zeros | {use.name: weight}, x)
        return kept[0]

    with Interception([use], tensors, on_product=compute):
        model(tensors, x)
    plain = basis(other[use.name])
    shift = 0 if use.bias is None else use.along_units(other[use.bias])
    torch.testing.assert_close(found[0], plain + shift)
    torch.testing.assert_close(found[1], plain)
    total = torch.zeros_like(plain)
    for index in range(tensors[use.name].numel()):
        one = torch.zeros_like(tensors[use.name])
        one.view(-1)[index] = 1
        total += other[use.name].flatten()[index] * basis(one).square()
    torch.testing.assert_close(found[2], total + shift)


def roles(reading: ModelReading) -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
    return set(reading.input_axes), set(reading.unclear_axes)


def test_input_axes_and_unclear_axes() -> None:
    # A weighted sum over units.
    pooled = FunctionModule(lambda x, w, v: (v * torch.tanh(x @ w)).sum(-1), w=(5, 7), v=(7,))
    assert roles(reading_of(pooled, ROWS)) == ({("w", 0), ("v", 0)}, set())
    scaled = FunctionModule(lambda x, w, g, v: (g * (x @ w)) @ v, w=(5, 7), g=(7,), v=(7, 3))
    assert roles(reading_of(scaled, ROWS)) == ({("w", 0), ("v", 0)}, set())
    # Parts of a weight, weights computed from others, and lookups.
    parts = FunctionModule(lambda x, w: torch.cat([x @ part.T for part in w.chunk(2)], -1), w=(6, 5))
    assert roles(reading_of(parts, ROWS)) == ({("w", 1)}, set())
    masked = FunctionModule(lambda x, w: functional.linear(x, w * torch.ones(7, 5).tril()), w=(7, 5))
    assert roles(reading_of(masked, ROWS)) == ({("w", 1)}, set())
    joined = FunctionModule(lambda x, w, v: functional.linear(x, torch.cat([w, v])), w=(7, 5), v=(2, 5))
    assert roles(reading_of(joined, ROWS)) == ({("w", 1), ("v", 1)}, set())
    table = FunctionModule(lambda x, e, w: functional.embedding(x, e) @ w, e=(4, 5), w=(5, 3))
    assert roles(reading_of(table, torch.tensor([[0, 1]]))) == ({("w", 0)}, set())
    # It is unknown which of two factors reads the other; the axis that reads activations is known.
    low_rank = FunctionModule(lambda x, w, b, a: functional.linear(x, w + b @ a), w=(7, 5), b=(7, 2), a=(2, 5))
    assert roles(reading_of(low_rank, ROWS)) == ({("w", 1), ("a", 1)}, {("b", 1), ("a", 0)})
    tied = FunctionModule(lambda x, e: functional.linear(functional.embedding(x, e), e), e=(4, 5))
    assert roles(reading_of(tied, torch.tensor([[0, 1]]))) == (set(), {("e", 1)})
    unknown = FunctionModule(torch.cdist, w=(7, 5))
    assert roles(reading_of(unknown, ROWS)) == (set(), {("w", 0), ("w", 1)})


def test_layers_of_pytorch() -> None:
    attention = nn.TransformerDecoderLayer(4, 2, dim_feedforward=6, batch_first=True)
    reading = reading_of(attention, torch.zeros(2, 5, 4), torch.zeros(2, 5, 4))
    weights = {name for name, p in attention.named_parameters() if p.dim() == 2}
    assert roles(reading) == ({(name, 1) for name in weights}, set())
    assert reading.excluded == {"multihead_attn.in_proj_weight": "it is used in parts"}
    assert {use.bias for use in reading.layers} >= {"self_attn.in_proj_bias", "self_attn.out_proj.bias", "linear1.bias"}
    for layer in (nn.LSTM(5, 7, batch_first=True, proj_size=2), nn.GRU(5, 7, 2), nn.RNN(5, 7)):
        recurrent = reading_of(layer, TOKENS)
        matrices = {name for name, p in layer.named_parameters() if p.dim() == 2}
        assert roles(recurrent) == ({(name, 1) for name in matrices}, set())
        assert set(recurrent.excluded) == matrices
    cell = reading_of(nn.LSTMCell(5, 7), ROWS)
    assert roles(cell) == ({("weight_ih", 1), ("weight_hh", 1)}, set())
    depthwise = reading_of(nn.ConvTranspose2d(4, 4, 3, groups=4), IMAGES)
    assert roles(depthwise) == (set(), set())
    normed = reading_of(nn.Sequential(nn.Conv2d(4, 6, 3), nn.GroupNorm(2, 6), nn.BatchNorm2d(6).eval()), IMAGES)
    assert roles(normed) == ({("0.weight", 1)}, set())
    for wrap in (parametrizations.weight_norm, parametrizations.spectral_norm):
        wrapped: nn.Module = wrap(nn.Linear(5, 7)).eval()
        found = reading_of(wrapped, ROWS)
        name = max((n for n, p in wrapped.named_parameters() if p.shape == (7, 5)), key=len)
        assert roles(found) == ({(name, 1)}, set())
        assert name in found.excluded


def test_weights_of_unknown_origin_are_reported() -> None:
    class Hidden(nn.Module):
        """A product with a tensor that is computed from the parameter outside of PyTorch."""

        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(7, 5))

        @override
        def forward(self, x: Tensor) -> Tensor:
            return functional.linear(x, torch.tensor(self.w.tolist(), dtype=x.dtype))

    class Attribute(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.basis = nn.Parameter(torch.ones(7, 5)), [torch.ones(5, 5, dtype=torch.float64)]

        @override
        def forward(self, x: Tensor) -> Tensor:
            return functional.linear(x, self.basis[0])

    assert not reading_of(Hidden(), ROWS).uses
    assert "no use of it was seen" in reading_of(Attribute(), ROWS).excluded["w"]


def test_a_model_is_read_once() -> None:
    model = FunctionalModel(IMPLEMENTATIONS["linear"](layers()))
    assert model.reading(torch.zeros(2, 5)) is model.reading(torch.ones(2, 5))


def test_interception_does_not_change_the_outputs() -> None:
    model = nn.TransformerEncoderLayer(8, 2, dim_feedforward=12, batch_first=True).double().eval()
    functional_model = FunctionalModel(model, dtype=torch.float64)
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    tensors = {name: p.detach() for name, p in model.named_parameters()}
    reading = functional_model.reading(x[:2])
    seen: list[str] = []

    def look(use: WeightUse, output: Tensor) -> Tensor:
        seen.append(use.name)
        return output

    with Interception(reading.layers, tensors, on_output=look):
        outputs = functional_model(tensors, x)
    torch.testing.assert_close(outputs, model(x).detach())
    assert seen == ["self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"]


@pytest.mark.parametrize("matcher", ["activation", "gradient"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_matching_does_not_depend_on_the_implementation(implementation: str, matcher: str) -> None:
    model = IMPLEMENTATIONS[implementation](layers())
    spec = spec_of(model)
    planted = spec.random_permutation(generator=torch.Generator().manual_seed(1))
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = rc.match(model, planted.apply(model), spec, matcher, task=rc.Task(model, [(x, torch.arange(60) % 3)]))
    assert found.permutation == planted.inverse()


def test_a_warning_names_groups_that_no_product_computes() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.cell, self.head = nn.Linear(5, 6), nn.GRU(6, 4, batch_first=True), nn.Linear(4, 3)

        @override
        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.head(self.cell(self.up(x)[:, None])[0][:, 0])
            return output

    model = Recurrent()
    spec = rc.trace_spec(model, torch.zeros(2, 5))
    data = [(torch.randn(20, 5), torch.arange(20) % 3)]
    with pytest.warns(RebasinWarning, match=r"no product with a weight computes.*`cell.weight_hh_l0`.*gru"):
        rc.match(model, model, spec, "activation", task=rc.Task(model, data))
