"""Networks for tests of `check_spec`: ordinary ones, and some in which a wrong axis is hard to detect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from rebasin_core.architectures import CifarResNetArchitecture, VGGArchitecture

if TYPE_CHECKING:
    from collections.abc import Callable


class Net(nn.Module):
    """A module with named members and a function of them."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], /, **members: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self._function = function
        for name, member in members.items():
            setattr(self, name, member)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self._function(self, x)


def dying(blocks: int) -> nn.Module:
    layers: list[nn.Module] = []
    for block in range(blocks):
        layers += [nn.Conv2d(8 if block else 3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8, affine=False)]
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def deep(activation: type[nn.Module], *, norm: bool, layers: int = 30, width: int = 16) -> nn.Module:
    inner: list[nn.Module] = []
    for _ in range(layers):
        inner += [nn.LayerNorm(width)] if norm else []
        inner += [activation(), nn.Linear(width, width)]
    return nn.Sequential(nn.Linear(5, width), *inner, activation(), nn.Linear(width, 4))


def masked(value: float) -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        y: Tensor = net.b(net.a(x).relu())
        return y.masked_fill(torch.arange(6) == 2, torch.finfo(y.dtype).min if value == 0 else value)

    return Net(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 6))


def two_heads() -> nn.Module:
    return Net(
        lambda net, x: torch.cat([net.b(net.a(x).relu()) * 1e-12, net.d(net.c(x).relu()) * 1e6], 1),
        a=nn.Linear(5, 8), b=nn.Linear(8, 6), c=nn.Linear(5, 7), d=nn.Linear(7, 3),
    )  # fmt: skip


def attention(heads: int = 4, keys: int = 2, width: int = 4) -> nn.Module:
    """Grouped-query attention with a residual stream."""

    def forward(net: Any, x: Tensor) -> Tensor:
        h = net.first(x)
        n, t, _ = h.shape
        q = net.q(h).view(n, t, keys, heads // keys, width).permute(0, 2, 3, 1, 4)
        k = net.k(h).view(n, t, keys, 1, width).permute(0, 2, 3, 1, 4)
        v = net.v(h).view(n, t, keys, 1, width).permute(0, 2, 3, 1, 4)
        mixed = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        h += net.out(mixed.permute(0, 3, 1, 2, 4).reshape(n, t, heads * width))
        output: Tensor = net.last(net.norm(h))
        return output

    return Net(
        forward,
        first=nn.Linear(3, 8), q=nn.Linear(8, heads * width), k=nn.Linear(8, keys * width),
        v=nn.Linear(8, keys * width), out=nn.Linear(heads * width, 8), norm=nn.LayerNorm(8), last=nn.Linear(8, 5),
    )  # fmt: skip


def encoder() -> nn.Module:
    layers = [nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=first) for first in (True, False)]
    return nn.Sequential(nn.Linear(3, 8), *layers, nn.Linear(8, 2))


def recurrent(kind: type[nn.LSTM | nn.GRU]) -> nn.Module:
    return Net(lambda net, x: net.last(net.cell(x)[0]), cell=kind(3, 6, 2, batch_first=True), last=nn.Linear(6, 2))


def language_model(*, mask: bool) -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        h = net.table(x)
        h += net.down(functional.gelu(net.up(net.norm(h))))
        logits = functional.linear(h, net.table.weight)
        return logits.masked_fill(torch.arange(11) < 9, torch.finfo(logits.dtype).min) if mask else logits

    return Net(forward, table=nn.Embedding(11, 8), norm=nn.LayerNorm(8), up=nn.Linear(8, 16), down=nn.Linear(16, 8))


def separable() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU6(), nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6), nn.ReLU6(),
        nn.Conv2d(6, 9, 1), nn.Flatten(), nn.Linear(9 * 16, 4),
    )  # fmt: skip


def squeezed() -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        h = net.conv(x).relu()
        gate = net.up(net.down(h.mean((2, 3))).relu()).sigmoid()
        output: Tensor = net.last((h * gate[:, :, None, None]).mean((2, 3)))
        return output

    return Net(forward, conv=nn.Conv2d(3, 8, 3), down=nn.Linear(8, 4), up=nn.Linear(4, 8), last=nn.Linear(8, 3))


