"""Random shifts and reflections of images."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from rebasin_core.errors import ConfigError, InvalidInputError
from rebasin_core.inference import Augmentation, MAPInference


def variants(image: Tensor, shift: int) -> dict[tuple[int, int, bool], Tensor]:
    """Return every shifted and reflected image, by padding and slicing."""
    _, height, width = image.shape
    found = {}
    for down, right, is_mirrored in itertools.product(
        range(-shift, shift + 1), range(-shift, shift + 1), (False, True)
    ):
        canvas = torch.zeros(len(image), height + 2 * shift, width + 2 * shift)
        canvas[:, shift + down : shift + down + height, shift + right : shift + right + width] = image
        shifted = canvas[:, shift : shift + height, shift : shift + width]
        found[down, right, is_mirrored] = shifted.flip(2) if is_mirrored else shifted
    return found


def test_every_shift_and_reflection_is_equally_frequent() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 5, 7, generator=generator)
    possible = variants(image, 1)
    count = 9000
    changed = Augmentation(shift=1, flip=True)(image.expand(count, *image.shape), generator)
    counts = {key: int((changed == other).flatten(1).all(1).sum()) for key, other in possible.items()}
    assert sum(counts.values()) == count
    expected = count / len(possible)
    # 18 cells: the 99.9 % quantile of the chi-squared distribution with 17 degrees of freedom is 40.8.
    assert sum((number - expected) ** 2 / expected for number in counts.values()) < 40.8


def test_no_change_by_default() -> None:
    images = torch.randn(3, 1, 4, 4)
    assert torch.equal(Augmentation()(images, torch.Generator()), images)


def test_images_only() -> None:
    with pytest.raises(
        InvalidInputError, match=r"expected images \[N, channels, height, width\] .* got shape \[8, 3\]"
    ):
        MAPInference(augmentation=Augmentation(shift=1)).check(
            nn.Linear(3, 2), [(torch.zeros(8, 3), torch.zeros(8, dtype=torch.int64))]
        )


def test_negative_shifts() -> None:
    with pytest.raises(ConfigError, match="greater than or equal to 0"):
        Augmentation(shift=-1)


def test_training_sees_changed_images() -> None:
    images = torch.zeros(8, 1, 4, 4)
    images[:, :, 0, 0] = 1
    data = [(images, torch.zeros(8, dtype=torch.int64))]
    seen: list[Tensor] = []

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 2)

        @override
        def forward(self, inputs: Tensor) -> Tensor:
            seen.append(inputs.detach().clone())
            outputs: Tensor = self.layer(inputs.flatten(1))
            return outputs

    MAPInference(epochs=3, augmentation=Augmentation(shift=1)).fit(Watching(), data)
    every = torch.cat([inputs for inputs in seen if inputs.requires_grad or len(inputs) == 8])
    assert not torch.equal(every, images.repeat(len(every) // 8, 1, 1, 1))
    assert set(every.flatten(1).sum(1).tolist()) <= {0.0, 1.0}
