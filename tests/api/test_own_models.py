"""Models of users, trained on real data, aligned and measured; losses are compared with those of PyTorch."""

from __future__ import annotations

import codecs
import contextlib
import importlib
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

import rebasin_core as rc

DIGITS = rc.build("dataset", name="digits").load()
IMAGES, LABELS = DIGITS.train.inputs.reshape(-1, 1, 8, 8)[:600], DIGITS.train.targets[:600]


class Segmenter(nn.Module):
    """Labels the pixels of a noisy digit; returns a dictionary, as the models of torchvision."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Conv2d(16, 3, 1)

    @override
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = torch.relu(self.norm(self.first(x)))
        return {"out": self.head(torch.relu(self.second(hidden))), "features": hidden}


class Language(nn.Module):
    """A causal language model of characters with one attention layer."""

    def __init__(self, vocabulary: int, width: int = 32) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(80, width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.mix = nn.Linear(width, width)
        self.up = nn.Linear(width, 64)
        self.down = nn.Linear(64, width)
        self.head = nn.Linear(width, vocabulary)

    @override
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        length = input_ids.shape[1]
        x = self.tokens(input_ids) + self.positions.weight[:length]
        mask = torch.ones(length, length, dtype=torch.bool, device=x.device).tril().unsqueeze(0)
        if attention_mask is not None:
            mask = torch.logical_and(mask, attention_mask.bool().unsqueeze(1))
        scores = self.query(x) @ self.key(x).transpose(1, 2) / x.shape[-1] ** 0.5
        weights = scores.masked_fill(~mask, -1e9).softmax(-1)
        mixed = x + self.mix(weights @ self.value(x))
        return {"logits": self.head(mixed + self.down(torch.relu(self.up(mixed))))}


class Attributes(nn.Module):
    """Three binary labels of a digit; returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.head = nn.Linear(32, 3)

    @override
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(image)
        return features, self.head(features)


class Halves(nn.Module):
    """A classifier of the left and the right half of a digit."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(32, 24), nn.Linear(32, 24)
        self.hidden = nn.Linear(48, 32)
        self.head = nn.Linear(32, 10)

    @override
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        both = torch.cat([torch.relu(self.left(left)), torch.relu(self.right(right))], 1)
        logits: Tensor = self.head(torch.relu(self.hidden(both)))
        return logits


def batched(size: int, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    return list(zip(*(tensor.split(size) for tensor in tensors), strict=True))


def segmentation() -> tuple[Callable[[], nn.Module], list[Any], dict[str, Any], Callable[[nn.Module], Tensor]]:
    stroke = IMAGES[:200, 0] > IMAGES[:200, 0].mean()
    classes = torch.where(stroke, 1 + (LABELS[:200] >= 5).long()[:, None, None], 0)
    classes[:, 0] = -100  # the first row is not labeled
    noise = torch.randn(IMAGES[:200].shape, generator=torch.Generator().manual_seed(0))
    noisy = IMAGES[:200] + 0.3 * noise
    data = [{"x": x, "labels": y} for x, y in batched(40, noisy, classes)]

    def loss(model: nn.Module) -> Tensor:
        return functional.cross_entropy(model(noisy)["out"], classes)

    return Segmenter, data, {"output": "out"}, loss


def language() -> tuple[Callable[[], nn.Module], list[Any], dict[str, Any], Callable[[nn.Module], Tensor]]:
    with contextlib.redirect_stdout(io.StringIO()):
        text = codecs.decode(importlib.import_module("this").s, "rot13")
    lines = [line for line in text.splitlines() if line]
    characters = sorted(set("".join(lines)))
    encoded = [torch.tensor([1 + characters.index(c) for c in line]) for line in lines]
    data = []
    for first in range(0, len(encoded), 5):
        ids = nn.utils.rnn.pad_sequence(encoded[first : first + 5], batch_first=True)
        data.append({"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": ids.where(ids > 0, -100)})
    assert len({batch["input_ids"].shape[1] for batch in data}) > 1

    def loss(model: nn.Module) -> Tensor:
        sums = [
            functional.cross_entropy(model(line[None])["logits"][0, :-1], line[1:], reduction="sum") for line in encoded
        ]
        return torch.stack(sums).sum() / sum(len(line) - 1 for line in encoded)

    likelihood = {"name": "categorical", "next_token": True}
    return lambda: Language(1 + len(characters)), data, {"likelihood": likelihood}, loss


def multi_label() -> tuple[Callable[[], nn.Module], list[Any], dict[str, Any], Callable[[nn.Module], Tensor]]:
    labels = torch.stack([LABELS % 2, LABELS >= 5, (LABELS % 3 == 0).long()], 1)
    data = [{"image": x, "labels": y} for x, y in batched(100, IMAGES, labels)]

    def loss(model: nn.Module) -> Tensor:
        return 3 * functional.binary_cross_entropy_with_logits(model(IMAGES)[1], labels.float())

    return Attributes, data, {"likelihood": nn.BCEWithLogitsLoss(), "output": 1}, loss


def two_inputs() -> tuple[Callable[[], nn.Module], list[Any], dict[str, Any], Callable[[nn.Module], Tensor]]:
    halves = [half.flatten(1) for half in IMAGES.chunk(2, -1)]

    def loss(model: nn.Module) -> Tensor:
        return functional.cross_entropy(model(*halves), LABELS)

    return Halves, batched(100, *halves, LABELS), {}, loss


@pytest.mark.parametrize("case", [segmentation, language, multi_label, two_inputs])
def test_a_model_of_a_user_is_trained_aligned_and_measured(case: Callable[[], Any]) -> None:
    build, data, options, loss = case()
    networks = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = build()
        method = rc.inference.MAPInference(epochs=25, optimizer={"name": "Adam", "lr": 0.01})
        fitted = method.fit(model, data, **options)
        model.load_state_dict({**fitted.posterior.mean, **fitted.posterior.buffers})
        networks.append(model.eval())
        assert fitted.history[-1] < 0.7 * fitted.history[0]
    result = rc.align(networks[0], networks[1], data, matcher="activation", num_points=5, **options)
    assert result.effect is not None
    with torch.no_grad():
        losses = [loss(network).item() for network in networks]
    assert (result.effect.reference, result.effect.candidate) == pytest.approx(losses, rel=1e-4)
    if case is not segmentation:  # whose statistics are recomputed on the data
        curve = result.curves["aligned"]
        assert (curve.loss[0], curve.loss[-1]) == pytest.approx(losses, rel=1e-4)
        task = rc.Task(networks[0], data, **options)
        assert rc.score(networks[0], task).nll == pytest.approx(losses[0], rel=1e-4)
    assert result.helped
    assert result.curves["aligned"].height < result.curves["unaligned"].height
    with torch.no_grad():
        networks[1].load_state_dict({**result.aligned.mean, **result.aligned.buffers})
        assert loss(networks[1]).item() == pytest.approx(losses[1], rel=1e-4)
