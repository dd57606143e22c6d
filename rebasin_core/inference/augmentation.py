"""Random shifts and reflections of training images."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from pydantic import NonNegativeInt
from torch import Tensor
from torch.nn import functional

from rebasin_core.errors import InvalidInputError
from rebasin_core.strategy import Options

if TYPE_CHECKING:
    from rebasin_core.tensors.inputs import AnyInputs


@final
class Augmentation(Options):
    """Random changes of training images, independent for every image and every step.

    They are computed on the device of the network. The likelihood counts every example once: the posterior is that of
    the augmented likelihood, whose number of examples is that of the original data.

    Raises:
        ConfigError: If an option is invalid.

    References:
        K. He, X. Zhang, S. Ren, J. Sun (2016), "Deep residual learning for image recognition", CVPR, arXiv 1512.03385,
        section 4.2 (shifts by up to 4 of 32 pixels, and horizontal flips).

    Examples:
        >>> Augmentation(shift=4, flip=True)
        Augmentation(shift=4, flip=True)
    """

    shift: NonNegativeInt = 0
    """Largest shift along each side, in pixels, uniform among all integers up to it. Pixels that enter are 0: the mean
    of a normalized dataset."""

    flip: bool = False
    """Whether half of the images are reflected from left to right."""

    def __call__(self, images: AnyInputs, generator: torch.Generator) -> Tensor:
        """Return changed images.

        Args:
            images: ``[N, channels, height, width]``.
            generator: Random number generator, on the device of the images.

        Returns:
            Images of the same shape.

        Raises:
            InvalidInputError: If the inputs are not images.
        """
        if not isinstance(images, Tensor) or images.dim() != 4:
            found = f"shape {list(images.shape)}" if isinstance(images, Tensor) else f"several inputs: {images}"
            message = f"expected images [N, channels, height, width] for `augmentation`, got {found}"
            raise InvalidInputError(message)
        count, _, height, width = images.shape
        rows = self._positions(count, height, generator)
        columns = self._positions(count, width, generator)
        if self.flip:
            mirrored = torch.randint(2, (count, 1), generator=generator, device=generator.device).bool()
            columns = torch.where(mirrored, columns.flip(1), columns)
        padded = functional.pad(images, (self.shift,) * 4)
        every = torch.arange(count, device=images.device)[:, None, None]
        # The result of the indexing has the channels last: [N, height, width, channels].
        return padded[every, :, rows[:, :, None], columns[:, None, :]].movedim(3, 1).contiguous()

    def _positions(self, count: int, length: int, generator: torch.Generator) -> Tensor:
        """Return the position in the padded image of each pixel of the result, ``[N, length]``."""
        device = generator.device
        offsets = torch.randint(2 * self.shift + 1, (count, 1), generator=generator, device=device)
        return offsets + torch.arange(length, device=device)
