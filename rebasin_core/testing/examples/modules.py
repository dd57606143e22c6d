"""Small networks with the operators of each built-in family of rules, for the conformance kit."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@final
class Between(nn.Module):
    """A function between two dense layers, whose weights then show the groups of its axes.

    Args:
        inputs: Number of input features.
        width: Number of input features of the function.
        after: Number of output features of the function.
        function: Maps ``[N, width]`` to ``[N, after]``.
    """

    def __init__(self, inputs: int, width: int, after: int, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.last = nn.Linear(after, 2)
        self._function = function

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.last(self._function(self.first(inputs)))
        return output


def modules(name: str) -> Sequence[tuple[nn.Module, Tensor]]:
    """Return networks that use the operators of a family.

    Args:
        name: The name of the family.

    Returns:
        Pairs of a network and its inputs; empty for operators of other libraries.
    """
    state = torch.get_rng_state()
    torch.manual_seed(0)
    try:
        return _MAKERS[name]() if name in _MAKERS else []
    finally:
        torch.set_rng_state(state)


def _vector(width: int, after: int, function: Callable[[Tensor], Tensor]) -> tuple[nn.Module, Tensor]:
    return Between(3, width, after, function), torch.randn(2, 3)


def _attention() -> list[tuple[nn.Module, Tensor]]:
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    return [(nn.Sequential(nn.Linear(3, 8), layer, nn.Linear(8, 2)), torch.randn(2, 5, 3))]


def _contraction() -> list[tuple[nn.Module, Tensor]]:
    return [
        _vector(6, 6, lambda x: torch.einsum("ni,nj->nj", x, x)),
        _vector(6, 36, lambda x: (x[:, :, None] @ x[:, None, :]).flatten(1)),
    ]


def _convolution() -> list[tuple[nn.Module, Tensor]]:
    grouped = nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=4), nn.MaxPool2d(2), nn.PixelShuffle(2),
        nn.ConvTranspose2d(3, 4, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip
    return [(grouped, torch.randn(2, 2, 10, 10))]


def _creation() -> list[tuple[nn.Module, Tensor]]:
    return [
        _vector(6, 6, lambda x: x * torch.ones(6, dtype=x.dtype)),
        _vector(6, 6, lambda x: x.view(-1, 3, 2).mul(torch.arange(3, dtype=x.dtype)[:, None]).flatten(1)),
    ]


def _elementwise() -> list[tuple[nn.Module, Tensor]]:
    return [_vector(6, 3, lambda x: functional.glu(functional.hardswish(x)))]


def _fourier() -> list[tuple[nn.Module, Tensor]]:
    return [_vector(12, 12, lambda x: torch.fft.fft(x.view(-1, 3, 4), dim=2).real.flatten(1))]


def _indexing() -> list[tuple[nn.Module, Tensor]]:
    table = nn.Sequential(nn.Embedding(7, 5), nn.Tanh(), nn.Linear(5, 2))
    return [(table, torch.tensor([[1, 4], [6, 0]])), _vector(12, 8, lambda x: x.view(-1, 3, 4)[:, [2, 0]].flatten(1))]


def _matrix() -> list[tuple[nn.Module, Tensor]]:
    return [
        _vector(8, 8, lambda x: torch.linalg.matrix_exp(x.view(-1, 2, 2, 2)).flatten(1)),
        _vector(18, 2, lambda x: torch.linalg.det(x.view(-1, 2, 3, 3))),
    ]


def _normalization() -> list[tuple[nn.Module, Tensor]]:
    layers = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.GroupNorm(3, 6), nn.InstanceNorm2d(6, affine=True), nn.ReLU(),
        nn.Flatten(2), nn.Linear(36, 5), nn.LayerNorm(5), nn.RMSNorm(5), nn.Linear(5, 2),
    )  # fmt: skip
    return [(layers, torch.randn(2, 2, 8, 8))]


def _pooling() -> list[tuple[nn.Module, Tensor]]:
    return [
        _vector(12, 6, lambda x: functional.max_pool1d(x.view(-1, 3, 4), 2).flatten(1)),
        _vector(12, 24, lambda x: functional.interpolate(x.view(-1, 3, 4), scale_factor=2).flatten(1)),
    ]


@final
class _Recurrent(nn.Module):
    def __init__(self, layer: nn.RNNBase, width: int) -> None:
        super().__init__()
        self.layer = layer
        self.last = nn.Linear(width, 2)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.last(self.layer(inputs)[0])
        return output


def _recurrent() -> list[tuple[nn.Module, Tensor]]:
    inputs = torch.randn(2, 4, 3)
    return [
        (_Recurrent(nn.LSTM(3, 5, num_layers=2, batch_first=True, bidirectional=True), 10), inputs),
        (_Recurrent(nn.LSTM(3, 5, batch_first=True, proj_size=4), 4), inputs),
        (_Recurrent(nn.GRU(3, 5, batch_first=True), 5), inputs),
        (_Recurrent(nn.RNN(3, 5, batch_first=True), 5), inputs),
    ]


def _reduction() -> list[tuple[nn.Module, Tensor]]:
    return [
        _vector(6, 6, lambda x: x.softmax(-1) * x.amax(-1, keepdim=True)),
        _vector(12, 4, lambda x: x.view(-1, 3, 4).cumsum(1).mean(1)),
    ]


def _shape() -> list[tuple[nn.Module, Tensor]]:
    return [
        _vector(12, 12, lambda x: x.view(-1, 3, 4).relu().transpose(1, 2).softmax(1).flatten(1)),
        _vector(3, 6, lambda x: x.repeat(1, 2)),
    ]


def _slicing() -> list[tuple[nn.Module, Tensor]]:
    return [
        _vector(8, 4, lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1].sigmoid()),
        _vector(6, 10, lambda x: functional.pad(x, (1, 3))),
    ]


def _writing() -> list[tuple[nn.Module, Tensor]]:
    rows = torch.tensor([2, 0])
    return [
        _vector(12, 12, lambda x: x.view(-1, 3, 4).index_add(1, rows, x.view(-1, 3, 4)[:, :2]).flatten(1)),
        _vector(12, 12, lambda x: x.view(-1, 3, 4).index_fill(1, rows, 0.5).flatten(1)),
    ]


_MAKERS: dict[str, Callable[[], list[tuple[nn.Module, Tensor]]]] = {
    "attention": _attention,
    "contraction": _contraction,
    "convolution": _convolution,
    "creation": _creation,
    "elementwise": _elementwise,
    "fourier": _fourier,
    "indexing": _indexing,
    "matrix": _matrix,
    "normalization": _normalization,
    "pooling": _pooling,
    "recurrent": _recurrent,
    "reduction": _reduction,
    "shape": _shape,
    "slicing": _slicing,
    "writing": _writing,
}
