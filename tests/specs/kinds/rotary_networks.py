"""Attention with rotary positions, in the forms of several libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HEADS, KEY_HEADS, WIDTH = 4, 2, 4
PARTIAL = 6


def angles(tokens: int, frequencies: Tensor) -> Tensor:
    return torch.arange(tokens, dtype=frequencies.dtype)[:, None] * frequencies


class Rotated(nn.Module):
    """Scores of queries and keys at given positions, by a table of angles or computed from the positions."""

    def __init__(self, *, from_table: bool) -> None:
        super().__init__()
        self.from_table = from_table
        self.query, self.key = nn.Linear(3, WIDTH), nn.Linear(3, WIDTH)
        self.register_buffer("frequencies", torch.tensor([1.0, 0.3]), persistent=False)
        self.register_buffer("table", angles(9, torch.tensor([1.0, 0.3])).repeat(1, 2), persistent=False)

    @override
    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        angle = positions[:, None] * self.get_buffer("frequencies")
        angle = self.get_buffer("table")[positions] if self.from_table else torch.cat((angle, angle), -1)
        cos, sin = angle.cos(), angle.sin()
        query = self._rotate(self.query(x), cos, sin)
        key = self._rotate(self.key(x), cos, sin)
        return query @ key.transpose(-1, -2)

    @staticmethod
    def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        first, second = x.split(WIDTH // 2, -1)
        return torch.cat((-second, first), -1) * sin + cos * x


def rotated_halves(x: Tensor, frequencies: Tensor) -> Tensor:
    """Rotate pairs as Llama does."""
    angle = angles(x.shape[-2], frequencies)
    angle = torch.cat([angle, angle], -1)
    half = x.shape[-1] // 2
    return x * angle.cos() + torch.cat([-x[..., half:], x[..., :half]], -1) * angle.sin()


def both_halves(x: Tensor, frequencies: Tensor) -> Tensor:
    """Rotate pairs as GPT-OSS does."""
    angle = angles(x.shape[-2], frequencies)
    first, second = x.chunk(2, -1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([first * cos - second * sin, cos * second + sin * first], -1)


def partial(x: Tensor, frequencies: Tensor) -> Tensor:
    """Rotate the first units only, as GPT-NeoX does."""
    size = 2 * len(frequencies)
    return torch.cat([rotated_halves(x[..., :size], frequencies), x[..., size:]], -1)


def interleaved(x: Tensor, frequencies: Tensor) -> Tensor:
    """Rotate neighboring units, as GPT-J does."""
    angle = angles(x.shape[-2], frequencies).repeat_interleave(2, -1)
    turned = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
    return x * angle.cos() + turned * angle.sin()


def interleaved_parts(x: Tensor, frequencies: Tensor) -> Tensor:
    """Rotate neighboring units, selected by their positions."""
    angle = angles(x.shape[-2], frequencies)
    cos, sin = angle.cos(), angle.sin()
    first, second = x[..., ::2], x[..., 1::2]
    return torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2)


def reshaped(x: Tensor, frequencies: Tensor) -> Tensor:
    """Rotate neighboring units, as torchtune does."""
    angle = angles(x.shape[-2], frequencies)
    cos, sin = angle.cos(), angle.sin()
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    return torch.stack(
        [pairs[..., 0] * cos - pairs[..., 1] * sin, pairs[..., 1] * cos + pairs[..., 0] * sin], -1
    ).flatten(-2)


def unbound(x: Tensor, frequencies: Tensor) -> Tensor:
    """Rotate neighboring units with equal sines and cosines for both of a pair, as RoFormer does."""
    angle = angles(x.shape[-2], frequencies)
    cos = torch.stack([angle.cos(), angle.cos()], -1).reshape(len(angle), -1)
    sin = torch.stack([angle.sin(), angle.sin()], -1).reshape(len(angle), -1)
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cos + torch.stack([-second, first], -1).reshape_as(x) * sin


def complex_numbers(x: Tensor, frequencies: Tensor) -> Tensor:
    """Rotate neighboring units as complex numbers, as the original code of Llama does."""
    angle = angles(x.shape[-2], frequencies)
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


def partial_neighbors(x: Tensor, frequencies: Tensor) -> Tensor:
    """Rotate the first units only, as GPT-J does."""
    size = 2 * len(frequencies)
    return torch.cat([interleaved(x[..., :size], frequencies), x[..., size:]], -1)


def unequal_neighbors(x: Tensor, frequencies: Tensor) -> Tensor:
    """Use other angles for the second unit of a pair: not a rotation."""
    angle = angles(x.shape[-2], frequencies)
    angle = torch.stack([angle, 2 * angle], -1).flatten(-2)
    turned = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
    return x * angle.cos() + turned * angle.sin()


def conjugated(x: Tensor, frequencies: Tensor) -> Tensor:
    """Multiply the conjugate of a pair: rotations do not commute with it."""
    angle = angles(x.shape[-2], frequencies)
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
    return torch.view_as_real(pairs.conj() * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


def exchanged(x: Tensor, frequencies: Tensor) -> Tensor:
    """Return the rotated neighbors as halves: rotations of other pairs before and after."""
    angle = angles(x.shape[-2], frequencies)
    cos, sin = angle.cos(), angle.sin()
    first, second = x[..., ::2], x[..., 1::2]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def unequal_halves(x: Tensor, frequencies: Tensor) -> Tensor:
    """Use other angles for the second half: not a rotation."""
    angle = angles(x.shape[-2], frequencies)
    angle = torch.cat([angle, 2 * angle], -1)
    half = x.shape[-1] // 2
    return x * angle.cos() + torch.cat([-x[..., half:], x[..., :half]], -1) * angle.sin()


def without_sign(x: Tensor, frequencies: Tensor) -> Tensor:
    """Exchange the halves without a sign: not a rotation."""
    angle = angles(x.shape[-2], frequencies)
    angle = torch.cat([angle, angle], -1)
    half = x.shape[-1] // 2
    return x * angle.cos() + torch.cat([x[..., half:], x[..., :half]], -1) * angle.sin()


def used_halves(x: Tensor, frequencies: Tensor) -> Tensor:
    """Rotate pairs, and use one half of the units a second time."""
    half = x.shape[-1] // 2
    return rotated_halves(x, frequencies) + torch.cat([x[..., :half], 0 * x[..., half:]], -1)


FORMS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    function.__name__: function
    for function in (
        rotated_halves, both_halves, partial, interleaved, interleaved_parts, reshaped, unbound, complex_numbers,
        partial_neighbors, unequal_halves, without_sign, used_halves, unequal_neighbors, conjugated, exchanged,
    )
}  # fmt: skip


class Attention(nn.Module):
    """Grouped queries under rotary positions, on a stream that is an input."""

    def __init__(self, form: str, *, is_normalized: bool = False, layers: int = 1, has_bias: bool = True) -> None:
        super().__init__()
        self.form = FORMS[form]
        self.width = width = PARTIAL if "partial" in form else WIDTH
        self.query = nn.ModuleList(nn.Linear(3, HEADS * width, bias=has_bias) for _ in range(layers))
        self.key = nn.ModuleList(nn.Linear(3, KEY_HEADS * width, bias=has_bias) for _ in range(layers))
        self.scale = nn.ParameterList(torch.rand(width) + 0.5 for _ in range(2 * layers if is_normalized else 0))
        self.value = nn.ModuleList(nn.Linear(3, HEADS * 2, bias=has_bias) for _ in range(layers))
        self.out = nn.ModuleList(nn.Linear(HEADS * 2, 3, bias=has_bias) for _ in range(layers))
        self.register_buffer("frequencies", torch.tensor([1.0, 0.3]), persistent=False)

    @override
    def forward(self, x: Tensor) -> Tensor:
        for layer in range(len(self.query)):
            x = torch.add(x, self._attention(x, layer).tanh())
        return x

    def _attention(self, x: Tensor, layer: int) -> Tensor:
        frequencies = self.get_buffer("frequencies")
        query = self.query[layer](x).unflatten(-1, (HEADS, self.width)).transpose(1, 2)
        key = self.key[layer](x).unflatten(-1, (KEY_HEADS, self.width)).transpose(1, 2)
        value = self.value[layer](x).unflatten(-1, (HEADS, 2)).transpose(1, 2)
        if len(self.scale):
            query = nn.functional.rms_norm(query, (self.width,), eps=0.1) * self.scale[2 * layer]
            key = nn.functional.rms_norm(key, (self.width,), eps=0.1) * self.scale[2 * layer + 1]
        query, key = self.form(query, frequencies), self.form(key, frequencies)
        key = key.repeat_interleave(HEADS // KEY_HEADS, 1)
        weights = (query @ key.transpose(-1, -2)).softmax(-1)
        output: Tensor = self.out[layer]((weights @ value).transpose(1, 2).flatten(2))
        return output
