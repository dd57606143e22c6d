r"""Derived linear symmetries ascalest a numerical count.

At generic parameters, the directions that leave all outputs unchanged to first order form the null space of the
Jacobian of the outputs with respect to all parameters. Its dimension equals that of the derived symmetries, plus the
scales of normalizations that are folded into the next weights, plus the dimension of families that are not linear
maps of units. The last number has a closed form, which each case states.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.architectures import GPTArchitecture, ViTArchitecture
from tests.specs.kinds.networks import TOKENS, VOCABULARY, WIDTH, Block, Gated, convolutional, dense, images

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from rebasin_core.architectures.base import Architecture


def layer_norm(width: int) -> nn.Module:
    """Return a normalization whose epsilon is visible: without it, the scale of its input is a symmetry."""
    return nn.LayerNorm(width, eps=0.1)


def rms_norm(width: int) -> nn.Module:
    return nn.RMSNorm(width, eps=0.1)


class OffsetNorm(nn.RMSNorm):
    """A normalization that multiplies by one plus its parameter."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=0.1)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, self.normalized_shape, 1 + self.weight, self.eps)


class Experts(nn.Module):
    """A mixture of experts with stacked weights, weighted by a softmax."""

    def __init__(self, experts: int = 3, hidden: int = 2) -> None:
        super().__init__()
        self.gate = nn.Linear(4, experts)
        self.up = nn.Parameter(torch.randn(experts, hidden, 4))
        self.down = nn.Parameter(torch.randn(experts, 2, hidden))

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        hidden = nn.functional.leaky_relu(torch.einsum("bi,ehi->beh", inputs, self.up), 0.1)
        values = torch.einsum("beh,eoh->beo", hidden, self.down)
        output: Tensor = (self.gate(inputs).softmax(-1)[..., None] * values).sum(1)
        return output