def dense() -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        a = net.a(x).relu()
        b = net.b(torch.cat([x, a], 1)).relu()
        output: Tensor = net.c(torch.cat([x, a, b], 1))
        return output

    return Net(forward, a=nn.Linear(5, 6), b=nn.Linear(11, 6), c=nn.Linear(17, 3))


def variational() -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        h = net.encoder(x).relu()
        mean, log_variance = net.mean(h), net.variance(h)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        output: Tensor = net.decoder(functional.dropout(z, 0.3, training=True))
        return output

    return Net(
        forward, encoder=nn.Linear(5, 8), mean=nn.Linear(8, 6), variance=nn.Linear(8, 6), decoder=nn.Linear(6, 5)
    )


def spectral(*, zero: bool = False) -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        modes = torch.fft.rfft(net.first(x), dim=1)[:, :4]
        mixed = torch.einsum("bmi,iom->bmo", modes, net.weight)
        output: Tensor = net.last(torch.fft.irfft(mixed, n=x.shape[1], dim=1).tanh())
        return output

    weight = torch.zeros(8, 6, 4, dtype=torch.complex64) if zero else torch.randn(8, 6, 4, dtype=torch.complex64)
    return Net(forward, first=nn.Linear(3, 8), weight=nn.Parameter(weight), last=nn.Linear(6, 2))


def logarithmic() -> nn.Module:
    return Net(
        lambda net, x: net.b((net.a(x) * net.scale.log()).tanh()),
        a=nn.Linear(5, 8), b=nn.Linear(8, 3), scale=nn.Parameter(torch.rand(8) + 0.5),
    )  # fmt: skip


def mlp(activation: type[nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, 8), activation(), nn.Linear(8, 8), nn.BatchNorm1d(8), activation(), nn.Linear(8, 3)
    )


ROWS, TOKENS, IMAGES = (4, 5), (2, 6, 3), (2, 3, 6, 6)

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP, ReLU": (lambda: mlp(nn.ReLU), ROWS),
    "MLP, tanh": (lambda: mlp(nn.Tanh), ROWS),
    "8 convolutions with dead units": (lambda: dying(8), IMAGES),
    "residual network": (
        lambda: CifarResNetArchitecture(depth=8).build((3, 8, 8), 4), (2, 3, 8, 8)
    ),
    "VGG": (lambda: VGGArchitecture(depth=11, width=0.1).build((3, 8, 8), 4), (2, 3, 8, 8)),
    "separable convolutions": (separable, (2, 3, 8, 8)),
    "squeeze and excite": (squeezed, IMAGES),
    "dense connections": (dense, ROWS),
    "grouped-query attention": (attention, TOKENS),
    "transformer encoder": (encoder, TOKENS),
    "LSTM": (lambda: recurrent(nn.LSTM), TOKENS),
    "GRU": (lambda: recurrent(nn.GRU), TOKENS),
    "language model, tied": (lambda: language_model(mask=False), ()),
    "language model, masked": (lambda: language_model(mask=True), ()),
    "masked by the lowest float": (lambda: masked(0), ROWS),
    "masked by minus infinity": (lambda: masked(-torch.inf), ROWS),
    "outputs of sizes 1e-12 and 1e6": (two_heads, ROWS),
    "variational autoencoder": (variational, ROWS),
    "complex weights": (spectral, TOKENS),
    "logarithm of a parameter": (logarithmic, ROWS),
    "30 layers, ReLU, layer norm": (lambda: deep(nn.ReLU, norm=True), ROWS),
    "30 layers, tanh": (lambda: deep(nn.Tanh, norm=False), ROWS),
    "30 layers, sigmoid": (lambda: deep(nn.Sigmoid, norm=False), ROWS),
    "30 layers, softsign": (lambda: deep(nn.Softsign, norm=False), ROWS),
}  # fmt: skip


def inputs_of(shape: tuple[int, ...]) -> Tensor:
    """Return random inputs; token indices if the shape is empty."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator) if shape else torch.randint(11, (2, 7), generator=generator)
