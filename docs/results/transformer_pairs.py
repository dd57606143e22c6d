"""Small transformers trained from several seeds, for the results on the symmetries of transformers.

    python transformer_pairs.py DATA FOLDER KIND SEED

DATA holds the Fashion-MNIST files and ``tinyshakespeare.txt``. KIND is ``vit`` (Fashion-MNIST in patches of 7 x 7) or
``gpt`` (characters of tinyshakespeare). Both normalize before every layer; the output layer is not tied.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from time import perf_counter
from typing import ClassVar, Literal, final

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

import rebasin_core as rc

CONTEXT = 64


@final
class Block(nn.Module):
    """A transformer block that normalizes before attention and before the two-layer network."""

    def __init__(self, width: int, heads: int, hidden: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    @override
    def forward(self, stream: Tensor) -> Tensor:
        """Return the stream after the block."""
        x = self.norm1(stream)
        batch, tokens, width = x.shape
        q, k, v = (
            layer(x).view(batch, tokens, self.heads, -1).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        stream = self.out(mixed.transpose(1, 2).reshape(batch, tokens, width)) + stream
        return stream + self.down(functional.gelu(self.up(self.norm2(stream))))


@final
class ViT(nn.Module):
    """A vision transformer on 28 x 28 images in patches of 7 x 7; the mean over all tokens is classified."""

    def __init__(self, width: int = 64, depth: int = 4, heads: int = 4, hidden: int = 128) -> None:
        super().__init__()
        self.patches = nn.Linear(49, width)
        self.positions = nn.Parameter(0.02 * torch.randn(16, width))
        self.blocks = nn.ModuleList(Block(width, heads, hidden, causal=False) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``[batch, 10]`` of images ``[batch, 1, 28, 28]``."""
        patches = images.reshape(-1, 4, 7, 4, 7).transpose(2, 3).reshape(-1, 16, 49)
        stream = self.patches(patches) + self.positions
        for block in self.blocks:
            stream = block(stream)
        return self.head(self.norm(stream).mean(1))


@final
class GPT(nn.Module):
    """A character language model."""

    def __init__(
        self, vocabulary: int = 65, width: int = 96, depth: int = 3, heads: int = 4, hidden: int = 384
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(0.02 * torch.randn(CONTEXT, width))
        self.blocks = nn.ModuleList(Block(width, heads, hidden, causal=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores ``[batch, vocabulary, tokens]`` of the next characters."""
        stream = self.tokens(tokens) + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            stream = block(stream)
        return self.head(self.norm(stream)).transpose(1, 2)


@final
class CharacterLikelihood(rc.Likelihood):
    """The mean over the characters of a sequence: logits ``[N, K, T]``, targets ``[N, T]``."""

    targets: ClassVar[Literal["classes"]] = "classes"

    name: Literal["characters"] = "characters"

    @override
    def check(self, outputs: Tensor, targets: Tensor) -> None:
        if outputs.dim() != 3 or targets.shape != (outputs.shape[0], outputs.shape[2]):
            message = f"expected [N, K, T] and [N, T], got {tuple(outputs.shape)} and {tuple(targets.shape)}"
            raise rc.InvalidInputError(message)

    @override
    def log_prob(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return -functional.cross_entropy(outputs, targets, reduction="none").mean(1)

    @override
    def prediction(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(1)

    @override
    def score(self, prediction: Tensor, targets: Tensor) -> Tensor:
        return (prediction.argmax(1) == targets).double().mean(1)

    @property
    @override
    def score_name(self) -> str:
        return "accuracy"


def images(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Return standardized images ``[n, 1, 28, 28]`` and labels of Fashion-MNIST; ``train`` or ``t10k``."""
    raw = gzip.decompress((folder / f"{split}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{split}-labels-idx1-ubyte.gz").read_bytes())
    pixels = torch.from_numpy(np.frombuffer(raw, np.uint8, offset=16).copy()).view(-1, 1, 28, 28)
    return (pixels.float() / 255 - 0.286) / 0.353, torch.from_numpy(
        np.frombuffer(labels, np.uint8, offset=8).copy()
    ).long()


def characters(data: Path) -> tuple[Tensor, Tensor]:
    """Return the first 90 % and the last 10 % of the text, as indices of characters."""
    text = (data / "tinyshakespeare.txt").read_text(encoding="utf-8")
    index = {character: number for number, character in enumerate(sorted(set(text)))}
    encoded = torch.tensor([index[character] for character in text])
    return encoded[: len(text) * 9 // 10], encoded[len(text) * 9 // 10 :]


def sequences(text: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Return sequences and their next characters, both ``[batch, tokens]``."""
    rows = starts.unsqueeze(1) + torch.arange(CONTEXT)
    return text[rows], text[rows + 1]


def train(model: nn.Module, batches: int, draw: object, rate: float) -> None:
    """Train by AdamW with a linear warm-up and a cosine decay."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    warm = batches // 20
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / warm) * 0.5 * (1 + np.cos(np.pi * step / batches)),
    )
    started = perf_counter()
    for step in range(batches):
        inputs, targets = draw()
        loss = functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(f"{step} {loss.item():.3f} {perf_counter() - started:.0f} s", flush=True)


def main(data: Path, folder: Path, kind: str, seed: int) -> None:
    """Train one model and write its parameters."""
    torch.manual_seed(seed)
    if kind == "vit":
        model: nn.Module = ViT()
        inputs, targets = images(data / "fashion_mnist", "train")

        def draw() -> tuple[Tensor, Tensor]:
            rows = torch.randint(len(inputs), (128,))
            return inputs[rows], targets[rows]

        train(model, 4000, draw, 1e-3)
        test, labels = images(data / "fashion_mnist", "t10k")
        with torch.no_grad():
            scores = torch.cat([model(part) for part in test.split(1000)])
        print(f"accuracy {(scores.argmax(1) == labels).float().mean():.4f}")
    else:
        model = GPT()
        text, held_out = characters(data)

        def draw() -> tuple[Tensor, Tensor]:
            return sequences(text, torch.randint(len(text) - CONTEXT - 1, (32,)))

        train(model, 3000, draw, 2e-3)
        with torch.no_grad():
            tokens, following = sequences(held_out, torch.arange(0, len(held_out) - CONTEXT - 1, CONTEXT)[:500])
            print(f"loss {functional.cross_entropy(model(tokens), following):.4f}")
    save_file(dict(model.state_dict()), folder / f"{kind}_{seed}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