def vectors(size: int, count: int = 300) -> Tensor:
    return 2 * torch.randn(count, size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def sequences() -> Tensor:
    """Return all sequences of tokens."""
    return torch.cartesian_prod(*[torch.arange(VOCABULARY)] * TOKENS)


def image_batches() -> Tensor:
    return torch.randn(130, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def built(architecture: Architecture, *arguments: Any) -> nn.Module:
    """Return a model of the library whose normalizations have a visible epsilon."""
    model = architecture.build(*arguments)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 0.1
    return model


SIZES = {"width": WIDTH, "depth": 1, "heads": 2, "hidden": 3}


@dataclass(frozen=True)
class Case:
    """A model, inputs, and the dimensions of the families that are not linear maps of units.

    Attributes:
        build: Returns the model.
        inputs: Returns inputs: enough to determine the function.
        others: Dimensions of the other families, by description.
        is_offset: Whether normalizations multiply by one plus their parameter.
        is_tied: Whether the scale of a normalization cannot be folded, because the next weight has other uses.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    others: Mapping[str, int] = field(default_factory=dict)
    is_tied: bool = False
    is_offset: bool = False


def around_norms(readers: int, writers: int, *, biases: int) -> dict[str, int]:
    """Return the families around layer normalizations of a stream.

    Args:
        readers: Rows of all weights that read a normalized stream.
        writers: Columns of all weights that write to the stream, with biases.
        biases: Number of shifts of normalizations.
    """
    return {
        "a multiple of the ones in a row that reads units with mean zero": readers,
        "a number added to all units of the stream, of which the mean is subtracted": writers,
        "the shift of a normalization ascalest the biases that follow": biases,
    }


def of_attention(*, keys: int, values: int) -> dict[str, int]:
    """Return the families of attention with biases."""
    return {
        "the bias of a key, under a softmax over keys": keys,
        "the bias of a value ascalest that of the output": values,
    }


BLOCK_READERS = 3 * WIDTH + 3 + VOCABULARY  # query, key, value, up, head
# embed and position (whose exchange is counted elsewhere), out, down, and the biases of these two
BLOCK_WRITERS = VOCABULARY + TOKENS - 1 + WIDTH + 3 + 2
POSITIONS = {"a vector added to all tokens and subtracted from all positions": WIDTH}

CASES: dict[str, Case] = {
    "leaky relu": Case(lambda: dense(nn.LeakyReLU(0.1), 5, 4), partial(vectors, 3)),
    "relu": Case(lambda: dense(nn.ReLU(), 5, 4), partial(vectors, 3)),
    "tanh": Case(lambda: dense(nn.Tanh(), 5, 4), partial(vectors, 3)),
    "gelu": Case(lambda: dense(nn.GELU(), 5, 4), partial(vectors, 3)),
    "linear": Case(lambda: dense(nn.Identity(), 2), partial(vectors, 3), {"a bias ascalest the next bias": 2}),
    "gated": Case(Gated, partial(vectors, 3)),
    "convolutions": Case(lambda: convolutional(nn.LeakyReLU(0.1)), partial(images, 120)),
    "batch norm": Case(
        lambda: convolutional(nn.BatchNorm2d(4), nn.LeakyReLU(0.1), bias=False),
        partial(images, 120),
        {"the scale of a unit ascalest the scale of its normalization, with given statistics": 4},
    ),
    "layer norm": Case(
        lambda: nn.Sequential(nn.Linear(7, 5), layer_norm(5), nn.Linear(5, 4)),
        partial(vectors, 7),
        around_norms(4, 7 + 1, biases=5),
    ),
    "rms norm": Case(lambda: nn.Sequential(nn.Linear(7, 5), rms_norm(5), nn.Linear(5, 4)), partial(vectors, 7)),
    "attention with layer norms": Case(
        lambda: Block(layer_norm),
        sequences,
        {
            **around_norms(BLOCK_READERS, BLOCK_WRITERS, biases=3 * WIDTH),
            **of_attention(keys=WIDTH, values=WIDTH),
            **POSITIONS,
        },
    ),
    "grouped queries with root mean square norms": Case(
        lambda: Block(rms_norm, key_heads=1, has_bias=False, is_causal=True), sequences, POSITIONS
    ),
    "one plus root mean square norm": Case(
        lambda: nn.Sequential(nn.Linear(7, 5), OffsetNorm(5), nn.Linear(5, 4)), partial(vectors, 7), is_offset=True
    ),
    "grouped queries with one plus root mean square norms": Case(
        lambda: Block(OffsetNorm, key_heads=1, has_bias=False, is_causal=True), sequences, POSITIONS, is_offset=True
    ),
    "vit": Case(  # of two blocks: in the first, the class token is the same for all images
        lambda: built(ViTArchitecture(patch=2, **(SIZES | {"depth": 2})), (1, 4, 4), 3),
        image_batches,
        {
            # Writers: patches, class token, positions, and out and down of two blocks; two of them are exchanges.
            **around_norms(2 * (3 * WIDTH + 3) + 3, 5 + 1 + 5 + 2 * (WIDTH + 3 + 2) - 2, biases=5 * WIDTH),
            **of_attention(keys=2 * WIDTH, values=2 * WIDTH),
            "a vector from the bias of patches, or from the class token, to the positions": 2 * WIDTH,
        },
    ),
    "gpt": Case(
        lambda: built(GPTArchitecture(**SIZES), (TOKENS,), VOCABULARY),
        sequences,
        {
            **around_norms(3 * WIDTH + 3, TOKENS + WIDTH + 3 + 2, biases=2 * WIDTH),
            **of_attention(keys=WIDTH, values=WIDTH),
        },
        is_tied=True,
    ),
    "experts": Case(Experts, partial(vectors, 4), {"a vector added to all rows of the gate": 4 + 1}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_dimension_is_that_of_the_null_space(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(1)
    model = case.build().double().eval()
    inputs = case.inputs()
    spec = rc.trace_spec(model, inputs[:2])
    scales = {tensor for linear in spec.folded_symmetry.linear for tensor in linear.required}
    parameters = generic(model, inputs, scales)
    folded = spec.folded_symmetry.dimension + sum(parameters[key].numel() for key in scales)
    assert folded >= spec.symmetry.dimension
    assert case.is_offset == any(linear.zeros for linear in spec.folded_symmetry.linear)
    derived = spec.symmetry.dimension if case.is_tied else folded
    assert null_dimension(model, parameters, inputs) == derived + sum(case.others.values())


def generic(model: nn.Module, inputs: Tensor, scales: Collection[str]) -> dict[str, Tensor]:
    """Return random parameters at which no unit of a rectifier has the same sign on all inputs: it would be linear."""
    same: list[Tensor] = []

    def examine(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        del module, output
        positive = (args[0].movedim(1, -1).flatten(0, -2) > 0).double().mean(0)
        same.append((positive - 0.5).abs().max())

    rectifiers = [module for module in model.modules() if isinstance(module, nn.ReLU | nn.LeakyReLU)]
    handles = [module.register_forward_hook(examine) for module in rectifiers]
    for _ in range(100):
        parameters = {
            key: 1 + 0.3 * torch.randn_like(value) if key in scales else 0.7 * torch.randn_like(value)
            for key, value in model.named_parameters()
        }
        same.clear()
        functional_call(model, parameters, inputs)
        if all(share < 0.47 for share in same):
            break
    for handle in handles:
        handle.remove()
    assert len(same) >= len(rectifiers)
    assert all(share < 0.47 for share in same)
    return {key: value.detach() for key, value in parameters.items()}


def null_dimension(model: nn.Module, parameters: dict[str, Tensor], inputs: Tensor) -> int:
    """Return the dimension of the null space of the Jacobian, whose singular values must have a clear gap."""

    def outputs(values: dict[str, Tensor]) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            found: Tensor = functional_call(model, values, inputs).flatten()
        return found

    jacobian = jacrev(outputs, chunk_size=256)(parameters)
    rows = torch.cat([jacobian[key].flatten(1) for key in parameters], 1)
    assert len(rows) > rows.shape[1]
    values = torch.linalg.svdvals(rows)
    rank = int((values > 1e-11 * values[0]).sum())
    assert values[rank - 1] > 1e-8 * values[0]
    return rows.shape[1] - rank
